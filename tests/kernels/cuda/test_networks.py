"""Whole networks behind our noise and first convolution: logits against float64."""

import copy
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dualsmooth.benchmarks.speed import networks
from dualsmooth.engine.models.architectures.deep_resnet import Bottleneck
from dualsmooth.engine.models.architectures.resnet import BasicBlock
from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.samplers.fusion import kernels as convolutions
from dualsmooth.engine.samplers.fusion.cudnn import fuse_for_cudnn
from dualsmooth.engine.samplers.fusion.fold import folded_network
from dualsmooth.engine.samplers.fusion.picked import picked
from dualsmooth.engine.samplers.fusion.stem import Stemmed, take_stem
from dualsmooth.kernels import ops, reference
from dualsmooth.kernels.cuda import tiled_conv
from dualsmooth.kernels.cuda import tiled_stem as module
from dualsmooth.kernels.cuda.tiled_stem import TiledStem, pack_stem, tiled_stem
from dualsmooth.kernels.launch import StemShape
from dualsmooth.kernels.rows import Rows, seed_key
from tests.kernels.cuda.conftest import edited

INTERPRETED = pytest.mark.skipif(torch.cuda.is_available(), reason="in the interpreter")
SIDE, KEY, ROUNDED = 32, seed_key(5), 0.03
ROWS = Rows.pack(
    slot=[0, 1], sigma=[0.25] * 2, stream=[3] * 2, image=[7, 8], sample=[0, 1], segment=[0, 0]
)


def wide_resnet() -> nn.Module:
    """WRN-10-1: the blocks of WRN-28-10, of small width."""
    widths = (16, 16), (16, 32), (32, 64)
    blocks = [networks.WideBlock(*pair, 1 if pair[0] == pair[1] else 2) for pair in widths]
    first = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
    return networks.Pooled(nn.Sequential(first, *blocks, nn.BatchNorm2d(64), nn.ReLU()), 64, 10)


def pooled_network() -> nn.Module:
    """The beginning of a ResNet for ImageNet."""
    begin = Normalize([0.5] * 3, [0.25] * 3), nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64)
    pool = nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Conv2d(64, 16, 3)
    return nn.Sequential(*begin, *pool, nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))


def patched_network() -> nn.Module:
    """The beginning of a vision transformer."""
    begin = Normalize([0.5] * 3, [0.25] * 3), nn.Conv2d(3, 24, 8, 8), nn.Flatten(2)
    return nn.Sequential(*begin, nn.Linear(16, 8), nn.GELU(), nn.Flatten(), nn.Linear(192, 10))


def of_timm(name: str) -> nn.Module:
    timm = pytest.importorskip("timm")
    means = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    sizes = {"img_size": SIDE} if name.startswith(("vit", "deit")) else {}
    return nn.Sequential(means, timm.create_model(name, num_classes=10, **sizes))


Make = Callable[[], nn.Module]
QUICK: dict[str, tuple[Make, int | None]] = {
    "patches": (patched_network, None),
    "pooled": (pooled_network, 3),
    "WRN": (wide_resnet, 0),
}
SLOW: dict[str, tuple[Make, int | None]] = {
    "ResNet-18": (partial(create, "resnet18", {"num_classes": 10}), 3),
    "ResNet-50": (partial(create, "resnet50", {"num_classes": 10}), 3),
    "ResNet-18, CIFAR": (networks.resnet18_cifar, 0),
}
TIMM = {
    "convnext_atto": None,
    "deit_tiny_patch16_224": None,
    "pvt_v2_b0": None,
    "resnext26ts": None,
    "vit_tiny_patch16_224": None,
    "densenet121": 3,
    "efficientnet_b0": 0,
    "mobilenetv2_050": 0,
    "mobilenetv3_small_050": 0,
    "regnetx_002": 0,
    "resnet26d": 0,
    "seresnet18": 3,
    "vgg11_bn": 2,
}
SLOW |= {f"timm {name}": (partial(of_timm, name), pool) for name, pool in TIMM.items()}
CASES = [pytest.param(*case, id=name) for name, case in QUICK.items()]
CASES += [pytest.param(*case, id=name, marks=pytest.mark.slow) for name, case in SLOW.items()]


def noisy() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(2, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(2))
    return images, reference.noise(images, ROWS, KEY).permute(0, 3, 1, 2)


def parts(network: nn.Module, dtype: torch.dtype, pools: bool) -> Stemmed:
    found = take_stem(folded_network(network, torch.float32, (2, SIDE, SIDE, 3)), dtype, pools)
    assert isinstance(found, Stemmed)
    return found


def gap(network: nn.Module, found: Stemmed, activations: torch.Tensor) -> float:
    with torch.no_grad():
        wanted = copy.deepcopy(network).double()(noisy()[1].double())
        logits = found.rest(activations.float().permute(0, 3, 1, 2))
    return float((logits - wanted).abs().max() / wanted.abs().max())


def choice_of(found: Stemmed) -> TiledStem | None:
    kernel, _, colors, outputs = found.stem.weight.shape
    shape = StemShape(SIDE, SIDE, colors, outputs, kernel, found.stride, found.stem.pad)
    return TiledStem.choose(shape, 227 * 1024, found.pool)


def tiled(found: Stemmed, host: Any, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.setattr(module, "launch", host.launch)
    choice = choice_of(found)
    assert choice is not None
    packed = pack_stem(found.stem)
    return tiled_stem(noisy()[0], ROWS, KEY, found.stem, packed, choice, relu=found.relu)


@INTERPRETED
@pytest.mark.parametrize(("make", "pool"), CASES)
def test_a_network_takes_our_stems(
    host: Any, monkeypatch: pytest.MonkeyPatch, make: Make, pool: int | None
) -> None:
    """Triton's in the interpreter, in float32; the tiled one, rounded to bf16, on the processor.

    That one does not have patches (``pool`` None).
    """
    torch.manual_seed(1)
    network = make().eval()
    found = parts(network, torch.float32, pools=False)
    options: Any = {"stride": found.stride, "relu": found.relu, "backend": "triton"}
    assert gap(network, found, ops.stem(noisy()[0], ROWS, KEY, found.stem, **options)) < 1e-4
    found = parts(network, torch.bfloat16, pools=True)
    if pool is None:
        assert choice_of(found) is None
        return
    assert found.pool == pool
    assert gap(network, found, tiled(found, host, monkeypatch)) < ROUNDED


def test_a_pooling_before_the_border_is_known_is_noticed(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    network = pooled_network().eval()
    found = parts(network, torch.bfloat16, pools=True)
    host.edit = edited("? LEAST :", "? 0x41004100u :")
    assert gap(network, found, tiled(found, host, monkeypatch)) > 2 * ROUNDED


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"),
    [("tf_efficientnet_b0", "aten.pad"), ("repvgg_a0", "reads its images more than once")],
)
def test_other_networks_are_told_why_they_are_refused(name: str, reason: str) -> None:
    network = of_timm(name).eval()
    found = take_stem(folded_network(network, torch.float32, (2, SIDE, SIDE, 3)), torch.bfloat16)
    assert isinstance(found, str)
    assert reason in found


def never(calls: object) -> dict[str, float]:
    raise AssertionError("nothing is to be timed")


def behind_our_stem(blocks: list[nn.Module], letters: str, dtype: torch.dtype) -> float:
    """Gap to float64 of a network of blocks, with our stem and the convolutions of the letters."""
    layers = [m for block in blocks for m in block.modules() if isinstance(m, nn.Conv2d)]
    first = nn.Conv2d(3, layers[0].in_channels, 3, 2, 1)
    body = nn.Sequential(first, nn.ReLU(), *blocks)
    network = networks.Pooled(body, layers[-1].out_channels, 10).eval()
    found = parts(network, dtype, pools=False)
    activations = ops.stem(noisy()[0], ROWS, KEY, found.stem, stride=2, relu=found.relu)
    x = activations.permute(0, 3, 1, 2)
    rest = fuse_for_cudnn(found.rest, x.float()).to(dtype)
    made, picks = picked(rest, letters, never, every=True)
    assert picks == letters
    with torch.no_grad():
        wanted = copy.deepcopy(network).double()(noisy()[1].double())
        return float((made(x).double() - wanted).abs().max() / wanted.abs().max())


@INTERPRETED
def test_a_network_takes_our_convolutions_in_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the interpreter, in float32."""
    torch.manual_seed(1)
    product, narrow = (partial(call, backend="triton") for call in (ops.pointwise, ops.conv))
    monkeypatch.setattr(convolutions, "ops", SimpleNamespace(pointwise=product, conv=narrow))
    assert behind_our_stem([Bottleneck(16, 16, 2)], "pptp", torch.float32) < 1e-4


@pytest.mark.parametrize(("letters", "right"), [("ss", True), ("tt", True), ("ss", False)])
def test_a_network_takes_our_convolutions_in_tiles(
    host: Any, monkeypatch: pytest.MonkeyPatch, letters: str, right: bool
) -> None:
    """The last one is wrong: its shortcuts are left out."""
    torch.manual_seed(1)
    monkeypatch.setattr(convolutions, "shared_memory", lambda device: 227 * 1024)
    launch = host.launch if right else partial(without_shortcut, host)
    monkeypatch.setattr(tiled_conv, "launch", launch)
    blocks: list[nn.Module] = [BasicBlock(32, 32, 1), BasicBlock(32, 32, 1)]
    assert (behind_our_stem(blocks, letters, torch.bfloat16) < ROUNDED) is right


def without_shortcut(host: Any, program: Any, choice: Any, rows: int, *given: Any) -> None:
    x, other, *rest = given
    host.launch(program, choice, rows, x, other if other is x else torch.zeros_like(other), *rest)
