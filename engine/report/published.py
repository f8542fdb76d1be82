"""Published results to put beside runs. `PUBLISHED.md` says where they come from.

A line of ``published.tsv`` has a name, the images, those abstained on, and the certified radii of
the images that were right, ``0.457x12`` where twelve have that radius, as the logs print them.
"""

from collections.abc import Sequence
from pathlib import Path

from dualsmooth.engine.checks import did_you_mean
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.report.reading import Run
from dualsmooth.engine.runs.summary import Row

FILE = Path(__file__).with_name("published.tsv")
PAPERS = {"cohen2019": "Cohen et al. (2019)", "acr2025": "Sun et al. (2025)"}
IMAGENET_CLASSES = 1000


def published(name: str, beside: Sequence[Run]) -> list[Run]:
    """Results whose name is ``name`` or starts with it, as ``cohen2019-cifar10`` does.

    If some of them are on a data set that the runs beside them are recorded to be on, the others
    are left out; if none is, the first has a warning.

    Raises
    ------
    ArgumentError
        If there are none of that name.
    """
    found = {line.partition("\t")[0]: line for line in FILE.read_text("utf-8").splitlines()}
    named = [known for known in found if f"{known}-".startswith(f"{name}-")]
    if not named:
        starts = ["-".join(known.split("-")[:i]) for known in found for i in (1, 2, 3, 4)]
        rule = f"must be {' or '.join(PAPERS)}, or one of their data sets, such as {starts[1]}"
        raise ArgumentError("against", rule, name, did_you_mean(name, starts))
    data = {run.name: _data(run) for run in beside if run.configuration}
    same = [known for known in named if known.split("-")[1] in data.values()]
    runs = [_run(found[known]) for known in same or named]
    if data and not same:
        runs[0].warnings.append(f"{name} is about other images than {', '.join(data)}")
    return runs


def _data(run: Run) -> str:
    """The data set a run is recorded to be on, in the words of the names here if it has one."""
    if run.configuration["bundle_manifest"]["num_classes"] == IMAGENET_CLASSES:
        return "imagenet"
    return str(run.configuration["data"]).partition(":")[0]


def _run(line: str) -> Run:
    name, images, abstained, radii = line.split("\t")
    sigma = float(name.rpartition("-")[2])
    rows = [Row(0.0, False, True, sigma=sigma)] * int(abstained)
    for step in radii.split():
        radius, _, count = step.partition("x")
        rows += [Row(float(radius), True, False, sigma=sigma)] * int(count or 1)
    rows += [Row(0.0, False, False, sigma=sigma)] * (int(images) - len(rows))
    paper = PAPERS[name.partition("-")[0]]
    origin = f"as published by {paper}, n0 = 100, n = 100,000, alpha not recorded"
    return Run(name, FILE, rows, origin=origin)
