"""Certificates as a table in the format of Cohen et al.'s code."""

from collections.abc import Iterable
from decimal import ROUND_DOWN, Decimal

from dualsmooth.engine.certificate import ABSTAIN, Certificate

COLUMNS = ("idx", "label", "predict", "radius", "correct", "time")
RADIUS_DIGITS = Decimal("0.000001")


def table(certificates: Iterable[Certificate]) -> str:
    """Cohen et al.'s tab-separated columns; predict -1 is abstain, radii are rounded down."""
    lines = ["\t".join(COLUMNS)]
    for c in certificates:
        label = "" if c.label is None else str(c.label)
        predicted = ABSTAIN if c.predicted is None else c.predicted
        fields = (c.image_id, label, predicted, radius_text(c.radius), int(c.correct), c.seconds)
        lines.append("\t".join(f"{f:.6f}" if isinstance(f, float) else str(f) for f in fields))
    return "\n".join(lines) + "\n"


def radius_text(radius: float) -> str:
    """Six decimals, rounded down."""
    return str(Decimal(radius).quantize(RADIUS_DIGITS, rounding=ROUND_DOWN))
