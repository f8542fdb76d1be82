"""Certificates of one call, and what people do with them: sum up, plot, tabulate, save."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.files import at_home
from dualsmooth.engine.machine import install_command
from dualsmooth.engine.records import ids_digest
from dualsmooth.engine.runs.describe import describe
from dualsmooth.engine.runs.log import RunLog
from dualsmooth.engine.runs.record import NOTHING, About, alpha_of_looks, joint_alpha, read_run
from dualsmooth.engine.runs.rederive import read_derived
from dualsmooth.engine.runs.run_checks import RUN, SOURCE
from dualsmooth.engine.runs.summary import RADII, Row, Summary, bounds_of_shares, rows_of, summarize
from dualsmooth.engine.runs.table import radius_text
from dualsmooth.engine.runtime.session import Session, bundle_of

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

    from dualsmooth.engine.report.reading import Run

SHOWN = 10
"""Rows of the table in a notebook."""


class Curve(NamedTuple):
    """Certified accuracy in [0, 1] by radius, with the ends of 95 % intervals; all of one length.

    Accuracy at r is the share of images certified correctly with a radius strictly above r.
    """

    radius: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Certificates(list[Certificate]):
    """Certificates in the order of the images they are about.

    Parameters
    ----------
    certificates : iterable of Certificate
    configuration : mapping, optional
        What decided them, as in a ``run.json``; without it they cannot be saved.
    about : About, optional
        What a ``run.json`` tells beside it.
    """

    def __init__(
        self,
        certificates: Iterable[Certificate],
        configuration: Mapping[str, Any] | None = None,
        about: About = NOTHING,
    ) -> None:
        super().__init__(certificates)
        self.configuration, self.about = dict(configuration or {}), about

    @classmethod
    def of(
        cls, found: Mapping[int, Certificate], session: Session, data: ImageSet
    ) -> "Certificates":
        """What a session certified, by image id, in the order of the images of a data set."""
        ids = data.image_ids
        decided = describe(session.method, data, sorted(ids), session.settings)
        decided |= {"batch_size": session.batch_size, "sampler": session.sampler_name}
        about = About(bundle_of(session.method).source, session.tried)
        return cls([found[i] for i in ids], decided, about)

    @classmethod
    def load(cls, run: str | Path) -> "Certificates":
        """Read a run folder, written by `save` or by the command line, in the order of image ids.

        Raises
        ------
        FileError
            If it is no run folder, or a line of its log is damaged or not what its votes give.
        """
        folder = at_home(run, "run")
        configuration, certificates = read_derived(folder)
        record = read_run(folder)
        about = About(record.get(SOURCE), record["machine"].get("backends") or {})
        return cls(sorted(certificates, key=lambda c: c.image_id), configuration, about)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Certificate: ...

    @overload
    def __getitem__(self, index: slice) -> "Certificates": ...

    def __getitem__(self, index: SupportsIndex | slice) -> "Certificate | Certificates":
        found = super().__getitem__(index)
        known = (self.configuration, self.about)
        return Certificates(found, *known) if isinstance(found, list) else found

    def __repr__(self) -> str:
        if not self:
            return "Certificates(none)"
        done, summary = sum(c.predicted is not None for c in self), self.summary()
        correct = f", {summary.certified[0.0]} correctly" if self._labelled else ""
        method, alpha = self[0].method, self[0].alpha.budget
        if self.configuration:
            alpha = joint_alpha(self.configuration)  # of all looks at a run that has grown
        return (
            f"Certificates({len(self)} images, {done} certified{correct}; mean radius "
            f"{radius_text(sum(c.radius for c in self) / len(self))[:-3]}; {method}, "
            f"alpha {alpha:g})"
        )

    def _repr_html_(self) -> str:
        """As notebooks show them: the line above, and the first images in a table."""
        names = ("image", "label", "certified", "radius", "sigma")
        head = "".join(f"<th>{name}</th>" for name in names)
        lines = []
        for c in self[:SHOWN]:
            answer, label = self._called(c.predicted) or "abstained", self._called(c.label)
            sigma = "" if c.sigma is None else f"{c.sigma:g}"
            cells = (c.image_id, label, answer, radius_text(c.radius)[:-2], sigma)
            lines.append("<tr>" + "".join(f"<td>{escape(str(x))}</td>" for x in cells) + "</tr>")
        more = f"<p>.. and {len(self) - SHOWN} more</p>" if len(self) > SHOWN else ""
        return f"<p>{escape(repr(self))}</p><table><tr>{head}</tr>{''.join(lines)}</table>{more}"

    def _called(self, number: int | None) -> str:
        """Number and name of a class; empty without one."""
        names = dict(enumerate(self.configuration.get("classes") or ()))
        return "" if number is None else f"{number} {names.get(number, '')}".rstrip()

    @property
    def _labelled(self) -> bool:
        return any(c.label is not None for c in self)

    @property
    def _radii(self) -> tuple[float, ...]:
        return tuple(self.configuration.get("radii") or RADII)

    def summary(self, radii: Sequence[float] | None = None) -> Summary:
        """Certified accuracies at radii, average certified radius, abstentions, votes per image."""
        name = self[0].method if self else ""
        looks = alpha_of_looks(self.configuration)
        return summarize(name, self._rows, self._radii if radii is None else radii, alpha=looks)

    @property
    def _rows(self) -> list[Row]:
        return rows_of(self)

    def curve(self, radii: Sequence[float] | None = None) -> Curve:
        """Certified accuracy at radii, by default wherever it falls: no point of it is lost."""
        from dualsmooth.engine.report.plots import certified

        rows = self._rows
        grid = np.unique([0.0, *(r.radius for r in rows if r.correct)] if radii is None else radii)
        counts = certified(rows, grid)
        low, high = bounds_of_shares(counts, len(rows))
        return Curve(grid, counts / max(1, len(rows)), low, high)

    def plot(self, axes: "Axes | None" = None) -> "Axes":
        """Draw certified accuracy against the radius, with 95 % bands (extra ``report``)."""
        from dualsmooth.engine.report.drawing import require_matplotlib
        from dualsmooth.engine.report.plots import draw_curves

        require_matplotlib()
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.subplots()[1]
        draw_curves(axes, [self._run(Path())], at_least=False)
        return axes

    def report(self, folder: str | Path, *, html: bool = True) -> list[Path]:
        """Write tables, plots and ``report.html`` into a folder (extra ``report``); the files."""
        from dualsmooth.engine.report.write import write_report

        place = at_home(folder, "folder")
        names = write_report([self._run(place)], [self.summary()], place, html=html)
        return [place / name for name in names]

    def _run(self, place: Path) -> "Run":
        from dualsmooth.engine.report.reading import Run

        if not self:
            raise ArgumentError("certificates", "must be at least one to draw", 0)
        return Run(self[0].method, place, self._rows, self.configuration)

    def to_pandas(self) -> "pandas.DataFrame":
        """A data frame with a row per image (needs pandas).

        Radii are the float64 of the certificates, which are rounded down; label and predicted are
        missing where unknown or abstained.
        """
        from dualsmooth.engine.report.parquet import COLUMNS

        try:
            import pandas
        except ImportError:
            rule, hint = "needs pandas, which is not installed", install_command("pandas")
            raise ArgumentError("to_pandas", rule, "no pandas", hint) from None
        frame = pandas.DataFrame({name: [getattr(c, name) for c in self] for name in COLUMNS})
        return frame.astype({"label": "Int64", "predicted": "Int64"})

    def save(self, run: str | Path, *, fresh: bool = False) -> Path:
        """Write a run folder, which `load`, ``dualsmooth report`` and ``audit`` read.

        Parameters
        ----------
        run : str or Path
            A folder, new or empty; with ``fresh`` a run in it is replaced.

        Raises
        ------
        ArgumentError
            If these are a part of what was certified together.
        FileError
            If the folder holds something else or cannot be written.
        """
        folder = at_home(run, "run")
        ids = sorted(certificate.image_id for certificate in self)
        if ids_digest(ids) != self.configuration.get("image_ids_digest"):
            rule, hint = "must be those of one call or run, all of them", "save, then take a part"
            raise ArgumentError("certificates", rule, f"{len(self)} of them", hint)
        if (folder / RUN).exists() and not fresh:
            raise FileError(folder, "holds a run already", hint="save(.., fresh=True) replaces it")
        log = RunLog(folder, self.configuration, self.about, fresh=fresh)
        try:
            log.append(*self)
            log.finish(self.summary().to_dict())
        finally:
            log.close()
        return folder
