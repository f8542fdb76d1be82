"""The dual predictor graph against the vote graphs and the engine's routing rules."""

import numpy as np
from numpy.typing import NDArray

from dualsmooth.engine.draws import Counts, Draw, Phase
from dualsmooth.engine.images import unit_float
from dualsmooth.engine.methods.routing import routed_level
from dualsmooth.engine.models.joint import class_votes, joint_level, level_votes
from dualsmooth.engine.models.sources.onnx_guard import read_deployed
from dualsmooth.engine.models.sources.onnx_session import OrtSession, make_session
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.export.check.finding import Finding
from dualsmooth.export.deployment import DUAL, Deployment
from dualsmooth.export.feeds import dual_feeds, vote_feeds

VOTES = 1000
"""Votes of each stage; not a multiple of the rows of a pass."""


def check_predictor(
    deployment: Deployment, images: NDArray[np.generic], seed: int
) -> list[Finding]:
    """Votes, level and sigma of the dual predictor, exactly; nothing if there is no selector."""
    bundle = deployment.bundle
    if bundle.tau is None:
        return []
    dual = make_session(read_deployed(deployment.folder / DUAL))
    alone = {
        role: make_session(read_deployed(deployment.votes_file(role))) for role in bundle.networks
    }
    rule, at = deployment.terms.selector_rule or "median", joint_level(bundle)

    def votes(role: str, draw: Draw, image: NDArray[np.float32], image_id: int) -> Counts:
        return _votes(alone[role], draw, image, image_id, seed)

    equal = 0
    for image_id, image in enumerate(map(unit_float, images)):
        selector, level, sigma, classes = dual.run(
            None, dual_feeds(image, VOTES, seed=seed, image_id=image_id)
        )
        select = Draw("selector", bundle.tau, Phase.SELECT_PREDICT, 0, VOTES)
        cast = votes("selector", select, image, image_id)
        expected = cast if at is None else level_votes(cast, len(bundle.sigmas))
        chosen = routed_level(rule, expected)
        same = np.array_equal(selector, expected) and level == (-1 if chosen is None else chosen)
        if same and chosen is not None:
            noise = bundle.sigmas[chosen]
            role = bundle.classifier_at(noise)
            classify = Draw(role, noise, Phase.CLASS_PREDICT, 0, VOTES, chosen)
            if chosen == at:
                expected = class_votes(cast, len(bundle.sigmas))
            else:
                expected = votes(role, classify, image, image_id)
            same = sigma == np.float32(noise) and np.array_equal(classes, expected)
        equal += same
    text = f"{equal} of {len(images)} images have the votes and levels of the vote graphs"
    return [Finding("dual predictor", equal == len(images), text)]


def _votes(
    session: OrtSession, draw: Draw, image: NDArray[np.float32], image_id: int, seed: int
) -> Counts:
    feeds = vote_feeds(image, Segment.of(draw, 0, image_id, 0, draw.count), seed)
    counts: Counts = session.run(None, feeds)[0]
    return counts
