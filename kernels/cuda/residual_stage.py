"""Host side of the on-chip residual stage: weight packing and launch through CuPy.

Not a default: it becomes one only when it is measured faster than the Triton convolutions.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from dualsmooth.kernels.checks import expect
from dualsmooth.kernels.errors import KernelArgumentError

SOURCE = Path(__file__).with_name("residual_stage.cu")
THREADS = 256


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a CIFAR ResNet: channels, image side, images a thread block holds."""

    channels: int
    size: int
    images: int

    @property
    def name(self) -> str:
        """Name in the ahead-of-time checks."""
        return f"cuda stage {self.channels}"

    @property
    def shared(self) -> int:
        """Bytes of shared memory: two buffers of bf16 images with a halo."""
        return 2 * self.images * (self.size + 2) ** 2 * self.channels * 2

    @property
    def definitions(self) -> tuple[str, ...]:
        """Compiler options that fix the sizes."""
        return (
            f"-DCHANNELS={self.channels}",
            f"-DSIZE={self.size}",
            f"-DIMAGES={self.images}",
            "-std=c++17",
        )


STAGES = (Stage(16, 32, 1), Stage(32, 16, 2), Stage(64, 8, 4))


def pack_weights(weight: torch.Tensor) -> torch.Tensor:
    """Fragments of mma.m16n8k16: [convs, 3, 3, C, C] to bf16 [convs, 9, C/16, C/8, 32, 2, 2].

    Lane l of a fragment holds output channel l // 4 of its tile of 8 and, in register j, input
    channels 8 j + 2 (l % 4) and the next one of its step of 16.
    """
    convs, _, _, channels, outputs = weight.shape
    lane = torch.arange(32, device=weight.device)
    pair = torch.arange(2, device=weight.device)
    k = (lane % 4 * 2)[:, None, None] + 8 * pair[None, :, None] + pair[None, None, :]
    n = (lane // 4)[:, None, None].expand_as(k)
    tiles = weight.bfloat16().reshape(convs, 9, channels // 16, 16, outputs // 8, 8)
    return tiles.permute(0, 1, 2, 4, 3, 5)[..., k, n].contiguous()


def residual_stage(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor, *, images: int | None = None
) -> torch.Tensor:
    """Run all identity blocks of a stage on chip; CUDA only, on torch's current stream.

    ``x`` is bfloat16 [R, S, S, C], (C, S) one of (16, 32), (32, 16), (64, 8); ``packed`` the
    `pack_weights` of its 2 B convolutions in order, ``bias`` float32 [2 B, C]. The result is B
    blocks of relu(x + conv(relu(conv(x)))), rounded to bfloat16 after each convolution. ``images``
    per thread block; None takes the choice in `STAGES`.
    """
    expect("x", x, (None, None, None, None), (torch.bfloat16,))
    rows, size, _, channels = x.shape
    found = [s for s in STAGES if (s.channels, s.size) == (channels, size)]
    if not found or x.shape[2] != size:
        raise KernelArgumentError("x", "must be a stage of a CIFAR ResNet", tuple(x.shape))
    stage = Stage(channels, size, images or found[0].images)
    convs = bias.shape[0]
    fragments = (convs, 9, channels // 16, channels // 8, 32, 2, 2)
    expect("packed", packed, fragments, (torch.bfloat16,), device=x.device)
    expect("bias", bias, (convs, channels), (torch.float32,), device=x.device)
    if convs % 2 or not x.is_cuda:
        raise KernelArgumentError("bias", "must hold 2 per block, on a GPU", tuple(bias.shape))
    out = torch.empty_like(x)
    import cupy

    stream = cupy.cuda.ExternalStream(torch.cuda.current_stream(x.device).cuda_stream)
    with cupy.cuda.Device(x.device.index), stream:
        # Shared inside the stream: elsewhere CuPy's own stream would be made to wait for torch's,
        # which a capture forbids.
        views = [cupy.from_dlpack(t.view(torch.int16)) for t in (x, out, packed)]
        _kernel(stage, x.device.index)(
            (-(-rows // stage.images),),
            (THREADS,),
            (*views, cupy.from_dlpack(bias), cupy.int32(rows), cupy.int32(convs // 2)),
            shared_mem=stage.shared,
        )
    return out


@lru_cache
def _kernel(stage: Stage, device: int):
    """Compiled kernel of a stage on a device, kept alive for captured graphs."""
    import cupy

    with cupy.cuda.Device(device):
        module = cupy.RawModule(code=SOURCE.read_text(), options=stage.definitions)
        kernel = module.get_function("residual_stage")
        kernel.max_dynamic_shared_size_bytes = stage.shared
    return kernel
