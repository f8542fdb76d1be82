"""Larger networks that only benchmarks need.

ResNet-18 and WRN-28-10 for CIFAR, and ResNet-50 for 224x224.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dualsmooth.engine.models.architectures.deep_resnet import Bottleneck
from dualsmooth.engine.models.architectures.resnet import BasicBlock
from dualsmooth.engine.samplers.eager import one_thread


class Pooled(nn.Module):
    """Stages, the mean over pixels, and a linear layer."""

    def __init__(self, stages: nn.Sequential, width: int, classes: int) -> None:
        super().__init__()
        self.stages, self.fc = stages, nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.stages(x).mean((2, 3)))
        return logits


def resnet18_cifar() -> nn.Module:
    """ResNet-18 with a 3x3 stem and 64 to 512 channels, 1.1 GFLOP for 32x32 pixels."""
    layers: list[nn.Module] = [*_convolution(3, 64, 3, 1), nn.ReLU(inplace=True)]
    inputs = 64
    for width in (64, 128, 256, 512):
        for block in range(2):
            layers.append(BasicBlock(inputs, width, 2 if block == 0 and width > 64 else 1))
            inputs = width
    return Pooled(nn.Sequential(*layers), 512, 10)


def resnet50() -> nn.Module:
    """ResNet-50 v1.5 with ten classes, 8.2 GFLOP for 224x224 pixels."""
    layers: list[nn.Module] = [*_convolution(3, 64, 7, 2), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, 2 if block == 0 and width > 64 else 1))
            inputs = 4 * width
    return Pooled(nn.Sequential(*layers), 2048, 10)


class WideBlock(nn.Module):
    """Normalization and ReLU before each of two 3x3 convolutions (Zagoruyko and Komodakis, 2016).

    Where the shape changes the shortcut starts behind the first ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.relu1 = nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut: nn.Module | None = None
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        result: torch.Tensor = self.conv2(self.relu2(self.bn2(self.conv1(y)))) + shortcut
        return result


def wrn_28_10() -> nn.Module:
    """WRN-28-10 for CIFAR, 36.5 million parameters, 10.5 GFLOP for 32x32 pixels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False)]
    inputs = 16
    for width in (160, 320, 640):
        for block in range(4):
            layers.append(WideBlock(inputs, width, 2 if block == 0 and width > 160 else 1))
            inputs = width
    layers += [nn.BatchNorm2d(640), nn.ReLU(inplace=True)]
    return Pooled(nn.Sequential(*layers), 640, 10)


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs)


SIZE, PRODUCTS = 512, 64


def flop_per_vote(network: torch.nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiplications and additions of the convolutions and linear layers for one image."""
    height, width, channels = shape
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, channels, height, width))
    return int(counter.get_total_flops())


class Products:
    """Float32 products of matrices that fit into the cache, by every thread for itself.

    No thread waits for another, as none does in a sampler: one product divided among threads is as
    slow as the slowest of them, which on a busy machine is far below what the processor can do.
    """

    def __init__(self, threads: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.left, self.right = (torch.randn(SIZE, SIZE, generator=generator) for _ in range(2))
        self.outs = [torch.empty(SIZE, SIZE) for _ in range(threads)]
        self.flop = 2 * SIZE**3 * PRODUCTS * threads
        self._pool = ThreadPoolExecutor(threads, initializer=one_thread)

    def __call__(self) -> None:
        list(self._pool.map(self._multiply, self.outs))

    def _multiply(self, out: torch.Tensor) -> None:
        for _ in range(PRODUCTS):
            torch.mm(self.left, self.right, out=out)
