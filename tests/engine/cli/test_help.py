"""Help that reads as the command is written, numbers as people write them, and near misses."""

import re
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from dualsmooth.engine.cli.app import app
from dualsmooth.engine.cli.help import GROUPS, whole_number
from dualsmooth.engine.data import spec
from dualsmooth.engine.errors import FileError
from tests.conftest import Command


def text(*words: str) -> str:
    return CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "100"}).output


@pytest.mark.parametrize("words", ["", "certify", "predict", "report", "audit", "train", "export"])
def test_help_has_no_braces_no_types_of_lists_and_none_for_flags(words: str) -> None:
    page = text(*words.split())
    assert "<bool>" not in page
    assert "list[" not in page
    assert "{" not in page
    assert "......" not in page
    assert "...]..." not in page


def test_no_word_of_the_help_is_taken_for_markup() -> None:
    """Of "Rounds [cpu: 15]" the page showed "Rounds"."""
    for name, command in cast(TyperGroup, get_command(app)).commands.items():
        page = re.sub(r"[\s│]", "", text(name))
        for parameter in command.params:
            said = re.sub(r"\s", "", str(getattr(parameter, "help", "")))
            assert said in page, parameter.name


def test_paragraphs_fill_their_lines() -> None:
    said = text("quantize").partition("Examples:")[0]
    lines = [line.strip() for line in said[said.index("They vote") :].splitlines()]
    assert min(map(len, lines[: lines.index("") - 1])) > 80


def test_options_stand_under_what_they_are_about() -> None:
    page = text("certify")
    panels = {title: page.index(f" {title} ") for title in (*GROUPS, "Method", "Options of dual")}
    assert [*panels] == sorted(panels, key=lambda title: panels[title])
    assert panels["Votes"] < page.index("--alpha") < panels["Machine"] < page.index("--workers")
    assert panels["Options of dual"] < page.index("--published-split")


@pytest.mark.parametrize(
    ("written", "number"), [("1e5", 100_000), ("10_000", 10_000), ("7", 7), ("2.5e1", 25), (9, 9)]
)
def test_whole_numbers_as_people_write_them(written: str, number: int) -> None:
    assert whole_number(written) == number


@pytest.mark.parametrize("words", ["--out=~/x", "--out ~/x", "~/x"])
def test_the_home_folder_is_found_where_no_shell_does(words: str) -> None:
    """Shells leave it behind ``=``, and a list of arguments meets no shell."""
    given = ["report", *words.split(), *["/home/me/x"] * ("--out" in words)]
    error = CliRunner().invoke(app, given, env={"HOME": "/home/me"}).exception
    assert isinstance(error, FileError)
    assert error.path == Path("/home/me/x")


@pytest.mark.parametrize("written", ["1.5", "x", "", "nan", "inf", "1e400", "1e17"])
def test_what_is_no_whole_number(written: str) -> None:
    with pytest.raises(ValueError, match="must be a whole number"):
        whole_number(written)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("certifi", "Did you mean 'certify'?"),
        ("certify digits-dual --data digits --sgima 1", "--sgima. Did you mean --sigma?"),
        ("certify digits-dua --data digits", "did you mean digits-dual?"),
        ("certify digits-dual --data digts", "did you mean digits?"),
        ("certify digits-dual --data digits --method fixd", "did you mean fixed?"),
        ("certify digits-dual --data digits --budget decid", "did you mean decide?"),
        ("certify digits-dual --data digits --noise gausian", "did you mean gaussian?"),
        ("certify digits-dual --data digits --n 1.5", "'1.5' must be a whole number"),
        (
            "certify digits-dual --data digits --sigma 0,5",
            "must be a number, such as 0.25; received 0,5",
        ),
        ("certify digits-dual --data digits --device gpu", "did you mean cuda?"),
        ("certify digits-dual --data digits --device cup", "did you mean cpu?"),
        (f"certify digits-dual --data digits --out {__file__}", "empty or new; received a file"),
        ("certify digits-dual --data digits --resume --fresh", "fresh must be left out"),
        ("predict digits-dual a.png --max 2", "max belongs to --data"),
        ("export digits-dual --out new --images 3", "images belongs to --check"),
        ("export digits-dual --out new --calibration-images 9", "calibration_images belongs to"),
        ("audit run --compare exact", "compare belongs to --replay"),
        ("certify digits-dual digits", "argument(s) (digits): images are named by --data"),
        ("certify digits-dual --radii 0.25 0.5", "(0.5): numbers of a list have commas between"),
        (
            "certify digits-dual --sigma 0,25",
            "'--sigma': must be a number, such as 0.25; received 0,25",
        ),
        ("certify digits-dual --workers x", "'--workers': must be a whole number; received x"),
        ("certify digits-dual --precision float32", "did you mean fp32?"),
        ("certify digits-dual --seed -1", "must be an integer in [0, 2^64); received -1"),
        ("certify digits-dual --data x.npy", "an array alone: numpy.savez"),
        ("certify digits-dual --n 1,000", "'--n': '1,000' must be a whole number"),
        ("certify digits-dual --data idx:nowhere:trian", "is not a folder (did you mean train?)"),
        ("certify digits-dual --trust-model", "trust_model belongs to a .pt2 file"),
        ("export digits-dual --out new --trust-model", "No such option: --trust-model"),
        ("train dual --out new --background white", "background belongs to folder:DIR"),
        ("certify digits-dual --data digits --background red", "background belongs to folder:DIR"),
        ("certify digits-dual --interpolation bicubic", "interpolation belongs to --resize or"),
        ("train dul --out new", "received dul (did you mean dual?)"),
        ("train dual --out new --set epochs=3", "(perhaps classifying.epochs or selecting.epochs"),
        ("--max 2 certify digits-dual", "No such option: --max: options stand behind the command"),
        ("audit run other", "argument(s) (other) (see dualsmooth audit"),
        ("certify digits-dual --data mnist:x", "did you mean idx?"),
        ("certify digits-dual --data DIGITS", "did you mean digits?"),
        ("search digits-dual --data digits --out new --search gird", "did you mean grid?"),
        ("certify w.safetensors --data digits", "(weights alone: timm:NAME:w.safetensors, or hf:"),
        ("audit nowhere", "nowhere: must be a run folder; received nothing there"),
        ("bench start --networks lenet", "networks belongs to bench cpu"),
        ("bench occupancy --rounds 3", "rounds belongs to suites that measure time"),
        ("bench cpu --prefer large", "prefer belongs to bench dual"),
        ("audit run --choice 3", "choice belongs to --replay"),
        ("report run --html --data nowhere", "data must start with a known kind"),
        ("frontier digits-dual --data digits --out new", "must have a selector with operating"),
        ("search digits-dual --data digits:train --out a/b.npz", "received a, which is none"),
    ],
)
def test_near_misses_are_one_line_with_what_was_meant(
    words: str, said: str, command: Command
) -> None:
    code, _, error = command(*words.split())
    assert (code, said in error) == (2, True)


def test_the_help_is_no_error() -> None:
    done = subprocess.run([sys.executable, "-m", "dualsmooth"], capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert (done.returncode, "Commands" in said, "dualsmooth: " in said) == (2, True, False)


@pytest.mark.parametrize("command", ["certify", "predict", "search", "frontier", "train"])
def test_commands_that_read_images_have_the_options_that_hints_name(command: str) -> None:
    """Hints of `engine/data` are about image files, whichever command reads them."""
    sources = (Path(spec.__file__).parent / name for name in ("class_folders.py", "image_files.py"))
    hints = " ".join(re.findall(r'hint = "(.*)"', " ".join(map(Path.read_text, sources))))
    named = set(re.findall(r"--[a-z]+", hints))
    assert named == {"--resize", "--crop", "--background"}
    page = text(command)
    assert {option for option in named if option in page} == named
