"""The site builds without a warning, and a browser of any size shows all of its code."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)
NEEDED = ("mkdocs", "material", "mkdocstrings", "nbconvert", "ipykernel")
CUT = """return [...document.querySelectorAll("pre code")]
    .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText)"""


def test_parameters_of_docstrings_are_names() -> None:
    """Any other line there is a warning, which ends `make docs`."""
    name = re.compile(r"\*{0,2}\w+(, \w+)*( : .+)?")
    for path in (
        path for top in ("engine", "kernels", "export") for path in (ROOT / top).rglob("*.py")
    ):
        nodes = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, DOCUMENTED))
        for text in (ast.get_docstring(node) or "" for node in nodes):
            section = re.split(r"\n.+\n-{3,}\n", text.partition("Parameters\n----------\n")[2])[0]
            lines = re.findall(r"(?m)^\S.*", section)
            assert [line for line in lines if not name.fullmatch(line)] == [], path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in NEEDED:
        pytest.importorskip(package, reason="needs the extra docs")
    if not (ROOT / "typings/dualsmooth/engine").exists():
        pytest.skip("needs the stubs that an editable install, make lint and make docs write")
    place = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(place)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING -" not in built.stderr
    return place


@pytest.fixture(scope="module")
def browser(open_chromium: Callable[..., Any]) -> Iterator[Any]:
    started = open_chromium("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage")
    yield started
    started.quit()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("api/statistics", ("Lower and upper bounds", "clopper_pearson_lower")),
        ("api/methods", ("DualSmoothing",)),
        ("api/adapters", ("CertifiedClassifier",)),
        ("commands", ('<span class="option">--selector-rule</span>', "Options of dual")),
        ("first_certificates", ("certified accuracy in %", "data:image/png", "<td>0.25</td>")),
        ("deploy", ("OnnxCertifier",)),
    ],
)
def test_pages_have_what_they_are_made_of(site: Path, page: str, words: tuple[str, ...]) -> None:
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    assert [word for word in words if word not in text] == []
    assert "TqdmWarning" not in text


@pytest.mark.slow
@pytest.mark.parametrize("width", [1440, 390], ids=["desktop", "phone"])
def test_no_code_is_cut(site: Path, browser: Any, width: int) -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 1000}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for page in sorted(site.rglob("*.html")):
        browser.get(page.as_uri())
        assert browser.execute_script(CUT) == [], page.name
        overhang = "return document.documentElement.scrollWidth - window.innerWidth"
        assert browser.execute_script(overhang) <= 0, page.name
