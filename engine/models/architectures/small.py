"""Small networks for small images, fast on a CPU."""

from collections.abc import Sequence

import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.models.registry import register_architecture


class SmallConvNet(nn.Module):
    """Convolutions of stride 2 with batch norm, then two linear layers.

    Every convolution halves the image, so most of the work is in few large matrix products, which
    is what a CPU does best. Input (n, in_channels, height, width) in [0, 1].
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        image_size: Sequence[int],
        widths: Sequence[int],
        hidden: int,
        normalize: nn.Module,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        layers: list[nn.Module] = []
        (height, width), channels = image_size, in_channels
        for outputs in widths:
            layers += [
                nn.Conv2d(channels, outputs, 3, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            height, width, channels = -(-height // 2), -(-width // 2), outputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(height * width * channels, hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(self.normalize(x)))
        return logits


@register_architecture("small_convnet")
def small_convnet(
    *,
    in_channels: int = 1,
    num_classes: int = 10,
    image_size: Sequence[int] = (8, 8),
    widths: Sequence[int] = (32, 64),
    hidden: int = 128,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> SmallConvNet:
    """Convolutional network for small grey or color images, height and width in pixels.

    Widths are the channels of each stride-2 convolution, and hidden is the linear layer's. Without
    mean and std there is no normalization, which saves a pass over the input.
    """
    _check_sizes(
        in_channels=(in_channels,),
        num_classes=(num_classes,),
        image_size=image_size,
        widths=widths,
        hidden=(hidden,),
    )
    if len(image_size) != 2:
        raise ArgumentError("image_size", "must be (height, width)", tuple(image_size))
    normalize = Normalize(mean, std) if mean or std else nn.Identity()
    return SmallConvNet(in_channels, num_classes, image_size, widths, hidden, normalize)


@register_architecture("lenet")
def lenet(
    *,
    in_channels: int = 1,
    num_classes: int = 10,
    image_size: Sequence[int] = (28, 28),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> nn.Sequential:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, for images of 28x28 pixels or so."""
    _check_sizes(in_channels=(in_channels,), num_classes=(num_classes,), image_size=image_size)
    if len(image_size) != 2 or min(image_size) < 12:
        raise ArgumentError("image_size", "must be (height, width), each >= 12", tuple(image_size))
    height, width = ((side // 2 - 4) // 2 for side in image_size)
    return nn.Sequential(
        Normalize(mean, std) if mean or std else nn.Identity(),
        nn.Conv2d(in_channels, 6, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * height * width, 120),
        nn.ReLU(inplace=True),
        nn.Linear(120, 84),
        nn.ReLU(inplace=True),
        nn.Linear(84, num_classes),
    )


def _check_sizes(**sizes: Sequence[int]) -> None:
    for name, values in sizes.items():
        if not values or not all(type(value) is int and value >= 1 for value in values):
            raise ArgumentError(name, "must hold whole numbers >= 1", values)
