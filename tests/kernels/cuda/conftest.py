"""Kernels of CUDA C++ on a processor: their own source, compiled with `host.h`."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dualsmooth.kernels.cuda.stages import Program, Stage

HOST = Path(__file__).with_name("host.h")
FLAGS = ("-std=c++17", "-O2", "-w", "-ffp-contract=off", "-shared", "-fPIC")
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
    """Runs kernels block after block; ``edit`` changes a source, ``order`` the order of warps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[tuple[str, Stage], ctypes.CDLL] = {}
        self.edit: Callable[[str], str] = str
        self.order, self.conflicts = 1, 0

    def launch(
        self, program: Program, stage: Stage, rows: int, *arguments: torch.Tensor | int
    ) -> None:
        """What `stages.launch` does on a device."""
        values = [
            ctypes.c_int(a) if isinstance(a, int) else ctypes.c_void_p(a.data_ptr())
            for a in arguments
        ]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
        run = self._build(program, stage).run
        run.restype = ctypes.c_longlong
        for block in range(-(-rows // stage.images)):
            self.conflicts += run(block, self.order, places)

    def _build(self, program: Program, stage: Stage) -> ctypes.CDLL:
        first, _, rest = program.source.partition("// A whole stage of a CIFAR ResNet on chip")
        assert "mma.sync" in first
        source = self.edit("//" + rest)
        key = source + program.kernel, stage
        if key not in self._made:
            code = self._folder / f"{len(self._made)}.cpp"
            code.write_text(HOST.read_text() + source + ENTRY.replace("KERNEL", program.kernel))
            built = code.with_suffix(".so")
            options = [d for d in stage.definitions if d.startswith("-D")]
            subprocess.run(["g++", *FLAGS, *options, code, "-o", built], check=True)
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
    return libraries
