"""What every recipe trains with: images as tensors, random sources, fresh networks, checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import ArgumentError, reason_of
from dualsmooth.engine.images import as_unit_float
from dualsmooth.engine.models.network import Network, network_from_module
from dualsmooth.engine.models.registry import create
from dualsmooth.engine.train.checkpoints import Checkpoints
from dualsmooth.engine.train.loop import Step

SMALL = "small_convnet"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a `small_convnet`: channels of its convolutions, width of its linear layer."""

    widths: tuple[int, ...]
    hidden: int


def sizes_for(shape: tuple[int, int, int]) -> Sizes:
    """Two convolutions up to 16 pixels, three above: small enough for a CPU."""
    return Sizes((32, 64) if max(shape[:2]) <= 16 else (32, 64, 96), 128)


@dataclass(frozen=True, eq=False)
class TrainingContext:
    """Labelled images and tools of one training run.

    Every network has the registered architecture `network`; `sizes` are those of ``small_convnet``,
    None the ones for these images. `report` gets the name of each step when it is done.
    """

    data: ImageSet
    seed: int = 0
    sizes: Sizes | None = None
    report: Callable[[str], object] = lambda step: None
    checkpoints: Checkpoints = field(default_factory=lambda: Checkpoints(None, {}))
    device: str = "cpu"
    network: str = SMALL

    def __post_init__(self) -> None:
        if not len(self.data) or self.data.labels.min() < 0:
            raise ArgumentError("data", "must be images, all with labels", self.data.name)
        images = torch.from_numpy(as_unit_float(self.data.images)).permute(0, 3, 1, 2)
        if self.network != SMALL:
            _check_reads(self.network, images[:1])
        object.__setattr__(self, "images", images.contiguous().to(self.device))
        object.__setattr__(self, "labels", torch.from_numpy(self.data.labels).to(self.device))

    images: Tensor = field(init=False)
    labels: Tensor = field(init=False)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.data.classes)

    def source(self, network: int, purpose: int) -> Generator:
        """A fresh source of randomness for one purpose of one network."""
        return Generator(self.device).manual_seed(self.seed * 1000 + network * 10 + purpose)

    def step(self, name: str) -> Step:
        """Where a network keeps its state."""
        return Step(name, self.checkpoints)

    def new(self, outputs: int, source: Generator) -> nn.Module:
        """A network with fresh weights; the caller's random state stays as it is."""
        return self.build(*self.architecture(outputs), source)

    def build(self, architecture: str, kwargs: dict[str, object], source: Generator) -> nn.Module:
        """A network of any architecture, with fresh weights."""
        seed = int(torch.randint(1 << 31, (), generator=source, device=source.device))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return create(architecture, kwargs).to(self.device)

    def describe(self, module: nn.Module, outputs: int, *, half: bool = False) -> Network:
        """The network of a bundle; with `half` its weights are rounded to float16."""
        return network_from_module(module, *self.architecture(outputs), half=half)

    def architecture(
        self, outputs: int, further_channels: int = 0
    ) -> tuple[str, dict[str, object]]:
        """Name and keyword arguments of the architecture every network has."""
        if self.network != SMALL:
            return self.network, {"num_classes": outputs}
        height, width, channels = self.data.shape
        sizes = self.sizes or sizes_for(self.data.shape)
        return SMALL, {
            "in_channels": channels + further_channels,
            "num_classes": outputs,
            "image_size": [height, width],
            "widths": list(sizes.widths),
            "hidden": sizes.hidden,
        }


def _check_reads(network: str, image: Tensor) -> None:
    module = create(network, {"num_classes": 2}).eval()
    try:
        with torch.no_grad():
            module(image)
    except RuntimeError as error:
        rule = f"must take images of shape {tuple(image.shape[1:])}"
        raise ArgumentError("network", rule, network, reason_of(error)) from error
