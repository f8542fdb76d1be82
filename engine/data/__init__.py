"""Images and labels from what people have."""

from dualsmooth.engine.data.image_set import UNKNOWN_LABEL, ImageSet
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.images import as_unit_float

__all__ = ["UNKNOWN_LABEL", "ImageSet", "as_unit_float", "load_images"]
