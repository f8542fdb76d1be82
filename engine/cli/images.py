"""Options about images and how networks take them, shared by several commands."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dualsmooth.engine.checks import one_of
from dualsmooth.engine.cli.help import belong, numbers_in, with_parameters
from dualsmooth.engine.errors import ArgumentError

if TYPE_CHECKING:
    from dualsmooth.engine.data.prepare import Prepare
    from dualsmooth.engine.models.bundle import Bundle

PRESETS = ("none", "auto", "imagenet")
_HELP = {
    "preprocess": "none (the picture in the file), auto (as timm, transformers or a ResNet's "
    "training resizes and crops; others have no such record) or imagenet (shorter side 256, the "
    "middle 224, and for exported classifiers ImageNet's mean and std). The image that comes out "
    "is certified. Default: none.",
    "resize": "Size of the shorter side, or HEIGHTxWIDTH.",
    "crop": "Side of the square cut out of the middle.",
    "interpolation": "nearest, bilinear, bicubic or lanczos. Default: bilinear.",
    "background": "Colour to put transparent pixels on, such as white or #808080.",
    "mean": "By which the network wants pixels in [0, 1] normalized, as 0.485,0.456,0.406: for "
    "checkpoints without their own, networks of timm or transformers and exported classifiers.",
    "std": "As --mean.",
}


def with_image_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options, or all, in the place of its ``**options``."""

    def parameter(name: str) -> Parameter:
        kind: Any = int if name == "crop" else str
        option = typer.Option(help=_HELP[name], rich_help_panel="Images")
        annotation = Annotated[kind | None, option]
        return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

    return with_parameters(map(parameter, names or _HELP))


@dataclass(frozen=True)
class ImageOptions:
    """What the options say, None where they were left out."""

    preprocess: str | None = None
    resize: str | None = None
    crop: int | None = None
    interpolation: str | None = None
    background: str | None = None
    mean: str | None = None
    std: str | None = None

    @classmethod
    def take(cls, options: dict[str, Any]) -> "ImageOptions":
        """Take these options out of those of a command."""
        taken = cls(**{name: options.pop(name) for name in _HELP if name in options})
        if taken.preprocess is not None:
            one_of("preprocess", taken.preprocess, PRESETS)
        return taken

    def load(self, source: str, *, trust: bool) -> "Bundle":
        """The bundle, with mean and std where they are given."""
        from dualsmooth.engine.models.sources.load import EXPORTED, load_bundle

        if not source.lower().endswith(".pt2"):
            belong("a .pt2 file", trust_model=trust or None)
        mean = None if self.mean is None else numbers_in("mean", self.mean)
        std = None if self.std is None else numbers_in("std", self.std)
        if self.preprocess == "imagenet" and source.lower().endswith(EXPORTED):
            from dualsmooth.engine.models.sources.constants import IMAGENET

            mean, std = mean or [*IMAGENET["mean"]], std or [*IMAGENET["std"]]
        return load_bundle(source, trust=trust, mean=mean, std=std)

    def prepare(self, bundle: "Bundle | None" = None) -> "Prepare":
        """What is done with images, those of a bundle where there is one."""
        from dualsmooth.engine.data.prepare import AS_STORED, Prepare

        base = AS_STORED
        if self.preprocess == "imagenet":
            base = Prepare(resize=(256,), crop=224)
        elif self.preprocess == "auto":
            if bundle is None or bundle.preparation is None:
                rule = "auto needs a network that says one way: of timm (NAME.TAG, where weights "
                rule += "of NAME differ) or transformers, or a checkpoint of a ResNet"
                hint = "say --resize and --crop"
                raise ArgumentError("preprocess", rule, bundle and bundle.name, hint)
            base = Prepare.of(bundle.preparation)
        resize = Prepare.parse_resize(self.resize) or base.resize
        if not resize:
            belong("--resize or --preprocess", interpolation=self.interpolation)
        return Prepare(
            self.background or "",
            resize,
            base.crop if self.crop is None else self.crop,
            self.interpolation or base.interpolation,
        )
