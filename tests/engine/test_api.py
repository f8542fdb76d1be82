import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import dualsmooth as ds
from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import SEVERAL
from dualsmooth.engine.methods.cascade import CascadeSmoothing
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.record import read_configuration
from dualsmooth.engine.settings import Settings
from tests.engine.conftest import without_times

RNG = np.random.default_rng(1)
IMAGES = RNG.integers(0, 256, (6, 8, 8, 1), np.uint8)
BUDGET = Budget.fixed(n0=10, n=300)


class Line(torch.nn.Sequential):
    def __init__(self) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 10))


def test_certificates_come_in_the_order_of_the_images(bundle: Bundle) -> None:
    ids = [9, 3, 2**32 - 1, 0, 7, 5]
    certificates = certify(DualSmoothing(bundle), IMAGES, image_ids=ids, budget=BUDGET)
    assert [c.image_id for c in certificates] == ids
    reversed_ = certify(DualSmoothing(bundle), IMAGES[::-1], image_ids=ids[::-1], budget=BUDGET)
    assert without_times(reversed_[::-1]) == without_times(certificates)


ADAPTIVE = [Budget.decide((0.1, 0.3, 0.45), n0=20, n=1500), Budget.precise(0.1, n0=50, n=1500)]


@pytest.mark.parametrize("budget", ADAPTIVE, ids=lambda budget: budget.kind)
def test_slots_and_order_do_not_change_adaptive_budgets(budget: Budget) -> None:
    """With a trained model, whose images need different numbers of votes."""
    method, ids = DualSmoothing(load_bundle("digits-dual")), list(range(8))
    digits = load_images("digits").images[:8]
    alone, together = (
        certify(method, digits, image_ids=ids, budget=budget, slots=slots) for slots in (1, 16)
    )
    reversed_ = certify(method, digits[::-1], image_ids=ids[::-1], budget=budget, slots=3)
    lines = [c.to_json() for c in without_times(alone)]
    assert lines == [c.to_json() for c in without_times(together)]
    assert lines == [c.to_json() for c in without_times(reversed_[::-1])]
    assert len({c.draws for c in alone}) > 1
    assert len({c.radius for c in alone}) > 1


@pytest.mark.parametrize("budget", ADAPTIVE, ids=lambda budget: budget.kind)
def test_adaptive_budgets_never_read_a_sample_twice(bundle: Bundle, budget: Budget) -> None:
    for certificate in certify(DualSmoothing(bundle), IMAGES, budget=budget):
        next_sample: dict[tuple[str, int], int] = {}
        for record in certificate.counts:
            part = record.phase, record.level
            assert record.first == next_sample.get(part, 0)
            next_sample[part] = record.first + record.count


def test_a_certificate_says_how_it_was_made(bundle: Bundle) -> None:
    certificate = certify(
        DualSmoothing(bundle), IMAGES[:1], labels=[3], budget=BUDGET, alpha=0.01, seed=2**63,
        precision="fp32",
    )[0]  # fmt: skip
    assert certificate.label == 3
    assert certificate.seed == 2**63
    assert certificate.bundle == bundle.digest
    assert (certificate.precision, certificate.device) == ("fp32", "cpu")
    assert certificate.batch_size == 1024
    assert certificate.draws == sum(record.count for record in certificate.counts)
    assert all(sum(record.votes) == record.count for record in certificate.counts)
    assert certificate.alpha.total <= 0.01
    assert Certificate.from_json(certificate.to_json()) == certificate


def test_uint8_and_float_images_agree(bundle: Bundle) -> None:
    method = FixedSmoothing(bundle, 0.25)
    floats = IMAGES.astype(np.float32) / np.float32(255)
    from_ints, from_floats = (certify(method, x, budget=BUDGET) for x in (IMAGES, floats))
    assert without_times(from_ints) == without_times(from_floats)


def test_fixed_and_dual_share_votes_at_the_same_level(bundle: Bundle) -> None:
    """Common random numbers: comparisons between methods are paired."""
    dual = certify(DualSmoothing(bundle), IMAGES, budget=BUDGET)
    for level, sigma in enumerate(bundle.sigmas):
        fixed = certify(FixedSmoothing(bundle, sigma), IMAGES, budget=BUDGET)
        for one, other in zip(dual, fixed, strict=True):
            shared = [r for r in one.counts if (r.phase, r.level) == ("CLASS_ESTIMATE", level)]
            assert all(record in other.counts for record in shared)


def test_levels_and_phases_never_share_counters(bundle: Bundle) -> None:
    for certificate in certify(DualSmoothing(bundle), IMAGES, budget=BUDGET):
        parts = [(r.phase, r.level) for r in certificate.counts]
        assert len(set(parts)) == len(parts)


def test_a_module_of_ones_own() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    bundle = Bundle.from_modules({"classifier": network}, num_classes=10, input_shape=(8, 8, 1))
    assert len(certify(FixedSmoothing(bundle, 0.1), IMAGES, budget=BUDGET)) == 6
    with pytest.raises(ArgumentError, match=r"^bundle must have a selector"):
        DualSmoothing(bundle)


def test_an_exported_program_in_memory_is_certified_as_its_network() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    images, rows = IMAGES.astype(np.float32) / 255, {0: torch.export.Dim.AUTO}
    program = torch.export.export(network, (torch.rand(2, 1, 8, 8),), dynamic_shapes=(rows,))
    found, wanted = (
        [certificate.counts for certificate in certify(module, images, sigma=0.5, n=300)]
        for module in (program.module(), network)
    )
    assert found == wanted


def test_bf16_is_its_own_base_classifier(bundle: Bundle) -> None:
    certificate = certify(FixedSmoothing(bundle, 0.25), IMAGES[:1], budget=BUDGET, precision="bf16")
    assert certificate[0].precision == "bf16"


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"images": IMAGES.astype(np.float32)}, "images"),
        ({"images": IMAGES[:, :, :7]}, "images"),
        ({"images": IMAGES.astype(np.int64)}, "images"),
        ({"image_ids": [0, 1, 2, 3, 4, 4]}, "image_ids"),
        ({"image_ids": [0, 1, 2, 3, 4, 2**32]}, "image_ids"),
        ({"image_ids": [0]}, "image_ids"),
        ({"alpha": 0.0}, "alpha"),
        ({"seed": 2**64}, "seed"),
        ({"slots": 0}, "slots"),
        ({"batch_size": 10**9}, "batch_size must be at most"),
        ({"device": "cuda:9"}, "device"),
        ({"budget": "fixed"}, "budget must be a Budget"),
        ({"images": None}, "images must be an array"),
        ({"images": "dgits"}, "images must start with a known kind; received dgits"),
        ({"images": {"x": IMAGES}}, "images must be an array"),
        ({"labels": [0, 0, 0, 0, 0, 10]}, "labels must be below 10, the classes; received 10$"),
    ],
)
def test_bad_arguments(bundle: Bundle, change: dict[str, object], argument: str) -> None:
    arguments = {"images": IMAGES, "budget": BUDGET} | change
    with pytest.raises(ArgumentError, match=f"^{argument}\\b"):
        certify(FixedSmoothing(bundle, 0.25), **arguments)  # type: ignore[arg-type]


def test_what_is_no_list_and_no_name_is_refused_in_words() -> None:
    with pytest.raises(ArgumentError, match=r"radii must be a list of radii; received 0.5"):
        Budget.decide(0.5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="bundle must be a name or a path; received NoneType"):
        load_bundle(None)  # type: ignore[arg-type]


def test_votes_are_given_in_numbers_as_on_the_command_line(bundle: Bundle) -> None:
    given, meant = (
        certify(bundle, IMAGES[:1], sigma=0.5, **votes)
        for votes in ({"n0": 7, "n": 50}, {"budget": Budget.fixed(7, 50)})
    )
    assert without_times(given) == without_times(meant)
    assert [record.count for record in given[0].counts] == [7, 50]
    assert certify(bundle, IMAGES[:1], sigma=0.5, n0=7)[0].draws == 7 + Budget.fixed().n


def test_a_sigma_of_0_to_255_is_told(bundle: Bundle) -> None:
    line = Bundle.from_classifier(Line().eval(), num_classes=10, input_shape=(8, 8, 1))
    with pytest.warns(UserWarning, match=r"sigma is 64 in units .* of 0 \.\. 255 it is 0\.251$"):
        choose_method(line, sigma=64)
    with warnings.catch_warnings(action="error"):
        choose_method(line, sigma=1)


@pytest.mark.parametrize(
    "images",
    [IMAGES / np.float32(255**2), IMAGES / np.float32(255 * 1.5), (IMAGES > 127).astype(np.uint8)],
)
def test_pixels_that_were_scaled_are_told(bundle: Bundle, images: Any) -> None:
    with pytest.warns(
        UserWarning, match=r"images are dark, no pixel is brighter than 0\.[06]\d* of"
    ):
        certify(bundle, np.resize(images, (SEVERAL, *images.shape[1:])), sigma=0.5, n=8)
    with warnings.catch_warnings(action="error"):
        certify(bundle, images[:1], sigma=0.5, n=8)
        certify(bundle, 0 * images, sigma=0.5, n=8)


def test_a_few_dark_images_are_told_only_if_all_but_black(bundle: Bundle) -> None:
    with warnings.catch_warnings(action="error"):
        certify(bundle, IMAGES[:3] // 4, sigma=0.5, n=8)
    with pytest.warns(UserWarning, match="images are dark"):
        certify(bundle, IMAGES[:2] // 16, sigma=0.5, n=8)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Line, r"received the class Line \(pass Line\(\)\)"),
        ({"fc.bias": 1}, r"received dict \(load a state_dict into its module first\)"),
        (lambda x: x.flatten(1).argmax(1), r"must map images .* received \(2,\)"),
        (
            lambda x: (x.flatten(1), x),
            r"tuple of 2 \(logits alone: lambda x: model\(x\)\[0\]",
        ),
    ],
)
def test_what_is_no_network_yet(model: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=f"^model .*{message}"):
        ds.certify(model, IMAGES, sigma=0.25)


def test_a_network_on_another_device_is_told_so_before_it_is_tried() -> None:
    network = Line().eval()
    network.buffers = lambda: iter([SimpleNamespace(device=torch.device("cuda"))])  # type: ignore
    network.forward = lambda x: 1 / 0  # type: ignore[method-assign]
    with pytest.raises(ArgumentError, match=r"^model must be on the CPU; received cuda"):
        ds.certify(network, IMAGES, sigma=0.25)


def test_what_was_meant_otherwise_is_refused_early(bundle: Bundle) -> None:
    images = load_images("digits").images[:1]
    with pytest.raises(ArgumentError, match=r"n must be an integer in .*; received '100'$"):
        ds.certify(bundle, images, n="100")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"alpha must be a real number; received '0.1'"):
        ds.certify(bundle, images, alpha="0.1")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"radii must be a list of radii; received '0.25'"):
        Budget.decide("0.25")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"budget must be a Budget; received 'x'"):
        Settings(budget="x")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"data must be a SPEC, a text; received 5"):
        load_images(5)  # type: ignore[arg-type]
    methods: list[Any] = [DualSmoothing, partial(FixedSmoothing, sigma=0.25), CascadeSmoothing]
    for method in methods:
        with pytest.raises(ArgumentError, match=r"networks must be a bundle.*'digits-dual'$"):
            method("digits-dual")
    summary = ds.certify(bundle, images, n=100, progress=False).summary()
    with pytest.raises(ArgumentError, match=r"radius must be one of 0, 0.25, .*; received 0.3"):
        summary.accuracy(0.3)


def test_numbers_of_numpy_are_numbers(bundle: Bundle) -> None:
    """float32 and int64 ended in a traceback after the last vote, or were refused."""
    numpy: list[Any] = [np.float32(0.5), np.float32(0.125), np.int64(3), np.int64(300)]
    found, wanted = (
        without_times(certify(bundle, IMAGES, sigma=a, alpha=b, seed=c, budget=Budget(c, d, (b,))))
        for a, b, c, d in (numpy, [number.item() for number in numpy])
    )
    assert [one.to_json() for one in found] == [one.to_json() for one in wanted]


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_no_images_give_no_certificates(bundle: Bundle, kind: type) -> None:
    assert not certify(bundle, IMAGES[:0].astype(kind), sigma=0.5, budget=BUDGET)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": [0] * 5}, "^labels must name the classes of 6 images; received 5"),
        ({"labels": [0.5] * 6}, r"^labels must hold integers; received 0.5 at place 0 .*astype"),
        (
            {"labels": [0, "cat"] * 3},
            "^labels must hold integers; received 'cat' at place 1 .*NAMES",
        ),
        ({"image_ids": [0, 1, 2, 3, 4, 5.5]}, "^image_ids must hold integers"),
        ({"image_ids": "abcdef"}, "^image_ids must hold integers"),
        ({"images": IMAGES[0]}, r"^images must have shape .*pass images\[None\]"),
        ({"images": [[0], [0, 1]]}, "^images must be an array of numbers"),
        (
            {"images": ["a.png", "b.png"]},
            "^images must be .* a SPEC as a text; received list .*PIL",
        ),
        ({"images": Path("a.npz")}, "^images must be .*; received PosixPath .*npz:FILE"),
        ({"images": (IMAGES, [0] * 6)}, "^images must be the images alone; .*labels=labels"),
        ({"images": IMAGES.astype(int)}, r"^images must be uint8 .* int64 .*astype\('uint8'\)"),
        ({"images": IMAGES / 255.0 - 2.0}, r"^images must have values in .*\(mean and std belong"),
        ({"n": 5, "n0": 5}, "^n must be left out beside a budget"),
        ({"images": np.ma.masked_less(IMAGES, 9)}, "^images must be a plain array"),
    ],
)
def test_arguments_that_cannot_be_meant(
    bundle: Bundle, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message) as refused:
        certify(DualSmoothing(bundle), **{"images": IMAGES, "budget": BUDGET} | arguments)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


class Closed:
    """An object that no digest covers."""

    def __deepcopy__(self, memo: object) -> "Closed":
        return self

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("closed")


def test_a_run_that_no_digest_names_ends_where_it_stops(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval()
    network.settings = Closed()  # type: ignore[assignment]
    bundle = Bundle.from_classifier(network, num_classes=10, input_shape=(8, 8, 1))
    method, data = FixedSmoothing(bundle, 0.25), load_images("digits")
    settings = Settings(Budget.fixed(10, 20), threads=1)
    certify_run(method, data, [0, 1], settings, tmp_path / "run")
    configuration = read_configuration(tmp_path / "run")
    assert "module.settings, Closed" in str(configuration["bundle_manifest"])
    for options, name in (({"resume": True}, "resume"), ({"reuse": [tmp_path / "run"]}, "reuse")):
        with pytest.raises(ArgumentError, match=f"^{name} needs networks that a digest covers"):
            certify_run(method, data, [0, 1], settings, tmp_path / "next", **options)
    assert not (tmp_path / "next").exists()
