"""How plots look: colours that colour-blind readers can tell apart, and files made of figures."""

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.machine import install_command

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f7fc1", "#d55e00", "#0a9c74", "#c46a9c", "#b28700", "#6a5acd", "#7f7f7f")
"""Okabe and Ito's palette, shifted until each colour stands out on white and on near-black."""
DASHES = ("-", "--", "-.", ":")
CORRECT, WRONG, ABSTAINED = "#2f7fc1", "#d55e00", "#8c8c8c"
INK, TURNING_INK = "#222222", "#010203"
WIDTH = 5.2
RADIUS = "ℓ₂ radius (input units)"


@dataclass(frozen=True)
class Plot:
    """A picture, how high it is (inches), and what is said below it: where it stands alone with
    the conditions, images, votes, alpha, too.
    """

    name: str
    title: str
    caption: str
    draw: "Callable[[Figure], None]"
    conditions: str = ""
    height: float = 3.5

    @property
    def said(self) -> str:
        return f"{self.caption} {self.conditions}".rstrip()


def require_matplotlib() -> None:
    """Raise `ArgumentError` if matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        rule, hint = "needs matplotlib for its plots", install_command("report")
        raise ArgumentError("out", rule, "matplotlib not installed", hint) from None


def pictures(plot: Plot, kinds: Sequence[str]) -> dict[str, bytes]:
    """A plot with its caption as files, by kind: ``png``, ``pdf`` or ``svg``."""
    figure = _figure(plot, INK)
    below = textwrap.fill(plot.said, 92)
    figure.text(0.01, -0.02, below, ha="left", va="top", fontsize=7.5, color=INK, parse_math=False)
    figure.text(0.01, 1.01, plot.title, ha="left", va="bottom", fontsize=11, color=INK)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the layout is found; every file has the same
    for legend in figure.legends:  # would move up over the title with the edges of the picture
        legend.set_bbox_to_anchor((0, 0, 1, 1), figure.transFigure)
    return {kind: _saved(figure, kind, INK) for kind in kinds}


def inline_svg(plot: Plot) -> str:
    """A plot as an SVG element whose text and axes take the colour of the text around it.

    ``data-frame`` says where its first axes begin and end, as shares of the width, and at which
    value of x.
    """
    figure = _figure(plot, TURNING_INK)
    text = _saved(figure, "svg", TURNING_INK).decode()
    text = text[text.index("<svg") :].replace(TURNING_INK, "currentColor")
    for pattern in (r'(id=")', r"(url\(#)", r'(href="#)'):
        text = re.sub(pattern, rf"\g<1>{plot.name}-", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    axes = figure.axes[0]
    frame = f"{axes.get_position().x0:.4f} {axes.get_position().x1:.4f} {axes.get_xlim()[1]:.6g}"
    label = f'<svg role="img" aria-label="{plot.title}" data-frame="{frame}"'
    return re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2).replace("<svg", label, 1)


def tidy(axes: "Axes", x: str, y: str) -> None:
    """Label both axes and leave out what carries no information."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def plain(name: str) -> str:
    """A name as a label: dollars start no formula, and a first underscore hides no entry."""
    return (" " + name if name.startswith("_") else name).replace("$", r"\$")


def _style(ink: str) -> Any:
    names = ["text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor"]
    names += ["xtick.color", "ytick.color", "grid.color", "legend.labelcolor"]
    sizes = {"font.size": 9, "axes.titlesize": 9, "legend.frameon": False}
    fonts = {"font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"]}
    svg = {"svg.hashsalt": "dualsmooth", "svg.fonttype": "none" if ink == TURNING_INK else "path"}
    return {**dict.fromkeys(names, ink), **sizes, **fonts, **svg}


def _figure(plot: Plot, ink: str) -> "Figure":
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_style(ink)):
        figure = Figure((WIDTH, plot.height), layout="constrained")
        plot.draw(figure)
    return figure


def _saved(figure: "Figure", kind: str, ink: str) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    inline = ink == TURNING_INK  # its frame is known: nothing is cut off or added
    how: Any = {"dpi": 160, "bbox_inches": None if inline else "tight", "transparent": inline}
    with matplotlib.rc_context(_style(ink)):
        figure.savefig(buffer, format=kind, metadata=undated, **how)
    return buffer.getvalue()
