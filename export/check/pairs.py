"""Disagreements counted inside the graphs of an int8 deployment, counted again outside."""

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.draws import Draw, Phase
from dualsmooth.engine.images import unit_float
from dualsmooth.engine.methods.transfer import pair_role
from dualsmooth.engine.models.bundle import SELECTOR, Bundle
from dualsmooth.engine.models.sources.onnx_guard import read_deployed
from dualsmooth.engine.models.sources.onnx_session import make_session
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.export.check.finding import Finding
from dualsmooth.export.check.int8 import Recount, row_votes
from dualsmooth.export.deployment import Deployment
from dualsmooth.export.feeds import vote_feeds


def check_pairs(
    deployment: Deployment, bundle: Bundle, images: NDArray[np.generic], seed: int, gap: float
) -> list[Finding]:
    """One finding per classifier: int8 votes of NAME.onnx beside PyTorch's in float32.

    Counts may differ by as many samples as have their two largest float32 logits closer than
    ``gap``, relative to the largest.

    Parameters
    ----------
    deployment : Deployment
        In int8.
    bundle : Bundle
        What it was exported from.
    images : ndarray, shape (count, height, width, channels)
        Their ids are their positions.
    seed : int
        Of the noise.
    gap : float
        Relative tolerance.
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
    sigma = max(sigmas, default=deployment.recipe.sigma)
    assert sigma is not None
    stream = Draw(role, sigma, Phase.PAIR, 0, 1).stream
    counted = disagreements = moved = close = 0
    for image_id, image in enumerate(map(unit_float, images)):
        recount.load(0, image)
        segment = Segment(0, image_id, sigma, stream, 0, recount.capacity)
        votes, pixels = recount.rows(role, segment)
        with torch.inference_mode():
            logits = network(torch.from_numpy(pixels)).numpy()
        differing = votes[votes != row_votes(logits)]
        feeds = vote_feeds(
            image, segment.count, sigma=sigma, seed=recount.seed, image_id=image_id, phase=stream
        )
        found = session.run(None, feeds)[0][:-1]
        expected = np.bincount(differing, minlength=len(found))[: len(found)]
        counted += segment.count
        disagreements += int(found.sum())
        moved += int(np.abs(found - expected).sum())
        top = np.sort(logits, axis=1)
        close += int((top[:, -1] - top[:, -2] < gap * np.abs(top).max(axis=1)).sum())
    text = f"{disagreements} disagreements in {counted:,} samples, {moved} unlike PyTorch's"
    return Finding(f"pairs of {role}", moved <= close, text)
