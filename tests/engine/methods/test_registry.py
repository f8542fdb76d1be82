import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dualsmooth as ds
from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.regions.anchors import Anchors
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import Network, network_from_module
from dualsmooth.engine.models.operating_point import told
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.sources.load import load_bundle


@pytest.fixture(scope="module")
def dual(tiny_bundle: Path) -> Bundle:
    """A selector over three levels and one classifier."""
    return load_bundle(tiny_bundle)


@pytest.fixture(scope="module")
def real_valued() -> Bundle:
    kwargs = {
        "architecture": "small_convnet",
        "kwargs": {"in_channels": 2, "num_classes": 1, "widths": [4], "hidden": 8},
        "levels": [0.1, 0.2, 0.4],
        "target": 0.25,
    }
    module = create("ordered_levels", kwargs).eval()
    networks: dict[str, torch.nn.Module | Network] = {
        "selector": network_from_module(module, "ordered_levels", kwargs),
        "classifier": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval(),
    }
    return Bundle.from_modules(networks, num_classes=10, input_shape=(8, 8, 1),
                               sigmas=(0.1, 0.2, 0.4), tau=0.8)  # fmt: skip


def test_names_say_what_is_deployed(dual: Bundle, real_valued: Bundle, tmp_path: Path) -> None:
    anchors = Anchors(np.zeros((2, 8, 8, 1), np.uint8), [0.12, 0.5])
    anchors.save(tmp_path / "a.npz")
    file = tmp_path / "a.npz"
    made = [
        choose_method(dual),
        choose_method(dual, sigma=0.25, runner_up=True),
        choose_method(dual, method="cascade", threshold=0.7),
        choose_method(dual, method="insta", anchors=file),
        choose_method(dual, method="insta", region="memory"),
        choose_method(dual, method="insta", region="certified"),
        choose_method(dual, method="variational"),
        choose_method(real_valued, method="variational", target_sigma=0.5),
        choose_method(real_valued, method="variational", routing="continuous"),
        choose_method(dual, method="semielastic", sigma=0.25, references="digits:train"),
    ]
    names = [method.name for method in made]
    assert names[:3] == ["dual(median, interval)", "fixed(0.25, runner-up)", "cascade(0.7)"]
    assert names[3] == f"insta(anchor, {anchors.digest})"
    assert names[4] == "insta(memory, multi-start, stateful)"
    assert names[5] == names[0]
    assert names[6] == "variational(discrete, interval)"
    assert names[7] == "variational(discrete, interval, target 0.5)"
    assert names[8] == "variational(continuous, 3 bins)"
    assert names[9].startswith("semielastic(0.25, rate 0.01, 20 nearest, offset 0, references ")


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"method": "median"}, "method"),
        ({"method": "fixed"}, "sigma"),
        ({"method": "fixed", "sigma": 0.25, "threshold": 0.6}, "threshold"),
        ({"method": "cascade", "threshold": 0.4}, "threshold"),
        ({"method": "dual", "sigma": 0.25}, "sigma"),
        ({"method": "insta"}, "anchors"),
        ({"method": "insta", "region": "voronoi"}, "region"),
        ({"method": "insta", "region": "memory", "anchors": Path("a")}, "anchors"),
        ({"method": "insta", "region": "memory", "search": "random"}, "search"),
        ({"method": "variational", "target_sigma": 0.5}, "target_sigma"),
        ({"method": "variational", "routing": "continuous"}, "routing"),
        ({"method": "semielastic", "sigma": 0.25}, "references"),
        ({"method": "semielastic", "references": "digits"}, "sigma"),
    ],
)
def test_options_that_do_not_fit_are_named(
    dual: Bundle, options: dict[str, object], argument: str
) -> None:
    with pytest.raises(ArgumentError) as caught:
        choose_method(dual, **options)  # type: ignore[arg-type]
    assert caught.value.argument == argument


def test_experts_are_refused_where_one_classifier_is_assumed() -> None:
    with pytest.raises(ArgumentError, match="one classifier for every noise level"):
        choose_method(load_bundle("digits-dual"), method="semielastic", sigma=0.25,
                      references="digits:train")  # fmt: skip


def test_a_target_makes_another_bundle_with_the_same_weights(real_valued: Bundle) -> None:
    known = choose_method(real_valued, method="variational", target_sigma=0.5).networks
    assert isinstance(known, Bundle)
    assert known.digest != real_valued.digest
    assert known.digest == told(known, "target_sigma", 0.5).digest
    assert known.networks["selector"].sha256 == real_valued.networks["selector"].sha256
    x = torch.rand(3, 1, 8, 8)
    assert not torch.equal(known.build("selector")(x), real_valued.build("selector")(x))
    with pytest.raises(ArgumentError, match="target_sigma"):
        choose_method(real_valued, method="variational", target_sigma=0.0)


def test_votes_of_a_real_level_need_float32(real_valued: Bundle) -> None:
    method = choose_method(real_valued, method="variational", routing="continuous")
    images = np.zeros((1, 8, 8, 1), np.uint8)
    with pytest.raises(ArgumentError, match="precision must be fp32"):
        certify(method, images, budget=Budget.fixed(5, 20), precision="bf16")
    (made,) = certify(method, images, budget=Budget.fixed(5, 20), precision="fp32")
    assert made.alpha.rule == "sum"


@pytest.mark.parametrize(
    "options",
    [{"method": "semielastic", "sigma": 0.25, "references": "digits:train"}, {"method": "insta"}],
    ids=["semielastic", "insta"],
)
def test_a_level_of_the_image_needs_the_image(
    dual: Bundle, tmp_path: Path, options: dict[str, object]
) -> None:
    if options["method"] == "insta":
        Anchors(np.zeros((1, 8, 8, 1), np.uint8), [0.25]).save(tmp_path / "a.npz")
        options = options | {"anchors": tmp_path / "a.npz"}
    method = choose_method(dual, **options)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^image is needed by (semielastic|insta)"):
        method.certify(Budget.fixed(5, 20), 0.01)
    with pytest.raises(ArgumentError, match=r"^image is needed by (semielastic|insta)"):
        method.predict(20, 0.01)
    method.at(np.zeros((8, 8, 1), np.float32)).certify(Budget.fixed(5, 20), 0.01)


def test_a_zero_is_an_option_that_was_given(dual: Bundle) -> None:
    with pytest.raises(ArgumentError, match=r"^sigma must be a finite number > 0; received 0"):
        choose_method(dual, sigma=0)
    with pytest.raises(ArgumentError, match=r"^threshold belongs to --method cascade; received 0"):
        choose_method(dual, method="dual", threshold=0.0)


@pytest.mark.parametrize("model", ["bundle", "method"])
@pytest.mark.parametrize("of", [ds.certify, ds.predict])
def test_a_keyword_that_nothing_takes_is_named_with_its_function(
    dual: Bundle, of: Callable[..., Any], model: str
) -> None:
    given = dual if model == "bundle" else ds.FixedSmoothing(dual, 0.25)
    for wrong, hint in (
        ("treshold", " did you mean threshold?"), ("batchsize", " did you mean batch_size?"),
        ("options", ""), ("verbose", ""),
    ):  # fmt: skip
        named = f"{of.__name__}() got an unexpected keyword argument {wrong!r}{hint}"
        with pytest.raises(TypeError, match=rf"^{re.escape(named)}$"):
            of(given, "digits", **{wrong: None})
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'labels'$"):
        ds.predict(given, "digits", labels=[1])
