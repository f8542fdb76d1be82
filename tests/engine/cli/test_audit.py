"""``dualsmooth audit`` as a user meets it: output and exit codes."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dualsmooth.engine.cli.app import main
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.methods.regions.anchors import Anchors
from dualsmooth.engine.records import digest_of
from dualsmooth.engine.runs.log import read_log

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
    command = [sys.executable, "-m", "dualsmooth", "certify", str(tiny_bundle)]
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


def test_what_is_on_trust_has_its_own_exit_code(
    run: Run, tiny_bundle: Path, tmp_path: Path
) -> None:
    anchors, out = tmp_path / "anchors.npz", tmp_path / "run"
    Anchors(load_images("digits:train").images[:30], [0.12, 0.5] * 15).save(anchors)
    options = ("--data", "digits", "--n0", 10, "--n", 100, "--max", 4, "--out", out)
    assert run("certify", tiny_bundle, "--method", "insta", "--anchors", anchors, *options)[0] == 0
    code, printed, _ = run("audit", out)
    assert code == 4
    assert "TRUST  the noise level and the region of each image (--data, --anchors)" in printed
    assert printed.endswith("clean; 1 parts taken on trust\n")
    code, printed, _ = run("audit", out, "--anchors", anchors)
    assert (code, printed.endswith(": clean\n")) == (0, True)
    other = tmp_path / "other.npz"
    Anchors(load_images("digits:train").images[:30], [0.5, 0.12] * 15).save(other)
    code, printed, _ = run("audit", out, "--anchors", other)
    assert (code, "anchors must be those of the run" in printed) == (1, True)
    assert run("audit", "n" * 300)[0] == 2


def test_nothing_is_opened_because_a_run_names_it(
    run: Run, certified: Path, tmp_path: Path
) -> None:
    """Not even a folder with the name of a bundled model, or digits of somewhere."""
    copied = shutil.copytree(certified, tmp_path / "copy")
    record = json.loads((copied / "run.json").read_text())
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "digits-dual").mkdir()
    for data, bundle in (
        (f"npz:{tmp_path}/pipe", "digits-dual"),
        (f"digits:{tmp_path}/pipe", str(tmp_path / "pipe")),
        (f"folder:{tmp_path}", f"{tmp_path}/pipe.onnx"),
    ):
        record["configuration"] |= {"data": data, "bundle": bundle}
        covered = {key: record[key] for key in ("configuration", "machine")}
        (copied / "run.json").write_text(json.dumps(record | {"fingerprint": digest_of(covered)}))
        code, printed, _ = run("audit", copied)
        assert code == 2 or (code in (1, 4) and "images and labels (--data)" in printed)


def test_fresh_and_resume_are_not_given_together(run: Run, tiny_bundle: Path) -> None:
    code, _, err = run("certify", tiny_bundle, "--data", "digits", "--fresh", "--resume")
    assert (code, err.count("\n")) == (2, 1)
    assert "fresh must be left out with resume" in err


@pytest.mark.parametrize("change", ["other n", "image outside", "another label"])
def test_resume_refuses_lines_of_another_run(
    run: Run, certified: Path, tiny_bundle: Path, tmp_path: Path, change: str
) -> None:
    copied = shutil.copytree(certified, tmp_path / "copy")
    lines = read_log(copied)
    if change == "other n":
        counts = tuple(
            dataclasses.replace(r, count=r.count + 1, votes=(r.votes[0] + 1, *r.votes[1:]))
            for r in lines[1].counts
        )
        lines[1] = dataclasses.replace(lines[1], counts=counts)
    elif change == "image outside":
        lines[1] = dataclasses.replace(lines[1], image_id=77)
    else:
        lines[1] = dataclasses.replace(lines[1], label=(lines[1].label or 0) + 1)
    log = copied / "certificates.jsonl"
    log.write_text("".join(line.to_json() + "\n" for line in lines[:4]))
    before = log.read_bytes()
    options = ("--data", "digits", "--n0", 10, "--n", 100, "--max", 6, "--out", copied, "--resume")
    code, _, err = run("certify", tiny_bundle, *options)
    assert (code, err.count("\n")) == (2, 1)
    assert "certificates.jsonl: must " in err
    assert log.read_bytes() == before
