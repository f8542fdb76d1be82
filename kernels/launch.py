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
