"""Checks of a deployment: the exported files in ONNX Runtime against the engine in PyTorch.

Both add the same noise and cast the same votes, except where rounding inside a network decides: a
draw whose two largest logits lie closer than `GAP` may go either way. So counts may differ by as
many votes as there are such draws, and a certificate may differ where counts do. Int8 networks are
other base classifiers than the engine's and are checked against themselves (`check_int8`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.draws import Draw, DrawRecord, Phase
from dualsmooth.engine.images import unit_float
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.noise.stream import standard_normal
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import Settings
from dualsmooth.engine.terminal.progress import passing_bar
from dualsmooth.export.certifier import OnnxCertifier
from dualsmooth.export.check.finding import Finding
from dualsmooth.export.check.int8 import check_int8, check_pairs
from dualsmooth.export.check.noise import check_noise
from dualsmooth.export.check.predictor import check_predictor
from dualsmooth.export.deployment import Deployment, method_of

GAP = 1e-4
"""Gap of the two largest logits, relative to the largest, under which rounding may move a vote."""

ROWS = 256


@dataclass
class Difference:
    """Draws of one image whose counts differ: votes moved, and draws that rounding may decide."""

    draws: int = 0
    moved: int = 0
    close: int = 0

    @property
    def explained(self) -> bool:
        """Whether close gaps account for every vote that moved."""
        return self.moved <= self.close


def check_deployment(
    deployment: Deployment,
    bundle: Bundle,
    images: NDArray[np.generic],
    *,
    seed: int = 0,
    threads: int | None = None,
) -> list[Finding]:
    """Run every check of what was exported from a bundle, on images whose ids are positions."""
    findings = [check_noise(deployment, role, images[:3], seed) for role in sorted(bundle.networks)]
    findings += check_predictor(deployment, images, seed)
    ours = _with_engine(deployment, bundle, images, seed, threads)
    with OnnxCertifier(deployment.folder, seed=seed, threads=threads) as certifier:
        theirs = _in_order(certifier.certify_all(images), len(images), "ONNX Runtime")
    if deployment.precision == "int8":
        findings += check_pairs(deployment, bundle, images[:3], seed, GAP)
        return [*findings, *check_int8(deployment, images, theirs, ours, seed)]
    logits = _Logits(bundle, seed)
    differences = [
        _difference(logits, image, *pair) for image, *pair in zip(images, ours, theirs, strict=True)
    ]
    return [*findings, _votes(ours, differences), compare_certificates(ours, theirs, differences)]


def _with_engine(
    deployment: Deployment,
    bundle: Bundle,
    images: NDArray[np.generic],
    seed: int,
    threads: int | None,
) -> list[Certificate]:
    """The engine's certificates in float32 on the CPU, in the order of the images."""
    terms = deployment.terms
    settings = Settings(
        Budget.fixed(terms.n0, terms.n),
        terms.alpha,
        seed,
        device="cpu",
        precision="fp32",
        batch_size=deployment.batch_size,
        threads=threads,
    )
    with Session.open(method_of(bundle, terms), settings) as session:
        return _in_order(session.certify(images), len(images), "engine")


def _in_order(certificates: Iterable[Certificate], total: int, whose: str) -> list[Certificate]:
    shown = passing_bar(iterable=certificates, desc=whose, total=total, unit="image")
    return sorted(shown, key=lambda certificate: certificate.image_id)


class _Logits:
    """The engine's logits of the samples of a draw."""

    def __init__(self, bundle: Bundle, seed: int) -> None:
        self.bundle, self.seed = bundle, seed
        self.networks = {role: bundle.build(role) for role in bundle.networks}

    def close(self, image: NDArray[np.generic], image_id: int, record: DrawRecord) -> int:
        """Samples of a draw whose two largest logits are closer than `GAP`."""
        import torch

        stream = Draw("", 1.0, Phase[record.phase], 0, 1, record.level).stream
        close = 0
        for first in range(record.first, record.first + record.count, ROWS):
            samples = np.arange(first, min(first + ROWS, record.first + record.count))
            noise = standard_normal(self.seed, image_id, stream, samples, self.bundle.input_shape)
            noisy = unit_float(image) + np.float32(record.sigma) * noise
            with torch.inference_mode():
                rows = torch.from_numpy(noisy).permute(0, 3, 1, 2)
                logits = self.networks[record.model](rows).numpy()
            top = np.sort(logits, axis=1)[:, -2:]
            scale = np.maximum(1.0, np.abs(logits).max(axis=1))
            close += int((top[:, 1] - top[:, 0] < GAP * scale).sum())
        return close


def _difference(
    logits: _Logits, image: NDArray[np.generic], ours: Certificate, theirs: Certificate
) -> Difference:
    """Compare draws in order, up to the first one that only one of the two asked for."""
    found = Difference()
    for a, b in zip(ours.counts, theirs.counts, strict=False):
        if replace(a, votes=b.votes) != b:
            break
        moved = sum(abs(x - y) for x, y in zip(a.votes, b.votes, strict=True)) // 2
        if moved:
            found.draws += 1
            found.moved += moved
            found.close += logits.close(image, ours.image_id, a)
    return found


def _votes(ours: Sequence[Certificate], differences: Sequence[Difference]) -> Finding:
    votes, moved = sum(c.draws for c in ours), sum(d.moved for d in differences)
    draws = sum(d.draws for d in differences)
    close = sum(d.close for d in differences)
    text = f"{votes - moved:,} of {votes:,} equal"
    if draws:
        text += f"; {moved} moved in {draws} draws with {close} logit gaps under {GAP:g}"
    return Finding("votes", all(d.explained for d in differences), text)


def compare_certificates(
    ours: Sequence[Certificate], theirs: Sequence[Certificate], differences: Sequence[Difference]
) -> Finding:
    """Equal, or smaller than the engine's, or larger because of votes that rounding moved."""
    equal = smaller = larger = wrong = 0
    for a, b, difference in zip(ours, theirs, differences, strict=True):
        if (a.predicted, a.radius, a.sigma) == (b.predicted, b.radius, b.sigma):
            equal += 1
        elif b.predicted in (None, a.predicted) and b.radius <= a.radius:
            smaller += 1
        elif difference.moved and difference.explained:
            larger += 1
        else:
            wrong += 1
    text = f"{equal} of {len(ours)} equal, {smaller} smaller, {larger} larger by votes moved"
    return Finding("certificates", not wrong, f"{text}, {wrong} unexplained")
