"""Links, FIFOs, devices and folders where files are expected: never followed, never waited for."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from dualsmooth.engine.data.image_files import read_image
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import FileError, StoppedError
from dualsmooth.engine.files import AppendFile, FolderLock, write_whole
from dualsmooth.engine.limits import open_plain, read_plain
from dualsmooth.engine.methods.regions.anchors import Anchors, read_anchors
from dualsmooth.engine.methods.regions.memory import Memory
from dualsmooth.engine.models.sources.load import load_bundle as load
from dualsmooth.engine.report.cohen import read_table
from dualsmooth.engine.runs.log import RunLog, read_log
from dualsmooth.engine.runs.record import read_configuration
from dualsmooth.engine.train.checkpoints import Checkpoints, Metric
from tests.conftest import Command
from tests.engine.conftest import at_most

Plant = Callable[[Path], object]
MINE = b"a file of the user's\nwith two lines\n"


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """What waits for a FIFO would wait for good."""
    with at_most(30):
        yield


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.write_bytes(MINE)
    return path


def link(path: Path) -> None:
    path.symlink_to(path.parent.parent / "mine")


def hard_link(path: Path) -> None:
    path.hardlink_to(path.parent.parent / "mine")


def dangling(path: Path) -> None:
    path.symlink_to(path.parent.parent / "nobody")


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


PLANTED: list[Plant] = [link, dangling, os.mkfifo, Path.mkdir, zeros]


def planted(path: Path, plant: Plant) -> Path:
    path.unlink(missing_ok=True)
    plant(path)
    return path


@pytest.mark.parametrize("plant", [*PLANTED, hard_link])
@pytest.mark.parametrize("name", ["certificates.jsonl", "run.json", "run.lock"])
def test_a_run_log_writes_through_nothing(
    run: Path, mine: Path, tmp_path: Path, plant: Plant, name: str
) -> None:
    configuration = read_configuration(run)
    planted(run / name, plant)
    with pytest.raises(FileError):
        RunLog(run, configuration, resume=True)
    assert not (tmp_path / "nobody").exists()
    assert mine.read_bytes() == MINE


@pytest.mark.parametrize("plant", [*PLANTED, hard_link])
@pytest.mark.parametrize("name", ["certificates.jsonl", "certificates.tsv", "summary.json"])
@pytest.mark.parametrize("part", ["", ".part"])
def test_finishing_a_run_writes_through_nothing(
    run: Path, mine: Path, tmp_path: Path, plant: Plant, name: str, part: str
) -> None:
    """The table may stand as a link: the link is replaced, what it leads to is not."""
    if name == "certificates.jsonl" and not part:
        pytest.skip("read before it is written")
    log = RunLog(run, read_configuration(run), resume=True)
    planted(run / (name + part), plant)
    if plant is Path.mkdir:
        with pytest.raises(StoppedError, match="cannot be written"):
            log.finish({"a": 1})
        log.close()
    else:
        log.finish({"a": 1})
        assert not (run / (name + part)).is_symlink()
    assert mine.read_bytes() == MINE
    assert not (tmp_path / "nobody").exists()


@pytest.mark.parametrize("plant", PLANTED)
def test_what_reads_a_folder_of_a_run_says_no(run: Path, mine: Path, plant: Plant) -> None:
    planted(run / "certificates.jsonl", plant)
    with pytest.raises(FileError, match=r"certificates\.jsonl: must be a plain file"):
        read_log(run)
    planted(run / "run.json", plant)
    with pytest.raises(FileError, match=r"run\.json: must be a plain file"):
        read_configuration(run)


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("name", ["run.json", "certificates.jsonl"])
@pytest.mark.parametrize("verb", ["audit", "report"])
def test_commands_on_such_a_run_say_no(
    run: Path, mine: Path, command: Command, plant: Plant, name: str, verb: str
) -> None:
    planted(run / name, plant)
    code, _, _ = command(verb, run)
    assert code == (1 if verb == "audit" else 2)


@pytest.mark.parametrize(
    "plant",
    [link, *(pytest.param(p, marks=pytest.mark.slow) for p in (dangling, zeros, hard_link))],
)
def test_a_report_writes_through_nothing(
    run: Path, mine: Path, tmp_path: Path, command: Command, plant: Plant
) -> None:
    pytest.importorskip("matplotlib")
    for name in ("summary.md", "summary.md.part", "report.html", "curves.png.part", "curves.svg"):
        planted(run / name, plant)
    code, _, _ = command("report", run, "--html")
    assert code == 0
    assert mine.read_bytes() == MINE
    assert not (tmp_path / "nobody").exists()
    assert (run / "summary.md").read_text().startswith("# Certification report")
    assert not (run / "summary.md").is_symlink()


def test_a_report_folder_in_the_way_is_one_line(run: Path, command: Command) -> None:
    pytest.importorskip("matplotlib")
    (run / "summary.md.part").mkdir()
    code, _, line = command("report", run, "--html")
    assert code == 2
    assert "must be writable" in line


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("name", ["bundle.json", "classifier.safetensors"])
def test_a_bundle_is_plain_files(
    tiny_bundle: Path, mine: Path, tmp_path: Path, plant: Plant, name: str
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    planted(bundle / name, plant)
    with pytest.raises(FileError, match="must be a plain file"):
        load(bundle)


READERS: dict[str, Callable[[Path], object]] = {
    "npz": lambda path: load_images(f"npz:{path}"),
    "anchors": read_anchors,
    "image": read_image,
    "table": read_table,
    "checkpoint": lambda path: load(path.rename(path.with_suffix(".pth"))),
    "onnx": lambda path: load(path.rename(path.with_suffix(".onnx"))),
    "program": lambda path: load(path.rename(path.with_suffix(".pt2"))),
}


@pytest.mark.parametrize("plant", [os.mkfifo, Path.mkdir, zeros])
@pytest.mark.parametrize("reader", READERS)
def test_a_name_the_user_gave_leads_to_a_file_or_nowhere(
    tmp_path: Path, plant: Plant, reader: str
) -> None:
    with pytest.raises((FileError, ValueError)):
        READERS[reader](planted(tmp_path / "x", plant))


@pytest.mark.parametrize("plant", [*PLANTED, hard_link])
def test_a_memory_appends_through_nothing(tmp_path: Path, mine: Path, plant: Plant) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError):
        Memory(planted(tmp_path / "folder" / "memory", plant))
    assert mine.read_bytes() == MINE
    assert not (tmp_path / "nobody").exists()


@pytest.mark.parametrize("plant", [link, dangling])
def test_anchors_are_a_new_file(tmp_path: Path, mine: Path, plant: Plant) -> None:
    (tmp_path / "folder").mkdir()
    anchors = Anchors(np.zeros((1, 2, 2, 1), np.uint8), [0.5])
    with pytest.raises(FileError, match="must not exist yet"):
        anchors.save(planted(tmp_path / "folder" / "a.npz", plant))
    anchors.save(tmp_path / "folder" / "b.npz")
    assert read_anchors(tmp_path / "folder" / "b.npz").levels == (0.5,)
    assert mine.read_bytes() == MINE


def test_a_training_folder_is_not_left(tmp_path: Path, mine: Path) -> None:
    journal = Checkpoints(tmp_path / "run", {"a": 1})
    link(tmp_path / "run" / "metrics.jsonl")
    with pytest.raises(FileError, match="must be a plain file"):
        journal.metric(Metric("s", 1, 0.5))
    (tmp_path / "run" / "states").rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "states").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileError, match="states: must be a folder"):
        Checkpoints(tmp_path / "run", {"a": 1}, resume=True)
    assert mine.read_bytes() == MINE


def test_a_null_in_a_name_is_no_traceback(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="must be a plain file"):
        open_plain(tmp_path / "a\0b")


def test_sizes_are_bounded_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "holes"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    for read in (lambda: read_plain(path, 100), lambda: read_table(path), lambda: read_image(path)):
        with pytest.raises(FileError):
            read()
    path.rename(tmp_path / "certificates.jsonl")
    with pytest.raises(FileError, match="line 1 must have at most"):
        read_log(tmp_path)


def test_a_lock_and_a_log_of_another_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_whole(tmp_path / "a", "text")
        AppendFile(tmp_path / "b").close()
        FolderLock(tmp_path).release()
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "b"]


def test_without_the_systems_help_links_are_refused_too(
    tmp_path: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which has no such flag."""
    monkeypatch.setattr("dualsmooth.engine.limits._NO_LINK", 0)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match="a symbolic link"):
        open_plain(planted(tmp_path / "folder" / "x", link))
    assert open_plain(mine).read() == MINE
