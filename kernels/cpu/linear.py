"""Linear layers of few inputs on a CPU, by the loops of ``linear.h`` in ``direct_conv``'s library.

A library's call takes longer than what the last layers of a small network multiply; here one call
does for all of them. Their bits are those of oneDNN's operator.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn import functional

from dualsmooth.kernels.cpu.compiled import required, vectored
from dualsmooth.kernels.errors import KernelArgumentError

MOST_INPUTS = 512
"""Those that oneDNN sums in one chain, too; the weights of a block stay in the cache."""


def available() -> bool:
    """Whether the loops were built and this processor has AVX-512 or AVX2."""
    return _library() is not None


@dataclass(frozen=True, slots=True)
class Linear:
    """Weight (outputs, inputs) and bias (outputs,) of a layer, float32; whether a ReLU follows."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    relu: bool


class _Layer(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in "inputs outputs weights bias relu".split()]


class LinearChain(torch.nn.Module):
    """Linear layers of at most `MOST_INPUTS` inputs, each of which reads the one before."""

    packed: torch.Tensor

    def __init__(self, layers: Sequence[Linear]) -> None:
        super().__init__()
        self.layers, packed, links, start = tuple(layers), list[torch.Tensor](), list[_Layer](), 0
        for layer in layers:
            outputs, inputs = layer.weight.shape
            if inputs > MOST_INPUTS or (links and inputs != links[-1].outputs):
                rule = f"must have at most {MOST_INPUTS} inputs, those of the layer before"
                raise KernelArgumentError("layers", rule, inputs)
            block = 2 * vectored("direct_conv")[1]
            beyond, bias = -outputs % block, layer.bias
            blocks = functional.pad(layer.weight.detach(), (0, 0, 0, beyond))
            blocks = blocks.view(-1, block, inputs).permute(0, 2, 1)
            biases = torch.zeros(outputs) if bias is None else bias.detach()
            packed += [blocks.flatten(), functional.pad(biases, (0, beyond))]
            places = start, start + blocks.numel()
            links.append(_Layer(inputs, outputs, *places, layer.relu))
            start = places[1] + len(packed[-1])
        self.inputs, self.outputs = links[0].inputs, links[-1].outputs
        self._links, self._between = (_Layer * len(links))(*links), sum(n.outputs for n in links)
        self.register_buffer("packed", torch.cat(packed))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs (rows, outputs) for ``x``, float32 (rows, inputs).

        Each is one chain of fused multiply-adds over the inputs and then the bias, so a row's bits
        do not depend on the other rows or their number.
        """
        if x.ndim != 2 or x.dtype != torch.float32 or x.shape[1] != self.inputs:
            rule = f"must be float32 (rows, {self.inputs})"
            raise KernelArgumentError("x", rule, f"{x.dtype} {tuple(x.shape)}")
        rows, source = len(x), x.contiguous()
        out, scratch = torch.empty(rows, self.outputs), torch.empty(rows * self._between)
        required("direct_conv", _library()).dualsmooth_linear_chain(
            *(self._links, len(self._links), rows),
            *(buffer.data_ptr() for buffer in (self.packed, source, scratch, out)),
        )
        return out


@cache
def _library() -> ctypes.CDLL | None:
    (library, _), count = vectored("direct_conv"), ctypes.c_int64
    chain = getattr(library, "dualsmooth_linear_chain", None)
    if chain is None:
        return None
    chain.argtypes = [ctypes.c_void_p, count, count, *([ctypes.c_void_p] * 4)]
    chain.restype = None
    return library
