"""ResNets of four stages, 18 to 152 layers, with the parameter names of torchvision.

He et al. 2016, table 1; the stride of a block of three is that of its 3x3 convolution. Cohen et
al.'s ImageNet classifiers are the one of 50 layers. The ``cifar_`` ones, for images of 32x32, are
those of github.com/kuangliu/pytorch-cifar: behind one 3x3 convolution, without pooling.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from dualsmooth.engine.models.architectures.resnet import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    BasicBlock,
    downsampling,
)
from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.models.registry import register_architecture

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks per stage; those of two convolutions up to 34 layers, then of three."""


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsampling(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        result: torch.Tensor = self.relu(out + shortcut)
        return result


class DeepResNet(nn.Module):
    """Four stages of blocks behind a stem that quarters the size of images in [0, 1], or a small
    one that keeps it.
    """

    def __init__(
        self, depth: int, num_classes: int, mean: Sequence[float], std: Sequence[float], small: bool
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        stem = (3, 1, 1) if small else (7, 2, 3)
        self.conv1 = nn.Conv2d(len(mean), 64, *stem, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(64), nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        make, growth = (BasicBlock, 1) if depth < 50 else (Bottleneck, 4)
        inputs, stages = 64, list[nn.Module]()
        for stage, count in enumerate(DEPTHS[depth]):
            width = 64 << stage
            blocks = [make(inputs, width, 1 if stage == 0 else 2)]
            inputs = growth * width
            blocks += [make(inputs, width, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(inputs, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.normalize(x)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: torch.Tensor = self.fc(x.mean((2, 3)))
        return logits


def deep_resnet(
    depth: int, small: bool, /, num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> DeepResNet:
    """ResNet of so many layers: 18, 34, 50, 101 or 152; a small one is for images of 32x32."""
    return DeepResNet(depth, num_classes, mean, std, small)


_IMAGENET: dict[str, Any] = {"num_classes": 1000, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
_CIFAR10: dict[str, Any] = {"num_classes": 10, "mean": CIFAR10_MEAN, "std": CIFAR10_STD}
for _depth in DEPTHS:
    register_architecture(f"resnet{_depth}")(partial(deep_resnet, _depth, False, **_IMAGENET))
    register_architecture(f"cifar_resnet{_depth}")(partial(deep_resnet, _depth, True, **_CIFAR10))
