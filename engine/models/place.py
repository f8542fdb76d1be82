"""What kind of source a name is, and where its networks can run."""

from pathlib import Path

from dualsmooth.engine.errors import ArgumentError

TIMM = "timm:"
"""Start of the names of timm's networks: `dualsmooth.engine.models.timm_networks`."""
EXPORTED = (".onnx", ".pt2")
"""Files of classifiers exported elsewhere: `dualsmooth.engine.models.exported`."""


def place_of(source: str | Path, device: str, precision: str) -> tuple[str, str]:
    """Device and precision for a source: exported classifiers run on the CPU in float32.

    Raises
    ------
    ArgumentError
        If something else is asked of one.
    """
    if str(source).startswith(TIMM) or not str(source).lower().endswith(EXPORTED):
        return device, precision
    for name, asked, only in (("device", device, "cpu"), ("precision", precision, "fp32")):
        if asked not in ("auto", only):
            raise ArgumentError(name, f"must be {only} for {', '.join(EXPORTED)} files", asked)
    return "cpu", "fp32"
