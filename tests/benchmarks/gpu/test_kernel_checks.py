"""The checks of `benchmarks/gpu/kernels.py` at small sizes, and that each notices a fault."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="the kernels need Triton")
if torch.cuda.is_available():
    pytest.skip("run benchmarks/gpu/kernels.py instead", allow_module_level=True)

CPU = torch.device("cpu")


def small(name: str) -> Callable[[], Any]:
    """One check at a size the interpreter can run."""
    from dualsmooth.benchmarks.gpu import kernel_checks as checks
    from dualsmooth.kernels.launch import StemShape

    return {
        "noise": lambda: checks.check_noise(CPU, (5, 7, 3), 3, 2),
        "stem": lambda: checks.check_stem(CPU, StemShape(5, 3, 3, 16, 3, 1), 2, torch.float32),
        "conv": lambda: checks.check_conv(CPU, 16, 32, 4, 2, torch.float16),
        "vote_logits": lambda: checks.check_vote(CPU, 83, 10),
        "resnet_features": lambda: checks.check_resnet(CPU, 1, 4, 3, torch.float32),
    }[name]


SLOW = ("stem", "vote_logits", "resnet_features")
NAMES = ["noise", "conv", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.mark.parametrize("name", NAMES)
def test_checks_pass_on_good_kernels_and_fail_on_faulty_ones(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dualsmooth.benchmarks.gpu import kernel_checks as checks
    from dualsmooth.kernels import ops

    check = small(name)
    assert check()
    owner = checks if name == "resnet_features" else ops
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
    capsys: pytest.CaptureFixture[str],
) -> None:
    from dualsmooth.benchmarks.gpu import kernels as gpu_kernels

    assert gpu_kernels.main(["--checks-only"]) == 0
    assert capsys.readouterr().out == "no CUDA device: nothing checked, nothing timed\n"
