"""Checks of int8 deployments: against the same int8 networks, not against float32 ones.

Rounding to integers turns a difference in the last bit of the noise into one of a whole step, so
votes are recounted from the very noise of the vote graphs, which `check_noise` compares with the
specification: NumPy adds it to the image, ONNX Runtime runs NAME.onnx, NumPy takes the argmax and
counts. Nothing may differ. The engine's float32 certificates stand beside them for information.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate, Claim
from dualsmooth.engine.draws import Draw, Phase
from dualsmooth.engine.images import unit_float
from dualsmooth.engine.methods.transfer import pair_role
from dualsmooth.engine.models.bundle import SELECTOR, Bundle
from dualsmooth.engine.models.sources.onnx_guard import read_deployed
from dualsmooth.engine.models.sources.onnx_session import OrtSession, make_session
from dualsmooth.engine.runtime.drive import drive
from dualsmooth.engine.runtime.flight import Flight
from dualsmooth.engine.samplers.sampler import Sampler, Segment, row_votes
from dualsmooth.export.check.finding import Finding
from dualsmooth.export.deployment import Deployment
from dualsmooth.export.feeds import vote_feeds
from dualsmooth.export.graph.nodes import PIXELS
from dualsmooth.export.graph.philox import NOISE
from dualsmooth.export.graph.probe import probe

PASSES = 4
"""Full passes in which int8 and float32 are paired, for each image."""


class Recount(Sampler):
    """Sampler over NAME.onnx with the noise seen inside NAME.votes.onnx."""

    def __init__(self, deployment: Deployment, seed: int) -> None:
        self.deployment, self.seed = deployment, seed
        self.batch_size = deployment.batch_size
        roles = list(deployment.bundle.networks)
        self._seen = {role: _probed(deployment, role) for role in roles}
        self._networks = {
            role: make_session(read_deployed(deployment.network_file(role))) for role in roles
        }
        self._image = np.zeros(deployment.bundle.input_shape, np.float32)

    def load(self, slot: int, image: NDArray[np.float32]) -> None:
        """Take an image, float32, shape (height, width, channels)."""
        self._image = image

    def count(self, model: str, segments: Sequence[Segment]) -> NDArray[np.int64]:
        """Votes per segment, shape (segments, classes + 1)."""
        outputs = self.deployment.bundle.outputs(model)
        votes = [self.rows(model, segment)[0] for segment in segments]
        return np.array([np.bincount(v, minlength=outputs + 1) for v in votes])

    def rows(self, model: str, segment: Segment) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Vote of each row, and the noisy images (rows, channels, height, width)."""
        feeds = vote_feeds(self._image, segment, self.seed)
        (noise,) = self._seen[model].run([NOISE], feeds)  # [passes, rows, height, width, channels]
        noisy = self._image + np.float32(segment.sigma) * noise
        pixels = np.ascontiguousarray(noisy.transpose(0, 1, 4, 2, 3))
        logits = [self._networks[model].run(None, {PIXELS: batch})[0] for batch in pixels]
        votes = row_votes(np.concatenate(logits)[: segment.count])
        return votes, np.concatenate(pixels)[: segment.count]


def check_int8(
    deployment: Deployment,
    images: NDArray[np.generic],
    certificates: Sequence[Certificate],
    floats: Sequence[Certificate],
    seed: int,
) -> list[Finding]:
    """Votes and certificates from `OnnxCertifier` against a recount.

    `floats` are the engine's certificates of the float32 networks; images have their positions as
    ids.
    """
    recount, terms = Recount(deployment, seed), deployment.terms
    budget, method = Budget.fixed(terms.n0, terms.n), deployment.method()
    total = moved = equal = 0
    for image_id, (image, found) in enumerate(zip(images, certificates, strict=True)):
        recount.load(0, unit_float(image))
        flight = drive(Flight(image_id, method.certify(budget, terms.alpha), slot=0), recount)
        total += found.draws
        if tuple(flight.records) != found.counts:
            pairs = zip(flight.records, found.counts, strict=False)
            moved += max(1, sum(_moved(a.votes, b.votes) for a, b in pairs))
        equal += _claim(flight.result) == _claim(found)
    count = len(images)
    return [
        Finding("int8 votes", not moved, f"{total - moved:,} of {total:,} equal a recount"),
        Finding("int8 certificates", equal == count, f"{equal} of {count} equal a recount's"),
        _beside_floats(certificates, floats),
    ]


def _claim(certificate: Certificate | Claim) -> tuple[object, ...]:
    return certificate.predicted, certificate.radius, certificate.sigma


def _moved(a: Sequence[int], b: Sequence[int]) -> int:
    return int(np.abs(np.subtract(a, b)).sum()) // 2


def _beside_floats(ours: Sequence[Certificate], floats: Sequence[Certificate]) -> Finding:
    same = sum(a.predicted == b.predicted for a, b in zip(ours, floats, strict=True))
    mean = [np.mean([c.radius for c in group]) for group in (ours, floats)]
    text = (
        f"another base classifier: same answer on {same} of {len(ours)}, mean radius "
        f"{mean[0]:.4f} in int8, {mean[1]:.4f} in float32"
    )
    return Finding("beside float32", True, text)


def _probed(deployment: Deployment, role: str) -> OrtSession:
    read_deployed(path := deployment.votes_file(role))  # refuses what onnx would follow
    model = probe(onnx.load(path))
    return make_session(model.SerializeToString())


def check_pairs(
    deployment: Deployment, bundle: Bundle, images: NDArray[np.generic], seed: int, gap: float
) -> list[Finding]:
    """One finding per classifier: int8 votes of NAME.onnx beside PyTorch's in float32.

    Counts may differ by as many samples as have their two largest float32 logits closer than
    ``gap``, relative to the largest.
    """
    recount = Recount(deployment, seed)
    roles = sorted(set(bundle.networks) - {SELECTOR})
    return [_check_role(recount, bundle, role, images, gap) for role in roles]


def _check_role(
    recount: Recount, bundle: Bundle, role: str, images: NDArray[np.generic], gap: float
) -> Finding:
    import torch

    network, deployment = bundle.build(role), recount.deployment
    session = make_session(read_deployed(deployment.votes_file(pair_role(role))))
    sigmas = [s for s in bundle.sigmas if bundle.classifier_at(s) == role]
    sigma = max(sigmas, default=deployment.terms.sigma)
    assert sigma is not None
    stream = Draw(role, sigma, Phase.PAIR, 0, 1).stream
    counted = disagreements = moved = close = 0
    for image_id, image in enumerate(map(unit_float, images)):
        recount.load(0, image)
        segment = Segment(0, image_id, sigma, stream, 0, PASSES * recount.batch_size)
        votes, pixels = recount.rows(role, segment)
        with torch.inference_mode():
            logits = network(torch.from_numpy(pixels)).numpy()
        differing = votes[votes != row_votes(logits)]
        feeds = vote_feeds(image, segment, recount.seed)
        found = session.run(None, feeds)[0][:-1]
        expected = np.bincount(differing, minlength=len(found))[: len(found)]
        counted += segment.count
        disagreements += int(found.sum())
        moved += int(np.abs(found - expected).sum())
        top = np.sort(logits, axis=1)
        close += int((top[:, -1] - top[:, -2] < gap * np.abs(top).max(axis=1)).sum())
    text = f"{disagreements} disagreements in {counted:,} samples, {moved} unlike PyTorch's"
    return Finding(f"pairs of {role}", moved <= close, text)
