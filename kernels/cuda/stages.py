"""On-chip stages: launch choices as data, the kernels that take them, and their launch by CuPy."""

from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from dualsmooth.kernels.checks import expect_words


class Choice(Protocol):
    """A launch choice: a frozen dataclass of sizes."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __hash__(self) -> int:
        """Equal choices make one kernel."""

    @property
    def warps(self) -> int:
        """Of a thread block."""

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a thread block."""

    @property
    def label(self) -> str:
        """Its sizes, for the ahead-of-time checks."""


def definitions(choice: Choice) -> tuple[str, ...]:
    """Compiler options that fix the sizes of a launch choice."""
    sizes = asdict(choice).items()
    return (*(f"-D{name.upper()}={value}" for name, value in sizes), "-std=c++17")


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
    def label(self) -> str:
        """Its sizes, for the ahead-of-time checks."""
        return f"{self.channels} {self.size}px {self.images} at once"

    def blocks(self, rows: int) -> int:
        """Thread blocks for so many images."""
        return -(-rows // self.images)

    @property
    def shared(self) -> int:
        """Bytes of shared memory: two buffers of bf16 images with a halo."""
        return 2 * self.images * (self.size + 2) * self.pitch * self.channels * 2


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


@dataclass(frozen=True, slots=True)
class Program:
    """A kernel: its name, and the files that make its source.

    They are joined, not included: CuPy keeps compiled kernels by the text it is given, and would
    not notice a changed header.
    """

    kernel: str
    label: str
    files: tuple[str, ...]

    @property
    def source(self) -> str:
        """CUDA C++."""
        here = Path(__file__).parent
        return "\n".join((here / f"{name}.cu").read_text() for name in self.files)

    def name(self, choice: Choice) -> str:
        """Name in the ahead-of-time checks."""
        return f"cuda {self.label} {choice.label}"


_STAGE = ("instructions", "taps", "stage")
RESIDUAL = Program("residual_stage", "stage", (*_STAGE, "residual_stage"))
NOISY = Program("noisy_stage", "noisy stage", (*_STAGE, "normals", "strided", "noisy_stage"))
INNER = Program("inner_stage", "inner stage", (*_STAGE, "strided", "inner_stage"))
VOTING = Program("voting_stage", "voting stage", (*_STAGE, "voting_stage"))
_ENDS = {16: NOISY, 32: INNER, 64: VOTING}
PROGRAMS = tuple(
    (program, stage) for stage in STAGES for program in (RESIDUAL, _ENDS[stage.channels])
)
"""What is compiled of the stages."""


def launch(program: Program, choice: Choice, blocks: int, *arguments: torch.Tensor | int) -> None:
    """Run thread blocks of a kernel on torch's current stream; the arguments are its own."""
    for number in (blocks, *(a for a in arguments if isinstance(a, int))):
        expect_words("rows", number, f"thread blocks, and entries that {program.kernel} counts")
    if not blocks:  # an error on a device
        return
    import cupy

    device = next(a.device for a in arguments if isinstance(a, torch.Tensor))
    stream = cupy.cuda.Stream.from_external(torch.cuda.current_stream(device))
    with cupy.cuda.Device(device.index), stream:
        # Shared inside the stream: elsewhere CuPy's own stream would be made to wait for torch's,
        # which a capture forbids.
        passed = [
            cupy.int32(a)
            if isinstance(a, int)
            else cupy.from_dlpack(a.view(torch.int16) if a.dtype == torch.bfloat16 else a)
            for a in arguments
        ]
        _compiled(program, choice, device.index)(
            (blocks,), (32 * choice.warps,), passed, shared_mem=choice.shared
        )


@cache
def _compiled(program: Program, choice: Choice, device: int):
    """A kernel on a device. All are kept: a captured graph would run one that was unloaded."""
    import cupy

    with cupy.cuda.Device(device):
        module = cupy.RawModule(code=program.source, options=definitions(choice))
        kernel = module.get_function(program.kernel)
        kernel.max_dynamic_shared_size_bytes = choice.shared
    return kernel
