"""What a check found."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a check: what was checked, and figures."""

    name: str
    passed: bool
    text: str


def table(findings: Sequence[Finding]) -> str:
    """One aligned line per finding."""
    width = max(len(finding.name) for finding in findings)
    return "\n".join(
        f"{finding.name:<{width}}  {'ok' if finding.passed else 'FAILED':<6}  {finding.text}"
        for finding in findings
    )
