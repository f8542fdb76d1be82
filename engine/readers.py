"""Image files, one at a time; whole data sets are read by `dualsmooth.engine.data`."""

from dualsmooth.engine.data.readers import read_image

__all__ = ["read_image"]
