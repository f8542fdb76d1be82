"""Records from elsewhere: whatever a field holds, a command ends in one line, and escapes it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dualsmooth.benchmarks.soak.fuzz.inputs import signed
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.json_file import parse_json
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.report.cohen import read_table
from tests.conftest import Command

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def configure(run: Path, change: Change) -> None:
    """Alter the configuration; its fingerprint fits."""
    record = json.loads((run / "run.json").read_text())
    change(record["configuration"])
    (run / "run.json").write_text(json.dumps(signed(record)))


def recertify(run: Path, change: Change) -> None:
    """Alter the first certificate; its checksum fits."""
    first, *rest = (run / "certificates.jsonl").read_text().splitlines(keepends=True)
    record = json.loads(first)
    change(record)
    text = json.dumps(signed(record)) + "\n"
    (run / "certificates.jsonl").write_text("".join([text, *rest]))


CONFIGURATIONS: list[Change] = [
    lambda c: c.pop("data"),
    lambda c: c.pop("n0"),
    lambda c: c.update(data=7),
    lambda c: c.update(data=["digits"]),
    lambda c: c.update(data_digest=["a"]),
    lambda c: c.update(bundle_digest={}),
    lambda c: c.update(radii="0.5"),
    lambda c: c.update(radii=["0.5"]),
    lambda c: c.update(radii=[-0.5]),
    lambda c: c.update(radii=[0.5, 0.25]),
    lambda c: c.update(radii=3),
    lambda c: c.update(n="100"),
    lambda c: c.update(n=10**400),
    lambda c: c.update(n=True),
    lambda c: c.update(images="3"),
    lambda c: c.update(images=-3),
    lambda c: c.update(alpha="0.001"),
    lambda c: c.update(alpha=2.0),
    lambda c: c.update(seed=2**64),
    lambda c: c.update(options=[]),
    lambda c: c.update(method=None),
    lambda c: c.clear(),
]


@pytest.mark.parametrize("change", CONFIGURATIONS)
def test_a_configuration_of_another_kind(run: Path, command: Command, change: Change) -> None:
    configure(run, change)
    code, _, line = command("report", run)
    assert (code, "run.json" in line) == (2, True)
    code, out, _ = command("audit", run)
    assert code == 1
    assert "FOUND  run.json" in out


@pytest.mark.parametrize("named", ["/", "", "mine", "digits:x", "\x1b[2J", "idx", "npz:/dev/zero"])
def test_an_audit_does_not_call_clean_what_names_no_images(
    run: Path, command: Command, named: str
) -> None:
    configure(run, lambda c: c.update(data=named))
    code, out, line = command("audit", run)
    assert (code, "clean" in out) == (2, False) if named != "idx" else (0, True)
    assert "\x1b" not in line


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(radius="0.5"),
        lambda c: c.update(radius=-0.5),
        lambda c: c.update(radius=1e300),
        lambda c: c.update(predicted=10**30),
        lambda c: c.update(predicted=-4),
        lambda c: c.update(label=2**31),
        lambda c: c.update(image_id=-1),
        lambda c: c.update(image_id=2**32),
        lambda c: c.update(draws=-1),
        lambda c: c.update(counts=[["a"]]),
        lambda c: c.update(bounds=None),
        lambda c: c.update(seconds=-1.0),
        lambda c: c.pop("method"),
    ],
)
@pytest.mark.parametrize("verb", ["report", "audit"])
def test_a_certificate_of_another_kind(
    run: Path, command: Command, change: Change, verb: str
) -> None:
    recertify(run, change)
    code, out, line = command(verb, run)
    assert (code, "line 1" in out + line) == (1 if verb == "audit" else 2, True)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"7",
        b"null",
        b"{",
        b"\0" * 1000,
        b"[" * 10**5,
        b'{"a":' * 10**5,
        b"9" * 5000,
        b'{"format": 1, "format": 1}',
        b"NaN",
        b"\xff",
        b'"\\ud800"',
        b'{"format": 1e999}',
    ],
)
@pytest.mark.parametrize("name", ["run.json", "certificates.jsonl"])
def test_what_is_no_record_at_all(run: Path, command: Command, text: bytes, name: str) -> None:
    (run / name).write_bytes(text + b"\n")
    assert command("report", run)[0] == 2
    assert command("audit", run)[0] == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        "NaN",
        "[-Infinity]",
        "1e999",
        "9" * 5000,
        '"\\ud800"',
        '"\\uDFFF x"',
        "[" * 10**5,
        "\0",
        "01",
        "{'a': 1}",
    ],
)
def test_json_is_what_the_standard_says(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_json_that_is_valid_stays() -> None:
    value = {"a": [1, 2.5, None, True, "\U0001f600 ü"], "b": {}}
    assert parse_json(json.dumps(value)) == value
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"


ROWS = ["nan", "inf", "-0.1", "1e308", "1e400", "9" * 5000, "0x1p3", "", "a\x1b[2J"]


@pytest.mark.parametrize("value", ROWS)
@pytest.mark.parametrize("column", [1, 2, 3])
def test_a_table_with_odd_numbers(
    tmp_path: Path, command: Command, value: str, column: int
) -> None:
    fields = ["1", "3", "3", "0.5", "1", "0.1"]
    fields[column] = value
    head = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
    (tmp_path / "t.tsv").write_text(head + "\t".join(fields) + "\n")
    code, _, line = command("report", tmp_path / "t.tsv")
    assert code == (0 if (column, value) in ((1, ""), (3, "-0.1")) else 2)
    assert "\x1b" not in line


def test_a_number_of_a_million_digits_is_no_matter(tmp_path: Path) -> None:
    """Once the time to refuse one grew with the square of its length: hours, for this one."""
    head = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n"
    (tmp_path / "t.tsv").write_text(head + "1\t3\t3\t" + "9" * 10**6 + "x\t1\t0.1\n")
    with pytest.raises(FileError, match="line 2 must be valid"):
        read_table(tmp_path / "t.tsv")


ODD = (
    "fixed(0.25)\x1b[31m\n|[x](javascript:1) `\u202e\u200b"
    "</script><script>alert(1)</script><!--$\\x$"
)


def test_a_name_that_acts_is_shown_as_text(run: Path, tmp_path: Path, command: Command) -> None:
    """The method of the log, the data in run.json, and the folder's own name."""
    pytest.importorskip("matplotlib")
    for line in range(3):
        text = (run / "certificates.jsonl").read_text().splitlines(keepends=True)
        record = json.loads(text[line]) | {"method": ODD}
        text[line] = json.dumps(signed(record)) + "\n"
        (run / "certificates.jsonl").write_text("".join(text))
    configure(run, lambda c: c.update(data=ODD, precision=ODD))
    odd = run.rename(tmp_path / "run\x1b]0;x\x07\n|\u202e<b>")
    code, out, errors = command("report", odd, "--html")
    assert code == 0
    table = (odd / "summary.md").read_text()
    page = (odd / "report.html").read_text()
    for shown in (out, errors, table, page):
        assert all(c == "\n" or c.isprintable() for c in shown)
    assert "<script>alert" not in table
    assert "](javascript" not in table.replace("\\](", "")
    assert page.count("<script") == 2
    assert page.count("</script>") == 2
    assert "<!--" not in page.partition('id="data">')[2]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/x",
        "..",
        ".hidden",
        "a/b",
        "a\\b",
        "a\nb",
        "a\x1b[m",
        "a\u202eb",
        "<b>x",
        "",
        " ",
        "a" * 300,
        "a\0",
        '"',
    ],
)
def test_a_bundle_has_a_plain_name(tiny_bundle: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    fields = json.loads((folder / "bundle.json").read_text()) | {"name": name}
    (folder / "bundle.json").write_text(json.dumps(fields))
    with pytest.raises(FileError, match="name must be") as error:
        load_bundle(folder)
    assert str(error.value).isprintable()
    bundle = load_bundle(tiny_bundle)
    object.__setattr__(bundle, "name", name)
    with pytest.raises(ArgumentError, match="name must be"):
        save_bundle(bundle, tmp_path / "saved")


@pytest.mark.parametrize("sigmas", [["0.25", "0.5"], [True, 2], [[0.25], [0.5]], [0.25, None]])
def test_levels_of_a_bundle_are_numbers(
    tiny_bundle: Path, tmp_path: Path, sigmas: list[object]
) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    fields = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(fields | {"sigmas": sigmas}))
    with pytest.raises(FileError, match=r"bundle\.json: must describe a bundle"):
        load_bundle(folder)


def test_a_bundle_that_says_something_twice_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace('"tau"', '"name": "other", "tau"'))
    with pytest.raises(FileError, match="a key is there twice"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("digits-dual-dual(median, interval)", "digits-dual-dual-median-interval"),
        ("checkpoint.pth.tar-fixed(0.5)", "checkpoint.pth.tar-fixed-0.5"),
        ("../../x-fixed(0.5)", "x-fixed-0.5"),
        ("/etc-fixed(0.5)", "etc-fixed-0.5"),
        ("a/../../b\n\x1b[m-fixed(0.5)", "a-..-..-b---m-fixed-0.5"),
    ],
)
def test_the_default_folder_is_one_below_runs(name: str, folder: str) -> None:
    from dualsmooth.engine.cli.certify import _file_name

    assert _file_name(name) == folder
    assert len(_file_name("ü" * 500).encode()) <= 200
