"""Limits that a figure must keep before anything is timed."""

Figures = dict[str, float]

KERNELS = tuple(f"kernels: {name}" for name in ("noise", "stem", "conv", "vote", "resnet"))
CUDNN, ON_CHIP = "cuDNN calls", "on-chip stages"
"""Items that run tests of the kernels: what is timed rests on their exit codes."""


class CheckFailed(AssertionError):
    """Something that is to be timed is wrong."""


def first_line(error: BaseException) -> str:
    """Kind of an error and its first line, if it has words."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def require(what: str, value: float, limit: float) -> float:
    """The value, unless it is above its limit or NaN."""
    if not value <= limit:
        raise CheckFailed(f"{what}: {value:.3g} is not <= {limit:.3g}")
    return value
