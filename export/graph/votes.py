"""Votes of a network as an ONNX graph: noise, network, argmax and histogram in one Loop.

Every pass through the network has the same padded batch, whatever number of votes is asked for, and
rows past the end are left out of the histogram. So a vote is a function of its own counters and of
the batch shape, not of the rows beside it; `dualsmooth.export.networks` refuses a network whose
logits depend on a row's place.
"""

import math
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, compose, helper

from dualsmooth.engine.noise.stream import blocks_per_image
from dualsmooth.export.graph.nodes import (
    BOOL,
    FLOAT,
    INT64,
    LOGITS,
    UINT32,
    UINT64,
    Nodes,
    model_of,
    value,
)
from dualsmooth.export.graph.philox import Stream, fourth_word, normals, random_words, round_keys


@dataclass(frozen=True)
class Voter:
    """A network that votes: (rows, channels, height, width) float32 in [0, 1] to logits.

    Images have the shape (height, width, channels); every pass has `batch` rows.
    """

    network: ModelProto
    shape: tuple[int, int, int]
    outputs: int
    batch: int


@dataclass(frozen=True, slots=True)
class Request:
    """Names of what is asked for: image (1, channels, height, width), sigma, first row and rows.

    ``first`` and ``rows`` are int64 scalars, ``sigma`` a float32 scalar.
    """

    image: str
    sigma: str
    stream: Stream
    first: str
    rows: str


def vote_model(voter: Voter) -> ModelProto:
    """A model that counts the votes of one network.

    Inputs: ``image`` float32 (height, width, channels) in [0, 1]; ``sigma`` float32; ``key`` uint32
    (2,), low word first; ``image_id`` uint32; ``phase`` uint32, phase byte | attempt << 16;
    ``first`` uint32, the first sample index; ``rows`` int64, how many. Output: ``votes`` int64
    (outputs + 1,), the last entry counting rows with a logit that is not finite.
    """
    nodes = Nodes()
    request = Request(
        channels_first(nodes, "image"),
        "sigma",
        Stream(
            round_keys(nodes, "key"),
            nodes.add("Cast", "image_id", to=UINT64),
            fourth_word(nodes, "phase"),
        ),
        nodes.add("Cast", "first", to=INT64),
        "rows",
    )
    count_votes(nodes, voter, request, "votes")
    inputs = [
        value("image", FLOAT, voter.shape),
        value("sigma", FLOAT, ()),
        value("key", UINT32, (2,)),
        *(value(name, UINT32, ()) for name in ("image_id", "phase", "first")),
        value("rows", INT64, ()),
    ]
    return model_of(nodes.graph("votes", inputs, [value("votes", INT64, (voter.outputs + 1,))]))


def channels_first(nodes: Nodes, image: str) -> str:
    """An image (height, width, channels) as (1, channels, height, width)."""
    moved = nodes.add("Transpose", image, perm=[2, 0, 1])
    return nodes.add("Unsqueeze", moved, nodes.constant([0], np.int64))


def count_votes(nodes: Nodes, voter: Voter, request: Request, output: str) -> str:
    """Add a Loop that counts votes; returns the name of the counts, int64 (outputs + 1,)."""
    batch, bins = nodes.constant(voter.batch, np.int64), voter.outputs + 1
    padded = nodes.add("Add", request.rows, nodes.constant(voter.batch - 1, np.int64))
    trips = nodes.add("Div", padded, batch)
    body = Nodes(f"{nodes.prefix}{output}/")
    step, go_on, before = (body.prefix + name for name in ("step", "go_on", "before"))
    index = body.add(
        "Add", body.add("Mul", step, batch), body.constant(np.arange(voter.batch), np.int64)
    )
    logits = _noisy_logits(body, voter, request, index)
    counts = _histogram(body, logits, body.add("Less", index, request.rows), bins)
    carried = body.add("Add", before, counts)
    same = body.add("Identity", go_on)
    loop = body.graph(
        f"{body.prefix}body",
        [value(step, INT64, ()), value(go_on, BOOL, ()), value(before, INT64, (bins,))],
        [value(same, BOOL, ()), value(carried, INT64, (bins,))],
    )
    start = nodes.constant(np.zeros(bins), np.int64)
    true = nodes.constant(True, np.bool_)
    return nodes.add("Loop", trips, true, start, output=output, body=loop)


def _noisy_logits(body: Nodes, voter: Voter, request: Request, index: str) -> str:
    """Logits of noisy copies of the image, one per row index."""
    low = body.constant(0xFFFFFFFF, np.uint64)
    wide = body.add("Cast", body.add("Add", index, request.first), to=UINT64)
    column = body.constant([1], np.int64)
    samples = body.add("Unsqueeze", body.add("BitwiseAnd", wide, low), column)
    words = random_words(body, request.stream, samples, blocks_per_image(voter.shape))
    noise = body.add("Transpose", normals(body, words, voter.shape), perm=[0, 3, 1, 2])
    noisy = body.add("Add", request.image, body.add("Mul", noise, request.sigma))
    return inline(body, voter.network, noisy)


def inline(body: Nodes, network: ModelProto, pixels: str) -> str:
    """Add a network's nodes and weights; returns the name of its logits."""
    return body.add("Identity", place(body, network, pixels, "network"), output=LOGITS)


def place(body: Nodes, network: ModelProto, pixels: str, name: str) -> str:
    """Add a network's nodes and weights under a name of their own; returns its output."""
    graph = compose.add_prefix(network, f"{body.prefix}{name}/").graph
    body.nodes.append(helper.make_node("Identity", [pixels], [graph.input[0].name]))
    body.nodes.extend(graph.node)
    body.constants.extend(graph.initializer)
    return str(graph.output[0].name)


def _histogram(body: Nodes, logits: str, active: str, bins: int) -> str:
    """Votes of the active rows by class, the last bin for rows that are not finite."""
    vote = row_votes(body, logits, bins - 1)
    kept = body.add("Where", active, vote, body.constant(-1, np.int64))
    column = body.add("Unsqueeze", kept, body.constant([1], np.int64))
    members = body.add("Equal", column, body.constant(np.arange(bins), np.int64))
    ones = body.add("Cast", members, to=INT64)
    return body.add("ReduceSum", ones, body.constant([0], np.int64), keepdims=0)


def row_votes(nodes: Nodes, logits: str, outputs: int) -> str:
    """Class of each row, int64: largest logit, lowest on ties; ``outputs`` if one is not finite."""
    finite = nodes.add("Less", nodes.add("Abs", logits), nodes.constant(math.inf, np.float32))
    odd = nodes.add("Cast", nodes.add("Not", finite), to=INT64)
    rows = nodes.constant([1], np.int64)
    any_odd = nodes.add("Cast", nodes.add("ReduceMax", odd, rows, keepdims=0), to=BOOL)
    top = nodes.add("ArgMax", logits, axis=1, keepdims=0)
    return nodes.add("Where", any_odd, nodes.constant(outputs, np.int64), top)
