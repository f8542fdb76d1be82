"""The page of commands has every command and every option, with what help says about it."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from dualsmooth.engine.cli.app import app

HOOKS = Path(__file__).parents[2] / "docs/hooks.py"
GROUP: Any = get_command(app)


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    spec = importlib.util.spec_from_file_location("hooks", HOOKS)
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    parts = re.split(r"^## (.*)$", hooks.commands(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_command_has_its_section(sections: dict[str, str]) -> None:
    assert list(sections) == list(GROUP.commands)
    for name, text in sections.items():
        assert f"dualsmooth {name} [OPTIONS]" in text
        assert GROUP.commands[name].help.split("\n")[0] in text


@pytest.mark.parametrize("name", GROUP.commands)
def test_every_option_has_its_row(name: str, sections: dict[str, str]) -> None:
    rows = [line for line in sections[name].splitlines() if line.startswith("| `")]
    assert len(rows) == len(GROUP.commands[name].params)
    for parameter in GROUP.commands[name].params:
        if parameter.param_type_name == "option":
            names = ", ".join(parameter.opts)
            [row] = [row for row in rows if re.match(rf"\| `{names}[` ]", row)]
            assert re.sub(r"\W", "", parameter.help)[:40] in re.sub(r"\W|&lt;", "", row)


def test_every_row_has_two_cells(sections: dict[str, str]) -> None:
    for text in sections.values():
        for line in text.splitlines():
            if line.startswith("|"):
                assert len(re.findall(r"(?<!\\)\|", line)) == 3, line


def test_help_names_no_option_that_is_missing(sections: dict[str, str]) -> None:
    done = CliRunner().invoke(app, ["report", "--help"])
    told = set(re.findall(r"--[a-z-]+", done.stdout)) - {"--help"}
    assert told
    assert told <= set(re.findall(r"--[a-z-]+", sections["report"]))
