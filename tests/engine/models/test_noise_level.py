from math import inf, log, nan

import pytest
import torch

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.noise_level import NoiseLevel, centers, noise_level
from dualsmooth.engine.models.target import with_target

EDGES = (0.1, 0.2, 0.4, 0.8)


def selector(target: float = 0.25) -> NoiseLevel:
    torch.manual_seed(3)
    return noise_level(edges=EDGES, target_sigma=target, widths=(4,), hidden=8).eval()


def level_is(module: NoiseLevel, value: float) -> None:
    """Make the network say ``value`` whatever it sees."""
    *_, weight, bias = module.network.parameters()
    weight.data.zero_()
    bias.data.fill_(value)


@pytest.mark.parametrize(("level", "expected"), [(0.11, 0), (0.21, 1), (0.39, 1), (0.79, 2)])
def test_votes_go_to_the_bin_of_the_level(level: float, expected: int) -> None:
    module = selector()
    share = log(level / EDGES[0]) / log(EDGES[-1] / EDGES[0])
    level_is(module, log(share / (1 - share)))
    with torch.inference_mode():
        assert module(torch.rand(2, 1, 8, 8)).argmax(1).tolist() == [expected, expected]


def test_a_level_that_is_no_number_is_an_invalid_vote() -> None:
    module = selector()
    level_is(module, nan)
    with torch.inference_mode():
        assert not torch.isfinite(module(torch.rand(1, 1, 8, 8))).any()
        level_is(module, inf)  # the sigmoid clips it
        assert module(torch.rand(1, 1, 8, 8)).argmax(1).tolist() == [2]


def test_levels_stay_between_the_limits_and_carry_gradients() -> None:
    module, x = selector(), torch.rand(5, 1, 8, 8)
    level = module.log_level(x, torch.full((5,), log(0.5)))
    assert (level > log(EDGES[0])).all()
    assert (level < log(EDGES[-1])).all()
    level.sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in module.parameters())
    assert not torch.equal(level, module.log_level(x))


def bundle() -> Bundle:
    kwargs = {"edges": list(EDGES), "target_sigma": 0.25, "widths": [4], "hidden": 8}
    described = network_from_module(selector(), "noise_level", kwargs)
    return Bundle.from_modules({"selector": described, "classifier": torch.nn.Flatten().eval()},
                               num_classes=64, input_shape=(8, 8, 1), sigmas=centers(EDGES),
                               tau=0.8)  # fmt: skip


def test_a_target_makes_another_bundle_with_the_same_weights() -> None:
    one, other = bundle(), with_target(bundle(), 0.5)
    assert other.digest != one.digest
    assert other.digest == with_target(one, 0.5).digest
    assert other.networks["selector"].sha256 == one.networks["selector"].sha256
    x = torch.rand(3, 1, 8, 8)
    levels = [b.build("selector").log_level(x) for b in (one, other)]  # type: ignore[operator]
    assert not torch.equal(*levels)


def test_selectors_without_a_target_refuse_one() -> None:
    plain = Bundle.from_classifier(torch.nn.Flatten().eval(), num_classes=64, input_shape=(8, 8, 1))
    with pytest.raises(ArgumentError, match="target_sigma"):
        with_target(plain, 0.5)
    with pytest.raises(ArgumentError, match="target_sigma"):
        with_target(bundle(), 0.0)


@pytest.mark.parametrize("edges", [(0.5,), (0.0, 1.0), (0.2, 0.1)])
def test_bad_edges_are_refused(edges: tuple[float, ...]) -> None:
    with pytest.raises(ArgumentError, match="edges"):
        noise_level(edges=edges, target_sigma=0.5)
