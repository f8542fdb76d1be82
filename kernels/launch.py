"""Launch choices as data. Nothing is tuned at run time: a choice is part of what is certified."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoiseLaunch:
    """Noise kernels: Philox blocks per program and warps."""

    blocks: int = 256
    warps: int = 4

    @classmethod
    def choose(cls, blocks: int) -> "NoiseLaunch":
        """One program per row for small images, 256 blocks per program otherwise.

        Parameters
        ----------
        blocks : int
            Philox blocks of one image.
        """
        return cls(128, 4) if blocks <= 128 else cls()


NOISE_CANDIDATES = (NoiseLaunch(128, 4), NoiseLaunch(256, 4))


@dataclass(frozen=True, slots=True)
class VoteLaunch:
    """Vote kernels: rows per tile, tiles per program, channels per dot, warps."""

    rows: int = 32
    tiles: int = 4
    chunk: int = 64
    warps: int = 4

    @classmethod
    def choose(cls, classes: int, channels: int) -> "VoteLaunch":
        """Few rows and channels at a time once the logits of a tile fill the registers."""
        if classes > 128:
            return cls(rows=16, tiles=1, chunk=16, warps=8)
        return cls(chunk=min(64, channels))


VOTE_CANDIDATES = (VoteLaunch(), VoteLaunch(rows=16, tiles=1, chunk=16, warps=8))
