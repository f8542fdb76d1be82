"""Options of the methods, as the command line and configuration files give them."""

from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """What a user may say about a method; None or False where nothing was said.

    Parameters
    ----------
    sigma : float, optional
        Noise level (``fixed``), or level at the typical distance (``semielastic``).
    selector_rule, routing : str, optional
        ``dual``; routing also ``variational``: interval, point or continuous.
    published_split : bool
        ``dual``.
    runner_up : bool
        ``fixed`` and ``dual``.
    target_sigma : float, optional
        ``variational``: target noise the selector is told.
    threshold : float, optional
        ``cascade``: probability from which on a stage is sure.
    region : str, optional
        ``insta``: anchor, memory or certified.
    anchors, memory : Path, optional
        ``insta``: files of the regions.
    search : str, optional
        ``insta`` with a memory: multi-start, quasiconcave or grid.
    references : str, optional
        ``semielastic``: SPEC of the reference images.
    rate, offset : float, optional
        ``semielastic``.
    neighbours : int, optional
        ``semielastic``.
    """

    sigma: float | None = None
    selector_rule: str | None = None
    routing: str | None = None
    published_split: bool = False
    runner_up: bool = False
    target_sigma: float | None = None
    threshold: float | None = None
    region: str | None = None
    anchors: Path | None = None
    memory: Path | None = None
    search: str | None = None
    references: str | None = None
    rate: float | None = None
    offset: float | None = None
    neighbours: int | None = None

    def given(self) -> tuple[str, ...]:
        """Names of the options that were set."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return tuple(name for name, value in values if value is not None and value is not False)


BELONGS_TO = {
    "fixed": ("sigma", "runner_up"),
    "dual": ("selector_rule", "routing", "published_split", "runner_up"),
    "variational": ("routing", "target_sigma"),
    "insta": ("region", "anchors", "memory", "search", "selector_rule", "routing"),
    "cascade": ("threshold",),
    "semielastic": ("sigma", "references", "rate", "offset", "neighbours"),
}
"""Options each method takes."""
