"""The checks of `benchmarks/gpu_kernels.py` at small sizes, and that each notices a fault."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton")
if torch.cuda.is_available():
    pytest.skip("run benchmarks/gpu_kernels.py instead", allow_module_level=True)

FOLDER = Path(__file__).parents[2] / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        return import_module("gpu_checks")
    finally:
        sys.path.remove(str(FOLDER))


def small(checks: ModuleType, name: str) -> Callable[[], Any]:
    """One check at a size the interpreter can run."""
    from dualsmooth.kernels.launch import StemShape

    return {
        "noise": lambda: checks.check_noise(CPU, (5, 7, 3), 3, 2),
        "stem": lambda: checks.check_stem(CPU, StemShape(5, 3, 3, 16, 3, 1), 2, torch.float32),
        "conv": lambda: checks.check_conv(CPU, 16, 32, 4, 2, torch.float16),
        "vote_logits": lambda: checks.check_vote(CPU, 83, 10),
        "resnet_features": lambda: checks.check_resnet(CPU, 1, 4, 3, torch.float32),
    }[name]


NAMES = ["noise", "stem", "conv", "vote_logits", "resnet_features"]


@pytest.mark.parametrize("name", NAMES)
def test_checks_pass_on_good_kernels_and_fail_on_faulty_ones(
    name: str, checks: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = small(checks, name)
    assert check()
    owner = checks if name == "resnet_features" else checks.ops
    true = getattr(owner, name)

    def faulty(*args: Any, **options: Any) -> Any:
        if options.get("backend") == "reference":
            return true(*args, **options)
        if name == "vote_logits":
            true(*args, **options)
            args[2][0, 0] += 1  # one vote too many
            return None
        out = true(*args, **options)
        out.flatten()[-1] += 0.1  # one value of the last row
        return out

    monkeypatch.setattr(owner, name, faulty)
    with pytest.raises(checks.CheckFailed):
        check()


def test_without_a_device_the_script_says_so_and_succeeds(
    checks: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    assert import_module("gpu_kernels").main(["--checks-only"]) == 0
    assert capsys.readouterr().out == "no CUDA device: nothing checked, nothing timed\n"
