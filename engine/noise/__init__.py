"""The noise stream: words, normals, and exact noise on the grid of pixels.

Arguments outside their range raise `ArgumentError`.
"""

from dualsmooth.engine.draws import STREAM_VERSION
from dualsmooth.engine.noise.stream import philox4x32, standard_normal

__all__ = ["STREAM_VERSION", "philox4x32", "standard_normal"]
