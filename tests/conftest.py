import os
import shutil
import signal
from collections.abc import Callable
from typing import Any

import pytest

# Samplers run one thread per batch; torch's own thread team only slows small test tensors down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # Triton decides when it is first imported whether its functions are compiled or interpreted,
    # and some library may import it before any kernel test does.
    os.environ["TRITON_INTERPRET"] = "1"
torch.set_num_threads(1)

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


Command = Callable[..., tuple[int, str, str]]


def pytest_configure() -> None:
    """A suite that runs in the background ignores Ctrl-C, and its children would, too."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``dualsmooth``; returns exit code, standard output and error. A refusal is one line."""
    from dualsmooth.engine.cli.app import main

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["dualsmooth", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert end.value.code != 2 or (err.count("\n"), len(err) < 3000) == (1, True)
        return int(end.value.code or 0), out, err

    return call


@pytest.fixture(scope="session")
def open_chromium() -> Callable[..., Any]:
    """Start a headless Chromium with flags and capabilities; skipped where there is none."""
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium (extra browser)")
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("needs chromium and chromedriver on the path")

    def opened(*flags: str, **capabilities: object) -> Any:
        options = selenium.ChromeOptions()
        options.binary_location = binary
        for flag in flags:
            options.add_argument(f"--{flag}")
        for name, value in capabilities.items():
            options.set_capability(f"goog:{name}", value)
        return selenium.Chrome(options=options, service=selenium.ChromeService(driver))

    return opened
