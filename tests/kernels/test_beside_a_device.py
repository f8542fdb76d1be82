"""The tests of the kernels on a machine with a device, as far as a machine without one can tell."""

import os
import subprocess
from pathlib import Path

import pytest

from dualsmooth.benchmarks.gpu.checks import KERNELS_TESTS, PYTEST, ROOT

BESIDE = """
import pytest
import torch

torch.cuda.is_available = lambda: True


def pytest_collection_modifyitems(items):
    for item in items:
        if "device" in item.fixturenames:
            item.add_marker(pytest.mark.skip)
"""


@pytest.mark.slow
def test_what_takes_no_device_needs_no_interpreter(tmp_path: Path) -> None:
    """There Triton compiles: a test that hands its kernels tensors of the processor fails."""
    (tmp_path / "beside.py").write_text(BESIDE)
    environment = {name: text for name, text in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [*PYTEST, "-p", "beside", "-n", "0", *KERNELS_TESTS],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
