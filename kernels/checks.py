"""Argument checks shared by the kernel wrappers."""

import math
from collections.abc import Sequence

import torch

from dualsmooth.kernels.errors import KernelArgumentError

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def expect(
    name: str,
    tensor: torch.Tensor,
    shape: Sequence[int | None],
    dtypes: Sequence[torch.dtype] = FLOATS,
    *,
    device: torch.device | None = None,
) -> None:
    """Raise unless the tensor is contiguous, of the shape (None: any size), dtype and device."""
    sizes = tuple(tensor.shape)
    if len(sizes) != len(shape) or any(
        want not in (None, size) for want, size in zip(shape, sizes, strict=True)
    ):
        wanted = ", ".join("any" if s is None else str(s) for s in shape)
        raise KernelArgumentError(name, f"must have shape ({wanted})", sizes)
    if tensor.dtype not in dtypes:
        allowed = " or ".join(str(d) for d in dtypes)
        raise KernelArgumentError(name, f"must be {allowed}", str(tensor.dtype))
    if device is not None and tensor.device != device:
        raise KernelArgumentError(name, f"must be on {device}", str(tensor.device))
    if not tensor.is_contiguous():
        hint = "call .contiguous() first"
        raise KernelArgumentError(name, "must be contiguous", tensor.stride(), hint)


def expect_words(name: str, count: int, what: str = "values") -> None:
    """Raise unless a number that device code counts in 32 bits fits there."""
    if count >= 1 << 31:
        raise KernelArgumentError(name, f"must have < 2^31 {what}", count, "use smaller batches")


def expect_convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    residual: torch.Tensor | None,
    shape: Sequence[int],
) -> None:
    """Check what every convolution to outputs of a shape has, and that 32 bits count its sizes."""
    expect("bias", bias, shape[3:], (torch.float32,), device=x.device)
    expect_words("x", math.prod(x.shape[:3]), "pixels")
    expect_words("weight", weight.numel())
    if residual is not None:
        expect("residual", residual, shape, (x.dtype,), device=x.device)


def expect_programs(images: torch.Tensor, programs: int) -> int:
    """The programs of a row, unless they are more than a grid's second axis has on a device."""
    if programs > 65_535:
        rule = "must not be so large: a row would take more than 65,535 programs"
        raise KernelArgumentError("images", rule, tuple(images.shape), "use cuDNN")
    return programs


def runs_kernel(backend: str, tensor: torch.Tensor) -> bool:
    """Whether the Triton kernel runs: always for CUDA tensors, on request in the interpreter."""
    if backend not in ("auto", "triton", "reference"):
        raise KernelArgumentError("backend", "must be auto, triton or reference", backend)
    if backend == "triton" and not tensor.is_cuda:
        from triton import knobs

        if not knobs.runtime.interpret:
            raise KernelArgumentError(
                "backend",
                "must not be triton for CPU tensors",
                backend,
                "set TRITON_INTERPRET=1 before the first import to test kernels on a CPU",
            )
        return True
    return backend != "reference" and tensor.is_cuda
