"""Wrapper of the convolution kernel."""

import torch

from dualsmooth.kernels import reference
from dualsmooth.kernels.checks import expect, expect_convolution, runs_kernel
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.launch import ConvLaunch


def conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    stride: int = 1,
    residual: torch.Tensor | None = None,
    shortcut: tuple[torch.Tensor, torch.Tensor] | None = None,
    relu: bool = True,
    backend: str = "auto",
    launch: ConvLaunch | None = None,
) -> torch.Tensor:
    """relu(conv(x) + bias (+ residual | + 1x1 strided shortcut)), "same" padding, channels-last.

    Parameters
    ----------
    x : float tensor [R, H, W, Cin]
        Input; Cin a power of two >= 16. Not float32 on a GPU where Cin or Cout is above 16: such
        products spill, and compile for a minute.
    weight : tensor [K, K, Cin, Cout] of x's dtype
        K = 1 or 3, Cout a power of two >= 16. Batch norm already folded in.
    bias : float32 tensor [Cout]
        Bias; with a shortcut, the sum of both biases.
    stride : int
        1 or 2; with 2, H and W must be even.
    residual : tensor [R, OH, OW, Cout] of x's dtype, or None
        Identity shortcut, added in float32 before the ReLU.
    shortcut : (tensor [R, s OH, s OW, Cs], tensor [Cs, Cout]) or None
        Projection shortcut with stride s, accumulated into the same float32 sum.
    relu : bool
        Apply the ReLU. NaN stays NaN.
    backend : str
        auto, triton or reference.
    launch : ConvLaunch or None
        Launch choice; None takes `ConvLaunch.choose`.

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
    size, cout = weight.shape[0], weight.shape[-1]
    expect("weight", weight, (size, size, cin, None), (x.dtype,), device=x.device)
    if size not in (1, 3) or any(c < 16 or c & (c - 1) for c in (cin, cout)):
        raise KernelArgumentError(
            "weight", "must be 1x1 or 3x3 with powers of two >= 16 channels", tuple(weight.shape)
        )
    if stride not in (1, 2) or (stride == 2 and (height % 2 or width % 2)):
        raise KernelArgumentError("stride", "must be 1, or 2 on even sizes", stride)
    oh, ow = height // stride, width // stride
    expect_convolution(x, weight, bias, residual, (rows, oh, ow, cout))
    step = _expect_shortcut(shortcut, residual, (rows, oh, ow, cout), x)
    if runs_kernel(backend, x) and x.is_cuda and x.dtype == torch.float32 and max(cin, cout) > 16:
        rule, hint = "must not be float32 on a GPU with more than 16 channels", "use cuDNN"
        raise KernelArgumentError("x", rule, tuple(x.shape), f"it compiles for a minute: {hint}")
    if not runs_kernel(backend, x):
        return reference.conv(
            x, weight, bias, stride=stride, residual=residual, shortcut=shortcut, relu=relu
        ).to(x.dtype)
    from dualsmooth.kernels.triton.conv import conv_kernel

    out = torch.empty((rows, oh, ow, cout), dtype=x.dtype, device=x.device)
    choice = launch or ConvLaunch.choose(cout)
    source, projection = shortcut if shortcut is not None else (x, weight)
    conv_kernel[(-(-rows * oh * ow // choice.pixels),)](
        x,
        weight,
        bias,
        x if residual is None else residual,
        source,
        projection,
        out,
        rows * oh * ow,
        HEIGHT=height,
        WIDTH=width,
        CIN=cin,
        COUT=cout,
        KERNEL=size,
        STRIDE=stride,
        RESIDUAL=residual is not None,
        SOURCE=source.shape[3] if shortcut is not None else 0,
        SOURCE_STRIDE=step,
        RELU=relu,
        PIXELS=choice.pixels,
        num_warps=choice.warps,
        num_stages=1,
        enable_fp_fusion=True,
    )
    return out


def _expect_shortcut(
    shortcut: tuple[torch.Tensor, torch.Tensor] | None,
    residual: torch.Tensor | None,
    shape: tuple[int, int, int, int],
    x: torch.Tensor,
) -> int:
    """Stride of the projection shortcut, after checking it."""
    if shortcut is None:
        return 1
    if residual is not None:
        raise KernelArgumentError("shortcut", "must be None with a residual", "both")
    source, projection = shortcut
    rows, oh, ow, cout = shape
    step = source.shape[1] // oh if source.ndim == 4 else 0
    sizes = (rows, oh * step, ow * step, None)
    expect("shortcut[0]", source, sizes, (x.dtype,), device=x.device)
    channels = source.shape[3]
    expect("shortcut[1]", projection, (channels, cout), (x.dtype,), device=x.device)
    if step not in (1, 2) or channels < 16 or channels & (channels - 1):
        raise KernelArgumentError(
            "shortcut", "must have stride 1 or 2 and a power of two >= 16 channels", sizes
        )
    return step
