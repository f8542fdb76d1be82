"""Wrapper of the 1x1 convolution as a matrix product."""

import torch

from dualsmooth.kernels import reference
from dualsmooth.kernels.checks import expect, expect_convolution, expect_words, runs_kernel
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.launch import PointwiseLaunch


def pointwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    stride: int = 1,
    residual: torch.Tensor | None = None,
    relu: bool = True,
    backend: str = "auto",
    launch: PointwiseLaunch | None = None,
) -> torch.Tensor:
    """relu(x[:, ::stride, ::stride] @ weight + bias (+ residual)), channels-last.

    Parameters
    ----------
    x : float tensor [R, H, W, Cin]
        Input; Cin a multiple of 16. Not float32 on a GPU: such products spill.
    weight : tensor [Cin, Cout] of x's dtype
        Cout a multiple of 16. Batch norm already folded in.
    bias : float32 tensor [Cout]
        Added to the float32 sum.
    stride : int
        Positive.
    residual : tensor [R, OH, OW, Cout] of x's dtype, or None
        Shortcut, added in float32 before the ReLU.
    relu : bool
        Apply the ReLU. NaN stays NaN.
    backend : str
        auto, triton or reference.
    launch : PointwiseLaunch or None
        Launch choice; None takes the first of `PointwiseLaunch.candidates`.

    Returns
    -------
    tensor [R, OH, OW, Cout] of x's dtype

    Raises
    ------
    KernelArgumentError
        If a shape, dtype, device or range is wrong.
    """
    expect("x", x, (None, None, None, None))
    rows, height, width, cin = x.shape
    expect("weight", weight, (cin, None), (x.dtype,), device=x.device)
    cout = weight.shape[1]
    if cin % 16 or cout % 16 or not cin or not cout:
        rule = "must be [multiple of 16, multiple of 16]"
        raise KernelArgumentError("weight", rule, tuple(weight.shape))
    if stride < 1:
        raise KernelArgumentError("stride", "must be positive", stride)
    shape = rows, (height - 1) // stride + 1, (width - 1) // stride + 1, cout
    expect_convolution(x, weight, bias, residual, shape)
    if not runs_kernel(backend, x):
        options = dict(residual=residual, relu=relu, stride=stride)
        return reference.conv(x, weight[None, None], bias, **options).to(x.dtype)  # type: ignore[arg-type]
    if x.is_cuda and x.dtype == torch.float32:
        raise KernelArgumentError("x", "must not be float32 on a GPU", tuple(x.shape), "use cuDNN")
    from dualsmooth.kernels.triton.pointwise import pointwise_kernel

    choice = launch or PointwiseLaunch.candidates(cin, cout)[0]
    pixels = rows * shape[1] * shape[2]
    programs = -(-pixels // choice.pixels) * (cout // choice.outputs)
    expect_words("x", programs, "programs")
    out = torch.empty(shape, dtype=x.dtype, device=x.device)
    pointwise_kernel[(programs,)](
        x,
        weight,
        bias,
        x if residual is None else residual,
        out,
        pixels,
        HEIGHT=height,
        WIDTH=width,
        CIN=cin,
        COUT=cout,
        STRIDE=stride,
        RESIDUAL=residual is not None,
        RELU=relu,
        PIXELS=choice.pixels,
        OUTPUTS=choice.outputs,
        CHUNK=choice.chunk,
        num_warps=choice.warps,
        num_stages=choice.stages,
        enable_fp_fusion=True,
    )
    return out
