"""Draw the pictures of the documentation: ``python docs/pictures.py``, after ``make certify``."""

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


def main(runs: Path) -> None:
    """Write the pictures; ``runs`` holds the folders that ``make certify`` leaves."""
    read = read_runs([runs / name for name in RUNS])
    drawn = [
        Plot("ceilings", "Largest radius that n votes can certify",
             f"Every vote agrees; alpha = {ALPHA:g}.", ceilings),
        Plot("noise", "A digit of the test set under noise",
             "Sample 0 of the noise stream, seed 0; display clipped to [0, 1].", noise),
        plots(read)[0],
    ]  # fmt: skip
    IMAGES.mkdir(exist_ok=True)
    for plot in drawn:
        (IMAGES / f"{plot.name}.png").write_bytes(pictures(plot, ["png"])["png"])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/digits"))
