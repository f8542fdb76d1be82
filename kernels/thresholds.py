"""Thresholds of the exact integer noise (arXiv 2207.07209): pure Python, 60 decimal digits.

For x on the grid {0 .. 255} / 255, round(x + sigma w) = x + E / 255 with independent integers,
P(E <= i) = Phi((i + 1/2) / (255 sigma)). With U uniform in [0, 2^64),

    E = min {i : U < T_i},   T_i = floor(2^64 Phi((i + 1/2) / (255 sigma))),

and the last i, the first with T_i = 2^64 - 1, takes the rest. No T_i is an integer before the
floor, so T_{-1-i} = 2^64 - 1 - T_i and only i >= 0 is computed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction

import torch

from dualsmooth.kernels.errors import KernelArgumentError

_TOP = (1 << 64) - 1
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781641")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Tables of some noise levels on one device.

    Parameters
    ----------
    limits : int64 tensor (levels, table)
        Bits of the uint64 thresholds, ascending, padded with ones.
    count : int32 tensor (levels,)
        Thresholds in use.
    lowest : int32 tensor (levels,)
        Noise value of a word below every threshold.
    digest : str
        sha256 of the sigmas and thresholds: the version of the tables.
    """

    limits: torch.Tensor
    count: torch.Tensor
    lowest: torch.Tensor
    digest: str

    @property
    def steps(self) -> int:
        """Probes of the binary search: 2^steps > table."""
        return int(self.limits.shape[1]).bit_length()


def noise_thresholds(sigma: float) -> list[int]:
    """T_i for i = -m .. m - 1 with m the largest noise value; 2 m integers in (0, 2^64 - 1).

    Parameters
    ----------
    sigma : float
        Noise standard deviation in [0, 1] pixel units, in (0, 4].
    """
    if not 0.0 < sigma <= 4.0:
        raise KernelArgumentError("sigma", "must be in (0, 4]", sigma)
    upper: list[int] = []
    with localcontext() as context:
        context.prec = 60
        scale = Decimal(sigma) * 255
        while not upper or upper[-1] < _TOP:
            x = (Decimal(len(upper)) + Decimal("0.5")) / scale
            upper.append(min(_TOP, int(_normal_cdf(x) * (1 << 64))))
    upper.pop()
    return [_TOP - t for t in reversed(upper)] + upper


def _normal_cdf(x: Decimal) -> Decimal:
    """Phi(x) for x >= 0: 1/2 + phi(x) (x + x^3/3 + x^5/(3*5) + ...), all terms positive."""
    term, total, odd = x, Decimal(0), 1
    while term > Decimal("1e-55") * total:
        total += term
        odd += 2
        term = term * x * x / odd
    return Decimal("0.5") + total * (-x * x / 2).exp() / (2 * _PI).sqrt()


def threshold_tables(sigmas: Sequence[float], *, device: torch.device | str = "cpu") -> Thresholds:
    """Tables for each sigma in order; row r of a batch names its table by level index."""
    if not sigmas:
        raise KernelArgumentError("sigmas", "must not be empty", sigmas)
    tables = [noise_thresholds(s) for s in sigmas]
    width = max(len(t) for t in tables)
    rows = [[_signed(v) for v in t + [_TOP] * (width - len(t))] for t in tables]
    text = repr([(str(Fraction(s)), t) for s, t in zip(sigmas, tables, strict=True)])
    return Thresholds(
        limits=torch.tensor(rows, dtype=torch.int64, device=device),
        count=torch.tensor([len(t) for t in tables], dtype=torch.int32, device=device),
        lowest=torch.tensor([-len(t) // 2 for t in tables], dtype=torch.int32, device=device),
        digest=hashlib.sha256(text.encode()).hexdigest(),
    )


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
