"""Wrapper of sum, scale, shift and ReLU in one pass: batch norm that no convolution can take."""

import torch

from dualsmooth.kernels import reference
from dualsmooth.kernels.checks import expect, expect_words, runs_kernel
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.launch import AffineLaunch


def affine(
    x: torch.Tensor,
    scale: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    *,
    other: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    relu: bool = True,
    keep: bool = False,
    backend: str = "auto",
    launch: AffineLaunch | None = None,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """s = x (+ bias) (+ other), y = relu(s * scale + shift), channels-last, in one pass.

    Products and sums are float32 and rounded one by one, so a device, the interpreter and the
    reference give the same bits; y is computed of the rounded s. A value depends on nothing but its
    own place and the constants of its channel.

    Parameters
    ----------
    x : float tensor [..., C]
        Any number of channels and of values.
    scale, shift : float32 tensor [C], or both None
        Of the normalization; without them y is relu(s).
    other : tensor of x's shape and dtype, or None
        What is added.
    bias : float32 tensor [C], or None
        Added to x first.
    relu : bool
        Apply the ReLU. NaN stays NaN.
    keep : bool
        Return s, too.
    backend : str
        auto, triton or reference.
    launch : AffineLaunch or None
        Launch choice; choices differ in speed only.

    Returns
    -------
    tensors of x's shape and dtype
        s, or None without ``keep``, and y.

    Raises
    ------
    KernelArgumentError
        If a shape, dtype, device or range is wrong.
    """
    expect("x", x, (None,) * max(x.ndim, 1))
    channels = x.shape[-1]
    if not channels:
        raise KernelArgumentError("x", "must have channels", tuple(x.shape))
    if (scale is None) != (shift is None):
        raise KernelArgumentError("shift", "must be given with scale, and only then", shift)
    constants = dict(scale=scale, shift=shift, bias=bias)
    for name, constant in constants.items():
        if constant is not None:
            expect(name, constant, (channels,), (torch.float32,), device=x.device)
    if other is not None:
        expect("other", other, x.shape, (x.dtype,), device=x.device)
    if not runs_kernel(backend, x):
        return reference.affine(x, scale, shift, other=other, bias=bias, relu=relu, keep=keep)
    from dualsmooth.kernels.triton.affine import affine_kernel

    choice = launch or AffineLaunch()
    programs = choice.programs(x.numel(), channels)
    expect_words("x", programs, "programs")
    out, total = torch.empty_like(x), torch.empty_like(x) if keep else None
    if programs:
        affine_kernel[(programs,)](
            x,
            *(x if t is None else t for t in (other, bias, scale, shift, total)),
            out,
            x.numel(),
            CHANNELS=channels,
            SUM=other is not None,
            BIAS=bias is not None,
            NORM=scale is not None,
            KEEP=keep,
            RELU=relu,
            WIDTH=choice.width,
            ROWS=choice.rows,
            PERIOD=choice.period(channels),
            num_warps=choice.warps,
            enable_fp_fusion=False,
        )
    return total, out
