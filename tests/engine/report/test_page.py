"""report.html as a browser sees it, and as text."""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dualsmooth.benchmarks.soak.fuzz.inputs import signed
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data import spec
from dualsmooth.engine.data.image_set import data_digest
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.report.page import _template, page, part
from dualsmooth.engine.report.plots import plots
from dualsmooth.engine.report.reading import Run, read_runs
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.record import check_configuration
from dualsmooth.engine.runs.summary import Row, summarize
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings

pytest.importorskip("matplotlib", reason="needs the extra report")

CONFIGURATION: dict[str, Any] = {
    "n0": 100, "n": 10_000, "budget": "fixed", "alpha": 0.001, "seed": 0, "precision": "fp32",
    "bundle": "digits-dual", "bundle_digest": "ab" * 32, "images": 130, "noise": "gaussian",
    "attempt": 0, "sampler": "cpu", "batch_size": 256, "options": {"method": "dual"},
    "classes": ["nought", *"123456789"],
}  # fmt: skip
MACHINE = {"processor": "Processor 9", "cores": 2, "versions": {"torch": "2.13.0"}}


def rows(count: int) -> list[Row]:
    """Radii that rise and fall, some wrong, the last one abstained."""
    found = []
    for i in range(count):
        radius = 0.0 if i == count - 1 else round(0.1 + 0.37 * i % 0.8, 6)
        abstained = radius == 0.0
        limit = "selector" if i % 2 else "classifier"
        found.append(Row(radius, i % 7 != 0 and not abstained, abstained, 10_100, image_id=i,
                         label=i % 10, predicted=None if abstained else i % 10, sigma=0.25,
                         limit=limit, selector_radius=0.6, classifier_radius=radius,
                         votes=f"{9000 + i:,}/10,000"))  # fmt: skip
    return found


@pytest.fixture(scope="module")
def digits_archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Images on disk, and the digest a run over them records."""
    path = tmp_path_factory.mktemp("data") / "images.npz"
    images = np.arange(130 * 64, dtype=np.uint32).astype(np.uint8).reshape(130, 8, 8, 1)
    labels = np.arange(130) % 10
    np.savez(path, x=images, y=labels)
    return path, data_digest(load_images(f"npz:{path}"), range(130))


def make_page(
    archive: tuple[Path, str],
    name: str = "dual(median, interval, runner-up, prefer large)",
    most_plots: int = 9,
    given: bool = True,
) -> str:
    """Five runs: one of a selector, three of fixed levels, and a table."""
    data = f"npz:{archive[0]}"
    known = CONFIGURATION | {"data": data, "data_digest": archive[1]}
    fixed = known | {"options": {"method": "fixed"}}
    runs = [Run(name, Path("a"), rows(130), known, [], MACHINE, "2026-11-27")]
    for sigma in (0.12, 0.25, 0.5):
        kept = [replace(row, correct=row.correct and row.radius < 2 * sigma) for row in rows(130)]
        runs.append(Run(f"fixed({sigma})", Path("f"), kept, fixed, [], MACHINE, "2026-11-27"))
    runs.append(Run("table", Path("t"), rows(60)))
    summaries = [summarize(run.name, run.rows) for run in runs]
    return page(runs, summaries, plots(runs)[:most_plots], data if given else None)


def test_the_file_stands_alone_and_escapes_names(digits_archive: tuple[Path, str]) -> None:
    text = make_page(digits_archive, "</script><i>&$x", 2)
    assert not re.findall(r'(?:src|href)="(?!#|data:)', text)
    assert "url(http" not in text
    assert "@import" not in text
    assert text.count("</script>") == 2  # the data and the code
    assert "<i>" not in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert data["runs"][0]["name"] == "</script><i>&$x"
    assert len(data["runs"][0]["rows"]) == 130
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_radii_in_the_page_are_cut_off(digits_archive: tuple[Path, str]) -> None:
    runs = [Run("x", Path("x"), [Row(0.29999999, True, False), Row(0.1, True, False)])]
    text = page(runs, [summarize("x", runs[0].rows)], [])
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert [row[3] for row in data["runs"][0]["rows"]] == [0.2999, 0.1]


def test_the_top_says_what_was_certified_and_where(digits_archive: tuple[Path, str]) -> None:
    head = make_page(digits_archive, most_plots=0).partition("<main>")[0]
    facts = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", head))
    assert facts["model"] == "digits-dual"
    assert facts["digest"] == "sha256 abababababababab"
    assert facts["votes"] == "n0 = 100, n = 10,000 (fixed budget)"
    assert facts["machine"] == "Processor 9, 2 cores"
    assert facts["date"] == "2026-11-27"
    assert facts["data"].startswith("npz:")
    assert "method" not in facts  # differs, and stands beside each run
    assert head.count('<td class="text">fixed</td>') == 3
    assert "votes and alpha not recorded in the file" in head


@pytest.mark.parametrize("change", ["pixels", "file"])
def test_thumbnails_are_shown_only_of_the_same_data(
    digits_archive: tuple[Path, str], change: str, tmp_path: Path
) -> None:
    assert make_page(digits_archive, most_plots=0).count("data:image/png;base64,") == 130
    path, digest = digits_archive
    other = tmp_path / "other.npz"
    if change == "pixels":
        arrays = dict(np.load(path))
        arrays["x"][0, 0, 0, 0] ^= 1
        np.savez(other, **arrays)
    with pytest.raises(ArgumentError, match=r"^data must name the images of a run; received npz:"):
        make_page((other, digest), most_plots=0)


def test_no_file_is_opened_that_only_a_run_names(
    digits_archive: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spec, "load_images", lambda *_, **__: pytest.fail("opened"))
    text = make_page(digits_archive, most_plots=0, given=False)
    assert "data:image/png" not in text
    assert f"no thumbnails without --data npz:{digits_archive[0]}" in text


class Browser:
    """Headless Chromium on one page, with everything it logs and asks the network for."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, width: int, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(path.as_uri())

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def shoot(self, path: Path) -> tuple[int, int]:
        """Save the whole page as a picture; its width and height."""
        size = self.run(
            "const e = document.documentElement; return [e.scrollWidth, e.scrollHeight]"
        )
        clip = dict(zip(("x", "y", "width", "height", "scale"), (0, 0, *size, 1), strict=True))
        how = {"captureBeyondViewport": True, "clip": clip}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", how)
        path.write_bytes(base64.b64decode(shot["data"]))
        return Image.open(path).size

    def hover(self, share: float) -> str:
        """Move the mouse over the curves to a share of their axes; the text beside them."""
        frame = self.run(
            "const s = document.querySelector('#curve figure svg'); s.scrollIntoView();"
            "const b = s.getBoundingClientRect(), [l, r] = s.dataset.frame.split(' ');"
            "return [b.left + b.width * l, b.width * (r - l), b.top + b.height / 2]"
        )
        place = {"type": "mouseMoved", "x": frame[0] + share * frame[1], "y": frame[2]}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", place)
        return str(self.run("return document.querySelector('.values').innerText"))

    def column(self, index: int) -> list[str]:
        script = "return [...document.querySelectorAll('#images tbody tr')].map(r => r.children[%d]"
        return list(self.run(script % index + ".textContent)"))

    def texts(self) -> set[tuple[str, str]]:
        """Colours of texts outside pictures, and of what is behind each."""
        script = """return [...document.querySelectorAll('body *')].filter(e => !e.closest('svg')
            && e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
            ).map(e => { let b = e; const paper = () => getComputedStyle(b).backgroundColor;
              while (paper() === 'rgba(0, 0, 0, 0)') b = b.parentElement;
              return [getComputedStyle(e).color, paper()]; })"""
        return {(ink, paper) for ink, paper in self.run(script)}

    def sort(self, index: int) -> None:
        self.run(f"document.querySelectorAll('#images th button')[{index}].click()")

    def requests(self) -> list[str]:
        messages = [json.loads(entry["message"])["message"]
                    for entry in self.driver.get_log("performance")]  # fmt: skip
        return [m["params"]["request"]["url"] for m in messages
                if m["method"] == "Network.requestWillBeSent"]  # fmt: skip


FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
         "disable-background-networking", "disable-component-update", "disable-sync",
         "hide-scrollbars")  # fmt: skip
"""What a browser does of its own accord is switched off, so that every request is the page's."""


@pytest.fixture(scope="module")
def browser(
    open_chromium: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser]:
    profile = f"user-data-dir={tmp_path_factory.mktemp('profile')}"
    logs = {"browser": "ALL", "performance": "ALL"}
    started = open_chromium(*FLAGS, profile, loggingPrefs=logs)
    started.get("about:blank")
    started.get_log("performance")  # what the browser's own first tab asked for
    yield Browser(started)
    started.quit()


@pytest.fixture(scope="module")
def written(
    digits_archive: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:  # fmt: skip
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(make_page(digits_archive), encoding="utf-8")
    return path


LOOKS = [(1280, "light"), (390, "light"), (1280, "dark"), (390, "dark")]


@pytest.mark.parametrize(("width", "scheme"), LOOKS, ids="desktop phone dark night".split())
def test_page_is_clean_at_every_width_and_scheme(
    browser: Browser, written: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    browser.open(written, width, scheme)
    assert browser.driver.get_log("browser") == []
    outside = [url for url in browser.requests() if not url.startswith(("file:", "data:"))]
    assert outside == []
    dark = (
        browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 28)"
    )
    assert dark == (scheme == "dark")
    ink = "return getComputedStyle(document.querySelector('figure svg text, figure svg g')).color"
    assert browser.run(ink) == browser.run("return getComputedStyle(document.body).color")
    assert len(browser.column(0)) == (20 if width > 600 else 8)
    shown, height = browser.shoot(tmp_path / "page.png")
    assert shown == width
    assert 2000 < height < (5000 if width > 600 else 8000)
    assert {pair: contrast(*pair) for pair in browser.texts() if contrast(*pair) < 4.5} == {}


def contrast(ink: str, paper: str) -> float:
    """Contrast of two ``rgb(..)`` as WCAG 2 defines it."""

    def light(colour: str) -> float:
        parts = (int(part) / 255 for part in re.findall(r"\d+", colour)[:3])
        linear = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return sum(map(float.__mul__, linear, (0.2126, 0.7152, 0.0722)))

    low, high = sorted(light(colour) for colour in (ink, paper))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21.0)
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.01)


def test_the_curves_say_their_values_under_the_pointer(browser: Browser, written: Path) -> None:
    browser.open(written, 1280, "light")
    ours = rows(130)
    for share in (0.0, 0.5):
        said = browser.hover(share).replace("\n", " ")
        radius = float(said.split()[2])
        assert radius == pytest.approx(share * 1.05 * max(row.radius for row in ours), abs=0.01)
        summary = summarize("", ours, [radius])
        low, high = (f"{100 * end:.1f}" for end in summary.interval(radius))
        assert f"{100 * summary.accuracy(radius):.1f} % {low} to {high}" in said
    lines = "return document.querySelectorAll('#curve .cursor, #curve .values b').length"
    assert browser.run(lines) == 6


def test_a_phone_is_told_that_a_table_goes_on_and_reads_whole_words(
    browser: Browser, written: Path
) -> None:
    browser.open(written, 390, "light")
    cues = "return [...document.querySelectorAll('.cut + .cue')].filter(c => c.checkVisibility())"
    cues += ".map(c => c.innerText)"
    assert browser.run(cues) == 3 * ["more to the right →"]
    broken = """const split = [], walk = document.createTreeWalker(document.body, 4);
        for (let node; node = walk.nextNode();) {
          if (!node.parentNode.closest('th, h1, h2, li')) continue;
          for (const word of node.data.matchAll(/[^\\s-]+/g)) {
            const range = new Range();
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            if (new Set([...range.getClientRects()].map(r => r.top)).size > 1) split.push(word[0]);
          }
        }
        return split"""
    assert browser.run(broken) == []
    browser.run("document.querySelectorAll('.scroll').forEach(b => b.scrollLeft = 9999)")
    assert appears("[]", lambda: [str(browser.run(cues))])
    browser.run("document.querySelector('.figures th[scope=row]').style.width = '2rem';"
                "document.querySelector('.figures').style.wordBreak = 'break-all'")  # fmt: skip
    assert browser.run(broken) != []


def test_the_images_with_the_smallest_and_the_largest_radii_are_shown(
    browser: Browser, written: Path
) -> None:
    browser.open(written, 1280, "light")
    radii = sorted(row.radius for row in rows(130) if not row.abstained)
    cards = "return [...document.querySelectorAll('#%s figure')].map(f => f.innerText.split('\\n'))"
    largest, smallest = (browser.run(cards % name) for name in ("largest", "smallest"))
    assert [float(card[0]) for card in smallest] == pytest.approx(radii[:8], abs=1e-4)
    assert [float(card[0]) for card in largest] == pytest.approx(radii[:-9:-1], abs=1e-4)
    assert {card[1] for card in smallest + largest} >= {"nought", "1"}
    assert browser.column(1)[0] == "nought"
    broken = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert browser.run(broken) == 0


def test_sorting_filtering_and_paging_work(browser: Browser, written: Path) -> None:
    browser.open(written, 1280, "light")
    more = "document.getElementById('more').click();"
    browser.run(2 * more)
    assert [int(text) for text in browser.column(0)] == list(range(130))
    browser.sort(3)
    browser.run(2 * more)
    radii = [float(text) for text in browser.column(3)]
    assert radii == sorted(radii)
    assert len(set(radii)) > 10
    browser.sort(3)
    assert float(browser.column(3)[0]) == max(radii)
    browser.run("const f = document.getElementById('outcome'); f.value = 'abstained';"
                "f.dispatchEvent(new Event('change'))")  # fmt: skip
    assert browser.column(7) == ["abstained"]
    assert browser.column(8) == ["selector: no noise level keeps more than half of its votes"]
    browser.run("const f = document.getElementById('outcome'); f.value = '';"
                "f.dispatchEvent(new Event('change'));"
                "const r = document.getElementById('run'); r.value = '4';"
                "r.dispatchEvent(new Event('change'))")  # fmt: skip
    browser.run(more)
    assert len(browser.column(0)) == 60
    assert browser.driver.get_log("browser") == []


def test_a_broken_page_would_be_noticed(browser: Browser, written: Path, tmp_path: Path) -> None:
    """The checks above see script errors and requests that leave the file."""
    broken = tmp_path / "broken.html"
    text = written.read_text(encoding="utf-8")
    broken.write_text(text.replace("draw();\n})();", "nothing();\n})();").replace(
        "</main>", '<img src="http://127.0.0.1:9/x.png"></main>'), encoding="utf-8")  # fmt: skip
    browser.open(broken, 1280, "light")

    def messages() -> list[str]:
        return [entry["message"] for entry in browser.driver.get_log("browser")]

    assert appears("127.0.0.1", browser.requests)
    assert appears("nothing", messages)


def appears(text: str, read: Callable[[], list[str]]) -> bool:
    """Whether a text is in what the browser tells within thirty seconds; it may tell late."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if any(text in line for line in read()):
            return True
        time.sleep(0.05)
    return False


HOSTILE = (
    "<script>window.acted=1</script>",
    "</script><script>window.acted=1</script>",
    '"><img src=x onerror=window.acted=1>',
    "' onmouseover='window.acted=1' x='",
    "<!--<script>",
    "]]></svg><svg onload=window.acted=1>",
    "\u2028window.acted=1\u2029",
    "\u202etxt.exe\u2066\u200b",
    "\x1b]0;x\x07\x1b[2J\r\n",
    "javascript:window.acted=1",
    "__proto__",
    "{{ 7 * 7 }}{% raw %}",
    "$\\frac{x}$_^&lt;&#60;",
    "<" * 40_000,
)
"""Texts that act if a page takes them for anything but text."""


def strings(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the texts in a JSON value stand."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in parts:
        if isinstance(item, dict | list):
            yield from strings(item, (*path, key))
        elif isinstance(item, str | None):
            yield (*path, key)


def hostile(record: dict[str, Any], text: str, read: Callable[[dict[str, Any]], object]) -> Any:
    """The record with a text in every place where its reader lets it stand."""
    for *path, last in list(strings(record)):
        trial = json.loads(json.dumps(record))
        place = trial
        for key in path:
            place = place[key]
        place[last] = text
        with suppress(ValueError):
            read(signed(trial))
            record = trial
    return signed(record)


@pytest.fixture(scope="module")
def hostile_runs(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Runs and tables, read from files; of each the name and every field is one hostile text."""
    folder = tmp_path_factory.mktemp("hostile")
    settings = Settings(Budget.fixed(10, 100), precision="fp32", device="cpu")
    method, data = FixedSmoothing(load_bundle(tiny_bundle), 0.25), load_images("digits")
    certify_run(method, data, [0], settings, folder / "run", make=FakeSampler)
    honest = json.loads((folder / "run" / "run.json").read_text())
    lines = (folder / "run" / "certificates.jsonl").read_text().splitlines()
    paths = []
    for number, text in enumerate(HOSTILE):
        here = folder / text.replace("/", "")[:60].encode("unicode_escape").decode()
        if number % 2:
            here = folder / text.replace("/", "")[:60]
        here.mkdir()
        record = hostile(honest, text, lambda r: check_configuration(r["configuration"]))
        assert record["configuration"]["data_digest"] == text
        (here / "run.json").write_text(json.dumps(record))
        log = [hostile(json.loads(line), text, lambda r: Certificate.from_json(json.dumps(r)))
               for line in lines]  # fmt: skip
        assert all(line["method"] == line["sampler"] == text for line in log)
        (here / "certificates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
        table = here / f"{here.name}.tsv"
        table.write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t1\t1\t-0.5\t1\t0\n1\t1")
        paths += [here, table]
    return read_runs(paths)


@pytest.fixture(scope="module")
def hostile_page(hostile_runs: list[Run]) -> str:
    summaries = [summarize(run.name, run.rows) for run in hostile_runs]
    return page(hostile_runs, summaries, plots(hostile_runs[:6]))


class Walk(HTMLParser):
    """What a browser would act on: scripts, handlers, frames, and places outside the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts, self.acts, self.data = 0, list[str](), ""
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self._inside = ("id", "data") in attributes
        if tag in ("iframe", "object", "embed", "base", "form", "a", "foreignobject", "animate"):
            self.acts.append(tag)
        for name, value in attributes:
            outside = name.endswith(("href", "src", "action")) and (value or "")[:1] != "#"
            if name.startswith("on") or (outside and value != "data:,") or name == "http-equiv":
                self.acts.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.data += data if self._inside else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = False


def test_no_field_becomes_an_element(hostile_runs: list[Run], hostile_page: str) -> None:
    walk = Walk(hostile_page)
    assert (walk.scripts, walk.acts) == (2, [])
    data = json.loads(walk.data)
    assert [run["name"] for run in data["runs"]] == [run.name for run in hostile_runs]
    assert all(c == "\n" or c.isprintable() for c in hostile_page)
    assert len(hostile_runs) == 2 * len(HOSTILE)


@pytest.mark.parametrize("broken", ["data", "text", "attribute"])
def test_a_field_that_is_not_escaped_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    text = HOSTILE[{"data": 1, "text": 0, "attribute": 2}[broken]]
    runs = [Run("a" if broken == "attribute" else text, Path("a"), rows(2))]
    drawn = [replace(plot, title=text) for plot in plots(runs)[: broken == "attribute"]]
    if broken == "data":
        monkeypatch.setattr("dualsmooth.engine.report.page._as_script", json.dumps)
    elif broken == "text":
        monkeypatch.setattr("dualsmooth.engine.report.page.part", unescaped(part))
        monkeypatch.setattr("dualsmooth.engine.report.page._template", _template.__wrapped__)
    walk = Walk(page(runs, [summarize(text, runs[0].rows)], drawn))
    assert (walk.scripts, walk.acts) != (2, [])


def unescaped(part: Callable[[str], str]) -> Callable[[str], str]:
    """The parts of the page, its template escaping nothing."""
    return lambda name: part(name).replace("{{ s.name|soft }}", "{{ s.name|safe }}")


def test_a_browser_shows_every_field_as_text(
    browser: Browser, hostile_runs: list[Run], hostile_page: str, tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text(hostile_page, encoding="utf-8")
    browser.open(tmp_path / "report.html", 1280, "light")
    names = browser.run("return [...document.querySelectorAll('#run option')].map(o => o.label)")
    assert names == [" ".join(run.name.split()) for run in hostile_runs]
    for number, run in enumerate(hostile_runs):
        browser.run(f"const r = document.getElementById('run'); r.value = '{number}';"
                    "r.dispatchEvent(new Event('change'))")  # fmt: skip
        assert len(browser.column(0)) == min(20, len(run.rows))
    assert browser.run("return window.acted ?? null") is None
    assert browser.run("return document.scripts.length") == 2
    acting = "return [...document.querySelectorAll('*')].filter(e => [...e.attributes].some("
    assert browser.run(acting + "a => a.name.startsWith('on'))).length") == 0
    text = browser.run("return document.body.innerText")
    assert all(c in "\n\t" or c.isprintable() or c == "\xa0" for c in text)
    assert browser.driver.get_log("browser") == []
    assert [url for url in browser.requests() if not url.startswith(("file:", "data:"))] == []
