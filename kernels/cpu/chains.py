"""Chains of convolutions and maxima over maps on a CPU, by the compiled loops of ``chains.h``.

A chain is computed for a few images at a time, so that their maps stay in the cache. What kind of
number a map holds is the affair of `dualsmooth.kernels.cpu.int8_conv` and
`dualsmooth.kernels.cpu.bf16_conv`.
"""

import ctypes
from functools import cache

import torch

from dualsmooth.kernels.cpu.compiled import compiled, required
from dualsmooth.kernels.cpu.maps import Ends, Layer, Layout
from dualsmooth.kernels.errors import KernelArgumentError


class Chain(torch.nn.Module):
    """Steps from images of one shape to the last step's map, by the loops of a library."""

    packed: torch.Tensor

    def __init__(self, name: str, layout: Layout, ends: Ends, images: torch.dtype) -> None:
        super().__init__()
        self._name, self._images, self._ends = name, images, ends
        self.shape, self.result = layout.shapes[0], layout.shapes[-1]
        self.register_buffer("packed", layout.constants())
        self._layers = (Layer * len(layout.layers))(*layout.layers)
        self._rows, self._scratch = layout.group, layout.bytes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps, float32 (rows, outputs, height, width) in channels-last memory; so is ``x``, or
        copied. A row's bits do not depend on the other rows.
        """
        height, width, channels = self.shape
        if x.dtype != self._images or x.shape[1:] != (channels, height, width):
            kind = str(self._images).removeprefix("torch.")
            rule = f"must be {kind} (rows, {channels}, {height}, {width})"
            raise KernelArgumentError("x", rule, f"{x.dtype} {tuple(x.shape)}")
        source = x.permute(0, 2, 3, 1).contiguous()
        scratch = torch.empty(self._scratch, dtype=torch.uint8)
        out = torch.empty(len(x), *self.result)
        library = required(f"{self._name}_conv", library_of(self._name))
        getattr(library, f"dualsmooth_{self._name}_maps")(
            *(ctypes.byref(self._ends), self._layers, len(self._layers), len(x), self._rows),
            *(buffer.data_ptr() for buffer in (self.packed, source, scratch, out)),
        )
        return out.permute(0, 3, 1, 2)


@cache
def library_of(kind: str) -> ctypes.CDLL | None:
    """The compiled loops for maps of a kind, ``int8`` or ``bf16``, if they were built."""
    library = compiled(f"{kind}_conv")
    chain = getattr(library, f"dualsmooth_{kind}_maps", None)
    if chain is None:
        return None
    counts = [ctypes.c_int64] * 3
    chain.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *counts, *([ctypes.c_void_p] * 4)]
    chain.restype = None
    return library
