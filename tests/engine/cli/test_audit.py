"""``dualsmooth audit`` as a user meets it: output and exit codes."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dualsmooth.engine.cli.app import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["dualsmooth", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return int(exit_.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def certified(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    command = [sys.executable, "-m", "dualsmooth.engine.cli.app", "certify", str(tiny_bundle)]
    options = ["--data", "digits", "--n0", "10", "--n", "100", "--max", "6", "--out", str(folder)]
    subprocess.run([*command, *options], check=True, capture_output=True)
    return folder


def test_a_clean_run(run: Run, certified: Path, tiny_bundle: Path) -> None:
    code, out, _ = run("audit", certified)
    assert code == 0
    assert "data digits: images and labels have the recorded digest" in out
    assert "note   bundle not at hand" in out
    assert out.endswith(": clean\n")
    code, out, _ = run("audit", certified, "--bundle", tiny_bundle, "--replay", 0.5, "--choice", 1)
    assert code == 0
    assert "has the recorded digest" in out
    assert "replay: 3 of 6 certificates, choice seed 1" in out


def test_a_forged_run(run: Run, certified: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(certified, tmp_path / "copy")
    log = copy / "certificates.jsonl"
    log.write_text(log.read_text().replace('"n": 100', '"n": 101'))
    code, out, _ = run("audit", copy)
    assert code == 1
    assert "FOUND  certificates.jsonl line 1: checksum does not match" in out
    (copy / "run.json").write_text("{}")
    code, out, _ = run("audit", copy)
    assert code == 1
    assert "FOUND  run.json: " in out


def test_another_bundle_or_other_data(run: Run, certified: Path) -> None:
    code, out, _ = run("audit", certified, "--bundle", "digits-dual")
    assert (code, "FOUND  bundle digits-dual: has another digest" in out) == (1, True)
    code, out, _ = run("audit", certified, "--data", "digits:train")
    assert (code, "other images than those recorded" in out) == (1, True)


def test_bad_usage_is_one_line_and_code_2(run: Run, certified: Path, tmp_path: Path) -> None:
    for arguments, message in (
        ((tmp_path / "absent",), "must be a run folder"),
        ((certified, "--replay", 0.5), "bundle is required by --replay"),
        ((certified, "--bundle", "digits-dual", "--data", "mnist"), "received mnist"),
        ((certified, "--bundle", "nowhere"), "bundle must be"),
    ):
        code, out, err = run("audit", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_an_audit_without_replay_needs_no_torch(certified: Path) -> None:
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name.split('.')[0] != 'torch', 'torch was imported'\n"
        "sys.meta_path.insert(0, Block())\n"
        "from pathlib import Path\n"
        "from dualsmooth.engine.runs.audit import audit\n"
        "from dualsmooth.engine.data.spec import load_images\n"
        f"assert not audit(Path({str(certified)!r}), load_images('digits')).findings\n"
    )
    subprocess.run([sys.executable, "-c", block], check=True)
