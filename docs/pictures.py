"""Draw the pictures of the documentation: ``python docs/pictures.py``, after ``make certify``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dualsmooth.engine.bounds import clopper_pearson_lower
from dualsmooth.engine.data import as_unit_float, load_images
from dualsmooth.engine.draws import Phase
from dualsmooth.engine.noise import standard_normal
from dualsmooth.engine.radius import gaussian_radius
from dualsmooth.engine.report.drawing import COLOURS, DASHES, RADIUS, Plot, pictures, tidy
from dualsmooth.engine.report.plots import plots
from dualsmooth.engine.report.reading import read_runs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = Path(__file__).parent / "images"
SIGMAS, ALPHA, DIGIT = (0.12, 0.25, 0.5), 0.001, 1
RUNS = ("interval", "fixed-0.12", "fixed-0.25", "fixed-0.5")
FRONTIER = Path(__file__).parents[1] / "benchmarks/results/frontier_fashion.json"
CHOSEN = {
    "dual (median), small": "dual, --prefer small",
    "fixed 0.5": "fixed 0.5",
    "fixed 1": "fixed 1",
}


def ceilings(figure: "Figure") -> None:
    """Largest certified radius against votes, one line per noise level."""
    axes = figure.subplots()
    votes = np.unique(np.logspace(1, 6, 60).astype(int)).tolist()
    for sigma, colour, dash in zip(SIGMAS, COLOURS, DASHES, strict=False):
        radii = [gaussian_radius(float(clopper_pearson_lower(n, n, ALPHA)), sigma) for n in votes]
        axes.plot(votes, radii, color=colour, linestyle=dash, label=f"sigma = {sigma:g}")
    axes.set_xscale("log")
    tidy(axes, "votes n (log scale)", RADIUS)
    axes.legend()


def noise(figure: "Figure") -> None:
    """A digit, and what the networks see of it."""
    image = as_unit_float(load_images("digits").images[DIGIT : DIGIT + 1])[0]
    normal = standard_normal(0, DIGIT, Phase.CLASS_ESTIMATE, range(1), image.shape)[0]
    figure.set_size_inches(5.2, 1.9)
    panels = figure.subplots(1, 4)
    for axes, sigma in zip(panels, (0.0, *SIGMAS), strict=True):
        axes.imshow((image + sigma * normal)[..., 0], cmap="gray", vmin=0, vmax=1)
        axes.set_title(f"sigma = {sigma:g}" if sigma else "image")
        axes.axis("off")


def levels(figure: "Figure") -> None:
    """Certified accuracy of `FRONTIER` at two fixed levels, and where a selector chooses."""
    axes = figure.subplots()
    rows = {row["method"]: row for row in json.loads(FRONTIER.read_text())["rows"]}
    for (name, label), colour, dash in zip(CHOSEN.items(), COLOURS, DASHES, strict=False):
        shares = rows[name]["certified_accuracy"]
        percent = [100 * share for share in shares.values()]
        at = [float(radius) for radius in shares]
        axes.plot(at, percent, color=colour, linestyle=dash, marker="o", markersize=3, label=label)
    axes.set_ylim(0, 100)
    tidy(axes, RADIUS, "certified accuracy (%)")
    axes.legend()


def main(runs: Path) -> None:
    """Write the pictures; ``runs`` holds the folders that ``make certify`` leaves."""
    read = read_runs([runs / name for name in RUNS])
    drawn = [
        Plot("ceilings", "Largest radius that n votes can certify",
             f"Every vote agrees; alpha = {ALPHA:g}.", ceilings),
        Plot("noise", "A digit of the test set under noise",
             "Sample 0 of the noise stream, seed 0; display clipped to [0, 1].", noise),
        Plot("levels", "One noise level, or one chosen for each image",
             "fashion-dual on 1,000 test images of Fashion-MNIST, at every 0.25; "
             "n0 = 100, n = 10,000, alpha = 0.001, seed 0, --runner-up.", levels),
        plots(read)[0],
    ]  # fmt: skip
    IMAGES.mkdir(exist_ok=True)
    for plot in drawn:
        (IMAGES / f"{plot.name}.png").write_bytes(pictures(plot, ["png"])["png"])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/digits"))
