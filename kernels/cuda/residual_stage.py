"""Host side of the on-chip residual stage: launch choices, weight packing, launch through CuPy."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import torch

from dualsmooth.kernels.checks import expect
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.launch import ConvLaunch
from dualsmooth.kernels.resnet import FoldedBlock, FoldedResNet

SOURCE = Path(__file__).with_name("residual_stage.cu")


@dataclass(frozen=True, slots=True)
class Stage:
    """A launch choice for the stage of ``channels`` on ``size`` x ``size`` pixels.

    A thread block holds ``images``, their rows ``pitch`` pixels apart (at least ``size`` + 2); its
    ``warps`` take units of ``rows`` output rows, ``tiles`` of 8 output channels at once;
    ``resident`` thread blocks share a multiprocessor. Choices differ in speed only: an output is
    the same sum in the same order in all of them.
    """

    channels: int
    size: int
    pitch: int
    images: int
    warps: int
    rows: int
    tiles: int
    resident: int

    @property
    def name(self) -> str:
        """Name in the ahead-of-time checks."""
        return f"cuda stage {self.channels} {self.size}px {self.images} at once"

    @property
    def shared(self) -> int:
        """Bytes of shared memory: two buffers of bf16 images with a halo."""
        return 2 * self.images * (self.size + 2) * self.pitch * self.channels * 2

    @property
    def definitions(self) -> tuple[str, ...]:
        """Compiler options that fix the sizes."""
        sizes = asdict(self).items()
        return (*(f"-D{name.upper()}={value}" for name, value in sizes), "-std=c++17")


STAGES = (
    Stage(16, 32, pitch=40, images=1, warps=8, rows=8, tiles=2, resident=2),
    Stage(32, 16, pitch=24, images=4, warps=8, rows=16, tiles=2, resident=1),
    Stage(32, 16, pitch=24, images=1, warps=4, rows=8, tiles=1, resident=4),
    Stage(64, 8, pitch=16, images=4, warps=8, rows=8, tiles=1, resident=1),
    Stage(64, 8, pitch=16, images=2, warps=8, rows=8, tiles=1, resident=2),
)
"""The stages of CIFAR ResNets, fastest choice first as measured on an H100; the later ones fit
devices with less shared memory."""


def choose_stage(channels: int, size: int, shared: int) -> Stage | None:
    """The fastest choice for a shape that fits ``shared`` bytes per thread block, if there is one.

    Shared memory per block: 227 KB (sm_90, sm_100), 163 KB (sm_80), 99 KB (sm_86, sm_89, sm_120).
    """
    fitting = (s for s in STAGES if (s.channels, s.size) == (channels, size) and s.shared <= shared)
    return next(fitting, None)


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory a thread block may have on a device that can run the stages, or 0.

    They need CuPy, and compute capability 8.0 for bfloat16 products.
    """
    if device.type != "cuda" or find_spec("cupy") is None:
        return 0
    found = torch.cuda.get_device_properties(device)
    shared = getattr(found, "shared_memory_per_block_optin", 0)  # torch's type stubs lack it
    return int(shared) if found.major >= 8 else 0


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


@dataclass(frozen=True, slots=True)
class StageOnChip:
    """Blocks of one shape in sequence, as one kernel; ``packed`` and ``bias`` are their weights."""

    blocks: tuple[FoldedBlock, ...]
    packed: torch.Tensor
    bias: torch.Tensor  # float32 [2 B, C]
    stage: Stage

    @classmethod
    def pack(cls, blocks: Sequence[FoldedBlock], stage: Stage) -> "StageOnChip":
        """Lay out the weights of identity blocks with bfloat16 weights."""
        weights = [w for block in blocks for w in (block.weight1, block.weight2)]
        biases = [b for block in blocks for b in (block.bias1, block.bias2)]
        return cls(tuple(blocks), pack_weights(torch.stack(weights)), torch.stack(biases), stage)

    def __call__(
        self, x: torch.Tensor, *, backend: str = "auto", launch: ConvLaunch | None = None
    ) -> torch.Tensor:
        """Activations [R, S, S, C] after all blocks; other backends run them one by one."""
        if x.is_cuda and backend == "auto":
            return residual_stage(x, self.packed, self.bias, self.stage)
        for block in self.blocks:
            x = block(x, backend=backend, launch=launch)
        return x


def on_chip(network: FoldedResNet, size: int, shared: int) -> FoldedResNet | None:
    """The network with its identity blocks in stages, for square images of ``size`` pixels.

    None where a stage has no launch choice that fits ``shared`` bytes, or weights are not bfloat16.
    """
    layers: list[FoldedBlock | StageOnChip] = []
    folded = [block for block in network.blocks if isinstance(block, FoldedBlock)]
    for alike, group in groupby(folded, lambda block: block.projection is None):
        blocks = list(group)
        size //= 1 if alike else blocks[0].stride
        first = blocks[0].weight1
        stage = choose_stage(first.shape[3], size, shared)
        if not alike:
            layers += blocks
        elif stage is None or first.dtype != torch.bfloat16:
            return None
        else:
            layers.append(StageOnChip.pack(blocks, stage))
    return replace(network, blocks=tuple(layers))


def residual_stage(
    x: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor, stage: Stage
) -> torch.Tensor:
    """Run all identity blocks of a stage on chip; CUDA only, on torch's current stream.

    ``x`` is bfloat16 [R, S, S, C] with the sizes of ``stage``; ``packed`` the `pack_weights` of its
    2 B convolutions in order, ``bias`` float32 [2 B, C]. The result is B blocks of
    relu(x + conv(relu(conv(x)))), rounded to bfloat16 after each convolution.
    """
    size, channels, convs = stage.size, stage.channels, bias.shape[0]
    expect("x", x, (None, size, size, channels), (torch.bfloat16,))
    fragments = (convs, 9, channels // 16, channels // 8, 32, 2, 2)
    expect("packed", packed, fragments, (torch.bfloat16,), device=x.device)
    expect("bias", bias, (convs, channels), (torch.float32,), device=x.device)
    if convs % 2 or not x.is_cuda:
        raise KernelArgumentError("bias", "must hold 2 per block, on a GPU", tuple(bias.shape))
    out = torch.empty_like(x)
    import cupy

    stream = cupy.cuda.Stream.from_external(torch.cuda.current_stream(x.device))
    with cupy.cuda.Device(x.device.index), stream:
        # Shared inside the stream: elsewhere CuPy's own stream would be made to wait for torch's,
        # which a capture forbids.
        views = [cupy.from_dlpack(t.view(torch.int16)) for t in (x, out, packed)]
        _kernel(stage, x.device.index)(
            (-(-len(x) // stage.images),),
            (32 * stage.warps,),
            (*views, cupy.from_dlpack(bias), cupy.int32(len(x)), cupy.int32(convs // 2)),
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
