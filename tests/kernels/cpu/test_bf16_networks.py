"""Networks in the bfloat16 loops, under an emulation of their instructions."""

import copy
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from dualsmooth.engine import machine
from dualsmooth.engine.cli import doctor
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.architectures.ordered import OrderedScore
from dualsmooth.engine.models.ensemble import Consensus, SoftVoting
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.models.rows import noisy
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.samplers import cpu
from dualsmooth.engine.samplers.cpu import CpuSampler
from dualsmooth.engine.samplers.eager import TorchSampler
from dualsmooth.engine.samplers.fusion.bf16 import Bf16Network, in_bf16_loops
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.kernels.cpu import bf16_conv, chains

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="this PyTorch has no oneDNN",
)

ROWS = 20
Emulate = Callable[..., None]


def built(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    torch.manual_seed(0)
    if name == "digits-dual":
        bundle = load_bundle(name)
        return bundle.build("classifier@0.25"), bundle.input_shape
    if name == "small_convnet":
        return create(name, {"in_channels": 3, "image_size": (11, 9)}).eval(), (11, 9, 3)
    if name == "lenet":
        return create(name, {}).eval(), (28, 28, 1)
    network = create("cifar_resnet20", {}).eval()
    for part in network.modules():  # statistics as if it were trained
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data.uniform_(0.5, 1.5)
            part.bias.data.uniform_(-0.2, 0.2)
    return network, (32, 32, 3)


def errors(network: nn.Module, shape: tuple[int, int, int]) -> tuple[float, float]:
    """Largest distance of the logits from float64's, of the loops and of PyTorch's bfloat16,
    relative to how far logits move.
    """
    rows = noisy(ROWS, shape).bfloat16()
    with torch.inference_mode():
        wanted = network.double()(rows.double())
        network.float()
        loops = in_bf16_loops(network, "it", (ROWS, *shape))(rows).double()
        eager = copy.deepcopy(network).bfloat16()(rows).double()
    size = float((wanted.amax(0) - wanted.amin(0)).max())
    ours, theirs = (float((found - wanted).abs().max()) / size for found in (loops, eager))
    return ours, theirs


@pytest.mark.parametrize("tiles", [True, False], ids=["AMX", "vdpbf16ps"])
@pytest.mark.parametrize("name", ["cifar_resnet20", "small_convnet", "lenet", "digits-dual"])
def test_logits_are_nearer_to_exact_ones_than_pytorchs(
    name: str, tiles: bool, emulated: Emulate
) -> None:
    if not tiles:
        emulated("bf16", "return has_tiles() ? 3 : 1;", "return 1;")
    network, shape = built(name)
    ours, eager = errors(network, shape)
    print(f"{name}: loops {ours:.2g}, PyTorch {eager:.2g}")
    assert ours < min(0.02, 1.1 * eager)


def votes(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], float]:
    """Warnings, and the share of votes that the loops and eager bfloat16 cast alike."""
    monkeypatch.setattr(cpu, "multiplies_bf16", lambda: True)
    network, shape = built(name)
    arguments = ({"it": network}, {"it": 10}, shape)
    segments = [Segment(0, 3, 0.25, 3, first, 1) for first in range(60)]
    found = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for kind in (CpuSampler, TorchSampler):
            sampler = kind(*arguments, seed=5, batch_size=20, threads=1, precision="bf16")
            sampler.load(0, np.full(shape, 0.5, np.float32))
            found.append(sampler.count("it", segments))
            sampler.close()
    return [str(one.message) for one in said], float((found[0] == found[1]).all(1).mean())


def test_the_sampler_votes_by_the_loops(emulated: Emulate, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("digits-dual", "lenet"):
        said, alike = votes(name, monkeypatch)
        assert not said
        assert alike >= 0.9


def test_why_the_loops_are_not_used_is_told(
    emulated: Emulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulated("bf16", "if (l->relu) value", "value")
    said, _ = votes("lenet", monkeypatch)
    assert len(said) == 1
    assert said[0].startswith("network it runs fused: in the bfloat16 loops, ")
    assert "vdpbf16ps gives other results than the definition on whole numbers" in said[0]
    assert "vdpbf16ps gives other" in doctor._bf16_loops()


def test_a_layer_that_has_no_place_is_named(emulated: Emulate) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(8 * 36, 4))
    with pytest.raises(ArgumentError, match=r"network it must consist of .*Sigmoid|sigmoid"):
        in_bf16_loops(network.eval(), "it", (4, 8, 8, 3))


def test_selectors_and_ensembles_are_made_of_loops(emulated: Emulate) -> None:
    members = [built("small_convnet")[0] for _ in range(3)]
    for number, member in enumerate(members):
        for parameter in member.parameters():
            parameter.data += 0.01 * number
    x = noisy(ROWS, (11, 9, 3)).bfloat16()
    wholes = [
        OrderedScore(members[0], [0.1, 0.3], joint=True),
        SoftVoting(members),
        Consensus(members, 2, rows=8),
    ]
    for whole in wholes:
        loops = in_bf16_loops(whole.eval(), "it", (ROWS, 11, 9, 3))
        kinds = [type(part) for part in loops.modules()]
        assert kinds.count(Bf16Network) == (1 if isinstance(whole, OrderedScore) else 3)
        with torch.inference_mode():
            torch.testing.assert_close(loops(x), whole(x.float()), rtol=0.0, atol=0.05)


def test_runs_record_which_loops_were_built(
    emulated: Emulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that votes of another machine are not taken for this one's."""
    plain = machine.machine()["instructions"]
    assert "bf16_loops" not in plain or bf16_conv.available()
    monkeypatch.setattr(machine, "compiled", lambda name: chains.library_of("bf16"))
    assert machine.machine()["instructions"].split()[1] == "bf16_loops=3"
