"""Limits that a figure must keep before anything is timed."""

Figures = dict[str, float]

STAGES = "on-chip: stages"
ON_CHIP = (STAGES, *(f"on-chip: {name}" for name in ("fused", "tiled stem", "chain")))
TILED_CONV = "on-chip: 3x3"
CUDNN, POINTWISE = "cuDNN calls", "kernels: 1x1"
KERNELS = tuple(f"kernels: {name}" for name in ("noise", "stem", "conv", "vote", "resnet"))
GATES = dict(zip(ON_CHIP, ("cuda", "fused", "tiled", "chain"), strict=True))
GATES = {name: f"(on-chip and {text})" for name, text in GATES.items()} | {
    "kernels: stem": "(stem and not on-chip)",
    POINTWISE: "pointwise",
    "kernels: resnet": "(resnet and not on-chip)",
    "kernels: noise": "(words or noise)",
    "kernels: conv": "(conv and not cudnn and not stem)",
    "kernels: vote": "(vote or affine)",
    CUDNN: "cudnn",
}
"""Items that run tests of the kernels, the newest first, and which of `checks.SIZES` each runs:
what is timed rests on their exit codes."""

NEWEST = {TILED_CONV: "(on-chip and 3x3)"}
"""The same, of command 1 only: what rests on it is timed in later ones, if it passed there."""


class CheckFailed(AssertionError):
    """Something that is to be timed is wrong."""


def require(what: str, value: float, limit: float) -> float:
    """The value, unless it is above its limit or NaN."""
    if not value <= limit:
        raise CheckFailed(f"{what}: {value:.3g} is not <= {limit:.3g}")
    return value
