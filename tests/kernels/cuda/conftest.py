"""Kernels of CUDA C++ on a processor: their own source, compiled with `host.h`."""

import ctypes
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dualsmooth.kernels.cuda import stages
from dualsmooth.kernels.cuda.stages import Choice, Program, definitions

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
