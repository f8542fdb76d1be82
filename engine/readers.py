"""Image files, one at a time; whole data sets are read by `dualsmooth.engine.data`."""

from dualsmooth.engine.data.image_files import read_image

__all__ = ["read_image"]
