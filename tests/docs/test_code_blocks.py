"""Every code block of the documentation and the README runs.

Blocks of a page share one namespace and one folder, in order. ``python`` and ``sh`` blocks are
executed; ``console`` blocks may only install, or call targets that the Makefile has; ``text``
blocks are not code that could run here. A block about a package of an extra runs where that package
can be imported.
"""

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from dualsmooth.engine.cli.app import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "export/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ELSEWHERE = ("scale_out.md",)
"""Commands for clusters, with names to fill in; tests of the workers run what can run here."""
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_CODE = ("text",)
OPTIONAL = {
    "timm": ("timm",),
    "onnx|OnnxCertifier|dualsmooth.export": ("onnxscript", "onnxruntime"),
}
"""Packages that blocks with such words need."""
SLOW = ("README.md", "index.md", "imagenet.md", "training.md")


class Block(NamedTuple):
    language: str
    code: str
    line: int


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield Block(match[1], match[2], text[: match.start()].count("\n") + 2)


def run_shell(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] == "dualsmooth", f"sh blocks hold dualsmooth commands only: {line}"
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as exit_:
            main()
        assert exit_.value.code == 0, line


def check_console(code: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert set(words[1:]) <= targets, line
        elif words:
            assert words[:2] in (["pip", "install"], ["git", "clone"]) or words[0] == "cd", line


def missing(block: Block) -> bool:
    """Whether a block needs a package that cannot be imported here."""
    for words, packages in OPTIONAL.items():
        if re.search(rf"\b({words})\b", block.code):
            for package in packages:
                try:
                    import_module(package)
                except Exception:  # torchvision of another build raises RuntimeError in timm
                    return True
    return False


def run_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    namespace: dict[str, object] = {"__name__": "__main__"}
    executed = 0
    for block in blocks(page):
        if missing(block):
            continue
        if block.language == "python":
            source = "\n" * (block.line - 1) + block.code
            exec(compile(source, str(page), "exec"), namespace)
        elif block.language == "sh":
            run_shell(block.code, monkeypatch)
        elif block.language == "console":
            check_console(block.code)
        else:
            assert block.language in NOT_CODE, f"{page.name}:{block.line}: fence {block.language!r}"
            continue
        executed += 1
    return executed


def parameters() -> Iterator[object]:
    for page in PAGES:
        if page.name in ELSEWHERE:
            continue
        marks = [pytest.mark.slow] if page.name in SLOW else []
        yield pytest.param(page, id=page.relative_to(ROOT).as_posix(), marks=marks)


@pytest.mark.parametrize("page", list(parameters()))
def test_code_blocks_run(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--html" in page.read_text(encoding="utf-8"):
        pytest.importorskip("matplotlib", reason="needs the extra report")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    run_page(page, monkeypatch)


@pytest.mark.parametrize(
    "code",
    ["```python\nassert False\n```", "```sh\ndualsmooth report nowhere\n```", "```sh\nrm x\n```",
     "```console\nmake nothing\n```", "```\nlanguage left out\n```"],
)  # fmt: skip
def test_a_broken_block_fails(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(code + "\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError):
        run_page(page, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_can_be_copied_into_any_shell(page: Path) -> None:
    """Lines go on by a backslash, zsh finds no pattern in them, and no release is asked for."""
    for block in blocks(page):
        if block.language != "python" and re.search("(?m)^(dualsmooth|pip|npm) ", block.code):
            code = re.sub(r"'[^']*'|\"[^\"]*\"", "''", block.code.replace("\\\n", ""))
            for line in code.splitlines():
                assert not line.startswith(" "), line
                assert "[" not in line.partition(" # ")[0], line
    assert not re.search(r"pip install [^\n]*dualsmooth(?!\S)|dualsmooth\[", page.read_text())


def test_pages_link_to_pages_and_pictures_that_exist() -> None:
    made = {"deploy.md", "commands.md", "first_certificates.md"}
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not link.startswith("http") and link not in made:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
