"""Larger networks that only benchmarks need: ResNet-18 for CIFAR and ResNet-50 for 224x224."""

import torch
from torch import nn

from dualsmooth.engine.models.resnet import BasicBlock


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the stride is the 3x3's (version 1.5)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.branch = nn.Sequential(
            *_convolution(inputs, width, 1, 1), nn.ReLU(inplace=True),
            *_convolution(width, width, 3, stride), nn.ReLU(inplace=True),
            *_convolution(width, outputs, 1, 1),
        )  # fmt: skip
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(*_convolution(inputs, outputs, 1, stride))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        result: torch.Tensor = self.relu(self.branch(x) + shortcut)
        return result


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
    layers: list[nn.Module] = [
        *_convolution(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
    ]  # fmt: skip
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            layers.append(Bottleneck(inputs, width, 2 if block == 0 and width > 64 else 1))
            inputs = 4 * width
    return Pooled(nn.Sequential(*layers), 2048, 10)


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> tuple[nn.Module, nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
    return convolution, nn.BatchNorm2d(outputs)
