"""Kernels of CUDA C++ on a processor: their own source, compiled with `host.h`."""

import ctypes
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from dualsmooth.kernels.cuda import stages
from dualsmooth.kernels.cuda.stages import Choice, Program, definitions
from dualsmooth.kernels.folding import fold_stem
from dualsmooth.kernels.resnet import FoldedBlock, FoldedResNet

HOST = Path(__file__).with_name("host.h")
DEVICE = Path(stages.__file__).with_name("instructions.cu")
CHECKED = Path(__file__).with_name("checked.h")
KINDS = ("outside", "misaligned", "unwritten", "race")
"""Faults that `checked.h` counts."""

FLAGS = ("-std=c++17", "-O2", "-w", "-ffp-contract=off", "-fPIC")
ENTRY = """
static void** passed;
extern "C" long long run(int block, int order, void** arguments) {
    passed = arguments;
    blockIdx.x = block;
    conflicts = 0;
    host::run([] { host::call(KERNEL, passed); host::threads[threadIdx.x].state = host::DONE; },
              WARPS * 32, order);
    return conflicts;
}
"""


class Host:
    """Runs kernels block after block; ``edit`` changes a source, ``order`` the order of warps.

    With ``last``, of every launch the last block alone; with ``checked``, ``faults`` counts what
    `checked.h` finds.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[str, Choice, bool], ctypes.CDLL] = {}
        self.checked = self.last = False
        self.faults: Counter[str] = Counter()
        self.edit: Callable[[str], str] = str
        self.order, self.conflicts = 1, 0

    def launch(
        self, program: Program, choice: Choice, blocks: int, *arguments: torch.Tensor | int
    ) -> None:
        """What `stages.launch` does on a device."""
        values = [
            ctypes.c_int(a) if isinstance(a, int) else ctypes.c_void_p(a.data_ptr())
            for a in arguments
        ]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        library = self._build(program, choice)
        library.run.restype = ctypes.c_longlong
        if self.checked:
            library.limit_to(choice.shared)
        for block in range(blocks)[-1:] if self.last else range(blocks):
            self.conflicts += library.run(block, self.order, places)
        if self.checked:
            library.fault.restype = ctypes.c_longlong
            self.faults += Counter({kind: library.fault(i) for i, kind in enumerate(KINDS)})

    def _build(self, program: Program, choice: Choice) -> ctypes.CDLL:
        whole, instructions = program.source, DEVICE.read_text()
        assert whole.startswith(instructions)
        source = self.edit(whole.removeprefix(instructions))
        key = source + program.kernel, choice, self.checked
        if key not in self._made:
            code = self._folder / f"{len(self._made)}.cpp"
            code.write_text(HOST.read_text() + source + ENTRY.replace("KERNEL", program.kernel))
            built = code.with_suffix(".so")
            options = [d for d in definitions(choice) if d.startswith("-D")]
            made = code.with_suffix(".o")
            checks = (
                ["-fsanitize=thread,alignment", f'-DCHECKED="{CHECKED}"'] if self.checked else []
            )
            subprocess.run(["g++", *FLAGS, *checks, *options, "-c", code, "-o", made], check=True)
            subprocess.run(["g++", "-shared", made, "-o", built], check=True)
            self._made[key] = ctypes.CDLL(str(built))
        return self._made[key]


def edited(right: str, wrong: str, number: int | None = None) -> Callable[[str], str]:
    """Puts a text in the place of another in a source: everywhere, or at one place by number."""

    def edit(source: str) -> str:
        first, *rest = source.split(right)
        assert len(rest) > (number or 0)
        between = [wrong if number in (None, i) else right for i in range(len(rest))]
        return first + "".join(a + b for a, b in zip(between, rest, strict=True))

    return edit


def random_network(
    dtype: torch.dtype = torch.bfloat16, blocks: Sequence[int] = (2, 2, 2), colors: int = 3,
    classes: int = 10,
) -> FoldedResNet:  # fmt: skip
    """Stages of 16, 32 and 64 channels."""
    generator = torch.Generator().manual_seed(3)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    layers = []
    for (cin, cout), count in zip(((16, 16), (16, 32), (32, 64)), blocks, strict=True):
        for i in range(count):
            new, first = i == 0 and cin != cout, cin if i == 0 else cout
            projection = (normal(cin, cout) / cin**0.5).to(dtype) if new else None
            weights = [(normal(3, 3, c, cout) / (3 * c**0.5)).to(dtype) for c in (first, cout)]
            parts = (weights[0], normal(cout), weights[1], normal(cout))
            layers.append(FoldedBlock(*parts, projection, 2 if new else 1))
    mean, std = torch.full((colors,), 0.45), torch.full((colors,), 0.25)
    stem = fold_stem(normal(3, 3, colors, 16) / 5, normal(16), mean, std, dtype=dtype)
    head = (normal(64, classes) / 8).to(dtype)
    return FoldedResNet(stem, tuple(layers), head, normal(classes))


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Host:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    return Host(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def host(libraries: Host) -> Host:
    """Sources as they are, warps in order."""
    libraries.edit, libraries.order, libraries.conflicts = str, 1, 0
    libraries.checked, libraries.last, libraries.faults = False, False, Counter()
    return libraries
