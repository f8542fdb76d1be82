"""Noise inside a vote graph against the specification: words exactly, normals within 2e-6."""

import numpy as np
import onnx
from numpy.typing import NDArray

from dualsmooth.engine.draws import Draw, Phase
from dualsmooth.engine.images import unit_float
from dualsmooth.engine.models.sources.onnx_guard import read_deployed
from dualsmooth.engine.models.sources.onnx_session import make_session
from dualsmooth.engine.noise.stream import (
    block_words,
    blocks_per_image,
    counter_word3,
    standard_normal,
)
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.export.check.finding import Finding
from dualsmooth.export.deployment import Deployment
from dualsmooth.export.feeds import vote_feeds
from dualsmooth.export.graph.philox import NOISE, WORDS
from dualsmooth.export.graph.probe import probe

CLOSE = 2e-6
"""Largest difference of a normal."""

FIRSTS = (0, 9_973)


def check_noise(
    deployment: Deployment, role: str, images: NDArray[np.generic], seed: int
) -> Finding:
    """Look inside a network's vote graph while it votes on images, at several sample indices."""
    read_deployed(path := deployment.votes_file(role))  # refuses what onnx would follow
    model = probe(onnx.load(path))
    session = make_session(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    stream = Draw(role, 1.0, Phase.CLASS_ESTIMATE, 0, 1, 2).stream
    wrong = words = normals = unequal = 0
    worst = 0.0
    for image_id, image in enumerate(images):
        for first in FIRSTS:
            segment = Segment(0, image_id, 0.5, stream, first, deployment.batch_size)
            feeds = vote_feeds(unit_float(image), segment, seed)
            seen = dict(zip(names, session.run(None, feeds), strict=True))
            samples = np.arange(first, first + deployment.batch_size, dtype=np.uint64)
            expected = _words(seed, image_id, stream, samples, deployment.bundle.input_shape)
            for name, word in zip(WORDS, expected, strict=True):
                wrong += int((seen[name][0] != word).sum())
                words += word.size
            noise = standard_normal(seed, image_id, stream, samples, deployment.bundle.input_shape)
            worst = max(worst, float(np.abs(seen[NOISE][0] - noise).max()))
            unequal += int((seen[NOISE][0] != noise).sum())
            normals += noise.size
    text = (
        f"{words - wrong:,} of {words:,} words equal; {normals - unequal:,} of {normals:,} normals "
        f"equal, largest difference {worst:.1e}"
    )
    return Finding(f"noise of {role}", not wrong and worst <= CLOSE, text)


def _words(
    seed: int, image_id: int, stream: int, samples: NDArray[np.uint64], shape: tuple[int, int, int]
) -> list[NDArray[np.uint64]]:
    ids = np.full(len(samples), image_id, np.uint64)
    word3 = np.full(len(samples), counter_word3(stream), np.uint64)
    return block_words(seed, ids, word3, samples, blocks_per_image(shape))
