"""Every field of every file of a run, forged with right checksums: found, or said to be trusted."""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.machine import machine
from dualsmooth.engine.methods.options import Given
from dualsmooth.engine.methods.regions.anchors import Anchors, read_anchors
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.models.sources.load import load_bundle
from dualsmooth.engine.records import checksum, digest_of
from dualsmooth.engine.report.reading import read_run as reported
from dualsmooth.engine.results.certificates import Certificates
from dualsmooth.engine.runs.audit import Audit, audit
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.record import read_run
from dualsmooth.engine.runs.summary import RADII, rows_of, summarize
from dualsmooth.engine.runs.table import table
from dualsmooth.engine.samplers.null import FakeSampler
from dualsmooth.engine.settings import Settings

METHODS: dict[str, dict[str, Any]] = {
    "fixed": {"sigma": 0.25},
    "runner-up": {"sigma": 0.25, "runner_up": True},
    "dual": {"method": "dual"},
    "published": {"method": "dual", "selector_rule": "plurality", "published_split": True},
    "cascade": {"method": "cascade", "threshold": 0.6},
    "variational": {"method": "variational"},
    "certified": {"method": "insta", "region": "certified"},
    "anchor": {"method": "insta"},
    "memory": {"method": "insta", "region": "memory"},
    "quasiconcave": {"method": "insta", "region": "memory", "search": "quasiconcave"},
    "semielastic": {"method": "semielastic", "sigma": 0.25, "references": "digits:train"},
}
BUDGETS = {"fixed": Budget.fixed(20, 120), "decide": Budget.decide((0.05, 0.1), 20, 200),
           "precise": Budget.precise(0.1, 50, 200)}  # fmt: skip

NAMES = {"bundle", "data"}
"""Names of what the digests beside them bind; `audit` opens nothing by them."""


@pytest.fixture(scope="module")
def data() -> ImageSet:
    """Some images twice, so that a memory has something to answer."""
    digits = load_images("digits")
    return ImageSet(digits.images[[0, 0, 1]], digits.labels[[0, 0, 1]], "some", digits.classes)


class Run:
    """An honest run, what an auditor needs for it, and ways to alter it."""

    def __init__(
        self, folder: Path, bundle: Path, name: str, budget: Budget, data: ImageSet
    ) -> None:
        options, self.given = dict(METHODS[name]), Given()
        if name == "anchor":
            file = folder / "anchors.npz"
            Anchors(load_images("digits:train").images[:30], [0.12, 0.5] * 15).save(file)
            options["anchors"], self.given = file, Given(anchors=read_anchors(file))
        if name == "semielastic":
            self.given = Given(references=load_images("digits:train").images)
        method = choose_method(load_bundle(bundle), **options)
        settings = Settings(budget, 0.01, slots=1 if method.serial else 4, device="cpu")
        self.folder, self.data = folder / "run", data
        certify_run(method, data, [0, 1, 2], settings, self.folder, make=FakeSampler)
        self.record = json.loads((self.folder / "run.json").read_text())
        self.lines = [json.loads(line) for line in
                      (self.folder / "certificates.jsonl").read_text().splitlines()]  # fmt: skip
        self.radii = budget.radii or RADII
        self.last = max(range(3), key=lambda i: (len(self.lines[i]["bounds"]), i))

    def audit(self, given: Given | None = None, *, without_data: bool = False) -> Audit:
        chosen = self.given if given is None else given
        return audit(self.folder, None if without_data else self.data, chosen)

    def write(self, record: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        """All files anew, as if everything in them had been honest."""
        covered = {key: record[key] for key in ("configuration", "machine")}
        text = json.dumps(record | {"fingerprint": digest_of(covered)})
        (self.folder / "run.json").write_text(text)
        signed = []
        for line in lines:
            rest = {k: v for k, v in line.items() if k not in ("checksum", "seconds")}
            text = json.dumps(rest | {"checksum": checksum(rest), "seconds": line["seconds"]})
            with suppress(ValueError):
                text = Certificate.from_json(text).to_json()
            signed.append(text)
        (self.folder / "certificates.jsonl").write_text("\n".join(signed) + "\n")
        with suppress(ValueError, TypeError):
            certificates = [Certificate.from_json(line) for line in signed]
            name = str(record["configuration"].get("method"))
            summary = summarize(name, rows_of(certificates), self.radii).to_dict()
            (self.folder / "certificates.tsv").write_text(table(certificates))
            (self.folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to numbers, texts, truth values and nulls; of a list the first and the last."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1}) if value else ():
            yield from leaves(value[index], (*path, index))
    else:
        yield path


def forged(value: Any) -> Any:
    """Another value that looks as honest as this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 1.25 + 0.01
    if isinstance(value, str):
        swapped = {"gaussian": "integer", "fp32": "bf16", "cpu": "cuda", "fixed": "precise"}
        return swapped.get(value, value[:-1] + ("0" if value[-1:] != "0" else "1"))
    return 1


def with_forged(value: Any, path: tuple[Any, ...]) -> Any:
    copy = json.loads(json.dumps(value))
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = forged(holder[path[-1]])
    return copy


CASES = [(name, "fixed") for name in METHODS]
CASES += [("dual", "decide"), ("fixed", "decide"), ("dual", "precise"), ("fixed", "precise")]
QUICK = [("dual", "fixed"), ("anchor", "fixed"), ("memory", "fixed"), ("semielastic", "fixed")]


@pytest.fixture(scope="module", autouse=True)
def one_machine() -> Iterator[None]:
    """What `machine` says costs more than an audit."""
    here = machine()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dualsmooth.engine.runs.audit.machine", lambda: here)
        yield


@pytest.fixture(
    scope="module", ids="-".join,
    params=[pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES],
)  # fmt: skip
def run(
    request: pytest.FixtureRequest, tiny_bundle: Path, data: ImageSet,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:  # fmt: skip
    name, budget = request.param
    return Run(tmp_path_factory.mktemp(name), tiny_bundle, name, BUDGETS[budget], data)


def test_every_field_of_a_certificate(run: Run) -> None:
    """With everything at hand nothing is on trust, so every forgery is found."""
    honest = run.audit()
    assert (honest.findings, honest.trusted) == ([], [])
    tried, missed = 0, []
    for path in leaves(run.lines[run.last]):
        if path[0] in {"seconds", "checksum"}:  # a share of the time that a run took states nothing
            continue
        lines = [*run.lines]
        lines[run.last] = with_forged(run.lines[run.last], path)
        run.write(run.record, lines)
        tried += 1
        if not run.audit().findings:
            missed.append(path)
    run.write(run.record, run.lines)
    assert tried > 30
    assert missed == []
    assert run.audit().findings == []


def test_every_field_of_the_configuration(run: Run) -> None:
    tried, missed = 0, []
    for path in leaves(run.record["configuration"]):
        record = run.record | {"configuration": with_forged(run.record["configuration"], path)}
        run.write(record, run.lines)
        tried += 1
        seen = run.audit()
        if not seen.findings and not seen.trusted and path not in {(name,) for name in NAMES}:
            missed.append(path)
    run.write(run.record, run.lines)
    assert tried > 30
    assert missed == []


def test_without_what_sigma_rests_on_the_verdict_says_so(run: Run, data: ImageSet) -> None:
    kind = str(run.record["configuration"]["method"])
    seen = run.audit(Given())
    assert seen.findings == []
    asked = {"insta(anchor": "--anchors", "semielastic": "--references"}
    for start, option in asked.items():
        assert (option in "".join(seen.trusted)) == kind.startswith(start)
    blind = run.audit(without_data=True)
    assert "images and labels (--data)" in blind.trusted[-1]
    assert (len(blind.trusted) == 2) == kind.startswith((*asked, "insta(memory"))


@pytest.fixture
def made(tiny_bundle: Path, data: ImageSet, tmp_path: Path) -> Callable[[str], Run]:
    return lambda name: Run(tmp_path, tiny_bundle, name, BUDGETS["fixed"], data)


@pytest.mark.parametrize("name", METHODS)
def test_an_honest_run_is_clean_for_those_who_have_nothing_but_its_folder(
    made: Callable[[str], Run], name: str
) -> None:
    assert audit(made(name).folder).findings == []


@pytest.mark.parametrize("name", ["anchor", "semielastic", "memory"])
def test_another_sigma_or_a_wider_radius_is_found_in_the_folder_alone(
    made: Callable[[str], Run], name: str
) -> None:
    run = made(name)
    number = next(i for i, line in enumerate(run.lines) if line["predicted"] is not None)
    line = run.lines[number]
    for change in ({"sigma": 2 * line["sigma"]}, {"radius": math.nextafter(line["radius"], 9)}):
        run.write(run.record, [*run.lines[:number], line | change, *run.lines[number + 1 :]])
        assert audit(run.folder).findings


@pytest.mark.parametrize("read", [reported, Certificates.load], ids=["report", "load"])
@pytest.mark.parametrize("name", ["fixed", "dual", "anchor", "memory"])
def test_what_votes_do_not_give_is_neither_reported_nor_loaded(
    made: Callable[[str], Run], name: str, read: Callable[[Path], Any]
) -> None:
    run = made(name)
    read(run.folder)
    number = next(i for i, line in enumerate(run.lines) if line["counts"] and line["bounds"])
    for change in ({"radius": run.lines[number]["radius"] + 1e-6}, {"predicted": 9}):
        run.write(run.record, [line | change if line is run.lines[number] else line
                               for line in run.lines])  # fmt: skip
        with pytest.raises(FileError, match=f"image {number} must have the certificate that its"):
            read(run.folder)


def test_a_method_of_ones_own_is_reported_on_trust(made: Callable[[str], Run]) -> None:
    """Nothing here can derive its certificates again, and the report says so."""
    run = made("fixed")
    options = run.record["configuration"]["options"] | {"method": "mine"}
    configuration = run.record["configuration"] | {"options": options}
    run.write(run.record | {"configuration": configuration}, run.lines)
    (warning,) = reported(run.folder).warnings
    assert "on trust" in warning
    assert "received mine" in warning


def test_a_memory_that_answers_what_it_likes_is_found(made: Callable[[str], Run]) -> None:
    """A wrong class, radius 99 and no votes: with right checksums and tables."""
    run = made("memory")
    ledger = {"rule": "single", "budget": 0.01, "levels": {"classifier": 0.01}, "total": 0.01}
    answer = {"predicted": 7, "radius": 99.0, "region": 99.0, "sigma": 0.25, "counts": [],
              "bounds": [], "draws": 0, "abstained_at": None, "alpha": ledger}  # fmt: skip
    run.write(run.record, [line | answer for line in run.lines])
    assert len(run.audit().findings) == len(run.lines)
    blind = audit(run.folder)
    assert blind.findings == []  # nothing but the images can tell
    assert "what the memory answered" in blind.trusted[0]


def test_anchors_with_the_best_level_of_each_image_are_found(made: Callable[[str], Run]) -> None:
    run = made("anchor")
    number = next(i for i, line in enumerate(run.lines) if "region" in line and line["bounds"])
    line = json.loads(json.dumps(run.lines[number]))
    del line["region"]
    line["radius"] = line["bounds"][0]["radius"]
    line |= {"predicted": int(line["bounds"][0]["event"][2:]), "abstained_at": None}
    lines = [*run.lines]
    lines[number] = line
    run.write(run.record, lines)
    assert "another" in run.audit().findings[0]
    assert "--anchors" in run.audit(Given()).trusted[0]


def test_a_rate_told_once_cannot_contradict_itself(made: Callable[[str], Run]) -> None:
    run = made("semielastic")
    options = run.record["configuration"]["options"]
    assert sorted(options) == ["base", "method", "neighbours", "offset", "rate", "references"]
    for rate in (0.0, 0.3):
        configuration = run.record["configuration"] | {"options": options | {"rate": rate}}
        run.write(run.record | {"configuration": configuration}, run.lines)
        assert "not that of its options" in run.audit().findings[0]
        assert "not that of its options" in run.audit(Given()).findings[0]


def test_other_references_than_the_recorded_are_refused(made: Callable[[str], Run]) -> None:
    images = load_images("digits:train").images[1:40]
    run = made("semielastic")
    assert "references must be those of the run" in run.audit(Given(references=images)).findings[0]


@pytest.mark.parametrize(
    "options",
    [
        {"method": "insta", "anchors": "{fifo}"},
        {"method": "insta", "region": None, "anchors": "{fifo}"},
        {"method": "insta", "region": "memory", "memory": "{fifo}"},
        {"method": "semielastic", "sigma": 0.25, "references": "npz:{fifo}"},
        {"method": "fixed", "sigma": 0.25, "memory": "{fifo}"},
    ],
    ids=str,
)
def test_a_run_opens_no_file_of_its_choice(
    made: Callable[[str], Run], tmp_path: Path, options: dict[str, Any]
) -> None:
    """A pipe would be waited for without end."""
    os.mkfifo(tmp_path / "pipe")
    run = made("fixed")
    pipe = str(tmp_path / "pipe")
    named = {k: v.format(fifo=pipe) if isinstance(v, str) else v for k, v in options.items()}
    configuration = run.record["configuration"] | {"options": named}
    run.write(run.record | {"configuration": configuration}, run.lines)
    assert run.audit().findings


@pytest.mark.parametrize("name", ["certificates.tsv", "summary.json", "certificates.jsonl"])
def test_a_pipe_among_the_files_of_a_run_is_found(made: Callable[[str], Run], name: str) -> None:
    run = made("fixed")
    (run.folder / name).unlink()
    os.mkfifo(run.folder / name)
    finding = run.audit().findings[0]
    assert name in finding
    assert "a folder, FIFO, socket or device" in finding


def test_runs_of_before_are_read(made: Callable[[str], Run]) -> None:
    """Format 1: its fingerprint did not cover the machine."""
    run = made("fixed")
    old = run.record | {"format": 1, "fingerprint": digest_of(run.record["configuration"])}
    (run.folder / "run.json").write_text(json.dumps(old))
    assert read_run(run.folder)["format"] == 1
    assert run.audit().findings == []
