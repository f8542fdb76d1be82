"""Two networks that see the same noise, as one network that votes where they disagree.

Its row votes for the class of the first network where the second answers otherwise (or has a logit
that is not finite), and is invalid everywhere else. So the votes for c of n rows are the rows with
first = c and second != c, and the samplers that count votes count disagreements too.
"""

import math

import numpy as np
from onnx import ModelProto

from dualsmooth.export.graph.nodes import FLOAT, PIXELS, Nodes, model_of, value
from dualsmooth.export.graph.votes import place, row_votes


def pair_model(
    first: ModelProto, second: ModelProto, shape: tuple[int, int, int], outputs: int
) -> ModelProto:
    """A network (rows, channels, height, width) to (rows, outputs): one-hot, or all infinite.

    Images of both networks have the shape (height, width, channels).
    """
    nodes = Nodes("pair/")
    votes = [
        row_votes(nodes, place(nodes, network, PIXELS, name), outputs)
        for name, network in (("first", first), ("second", second))
    ]
    invalid = nodes.constant(outputs, np.int64)
    silent = nodes.add("Or", nodes.add("Equal", *votes), nodes.add("Equal", votes[0], invalid))
    column = nodes.constant([1], np.int64)
    chosen = nodes.add("Unsqueeze", votes[0], column)
    one_hot = nodes.add("Equal", chosen, nodes.constant(np.arange(outputs), np.int64))
    all_silent, infinite = (
        nodes.add("Unsqueeze", silent, column),
        nodes.constant(math.inf, np.float32),
    )
    rows = nodes.add("Where", all_silent, infinite, nodes.add("Cast", one_hot, to=FLOAT))
    nodes.add("Identity", rows, output="rows")
    height, width, channels = shape
    pixels = value(PIXELS, FLOAT, ("rows", channels, height, width))
    graph = nodes.graph("pair", [pixels], [value("pair/rows", FLOAT, ("rows", outputs))])
    return model_of(graph)
