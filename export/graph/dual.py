"""The dual predictor as one ONNX graph: selector votes, a noise level, classifier votes.

The counters are those of the engine's PREDICT, so the votes are the ones that
`dualsmooth.engine.methods.dual` asks for with the same seed and image id. The graph answers with
votes; whether they are enough to name a class is a test outside (`OnnxCertifier.predict`), which
with the median rule also looks at the neighbouring levels it cannot exclude.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, ValueInfoProto

from dualsmooth.engine.draws import Phase
from dualsmooth.export.graph.nodes import (
    BOOL,
    DOUBLE,
    FLOAT,
    INT32,
    INT64,
    UINT32,
    UINT64,
    Nodes,
    model_of,
    value,
)
from dualsmooth.export.graph.philox import Stream, fourth_word, round_keys
from dualsmooth.export.graph.votes import Request, Voter, channels_first, count_votes


@dataclass(frozen=True)
class Dual:
    """Networks of a dual predictor, with the role of the classifier at each ascending level.

    The selector's noise is tau; its rule is ``median`` or ``plurality``. With joint votes it casts
    those of the classifier of level ``joint``, too (`dualsmooth.engine.models.joint`).
    """

    selector: Voter
    tau: float
    sigmas: tuple[float, ...]
    classifiers: Mapping[str, Voter]
    roles: tuple[str, ...]
    rule: str
    joint: int | None = None


def dual_model(dual: Dual) -> ModelProto:
    """A model of the whole predictor.

    Inputs: ``image`` float32 (height, width, channels) in [0, 1]; ``key`` uint32 (2,), low word
    first; ``image_id``, ``attempt`` and ``first`` uint32; ``n`` int64, votes of each stage.
    Outputs: ``selector_votes`` int64 (levels + 1,); ``level`` int64, -1 if every selector vote was
    invalid; ``sigma`` float32, its noise; ``votes`` int64 (classes + 1,), all zero if level is -1.
    The last entry of votes counts the invalid ones.
    """
    nodes = Nodes()
    wide = {name: nodes.add("Cast", name, to=UINT64) for name in ("image_id", "attempt")}
    sixteen = nodes.constant(16, np.uint64)
    attempt = nodes.add("BitShift", wide["attempt"], sixteen, direction="LEFT")
    word3 = _phase(nodes, attempt, Phase.SELECT_PREDICT)
    select = Request(
        channels_first(nodes, "image"),
        nodes.constant(dual.tau, np.float32),
        Stream(round_keys(nodes, "key"), wide["image_id"], word3),
        nodes.add("Cast", "first", to=INT64),
        "n",
    )
    counts, cast = _select(nodes, dual, select)
    level = choose_level(nodes, counts, len(dual.sigmas), dual.rule)
    known = nodes.add("Less", nodes.constant(-1, np.int64), level)
    usable = nodes.add("Max", level, nodes.constant(0, np.int64))
    sigmas = nodes.constant(dual.sigmas, np.float32)
    sigma = nodes.add("Gather", sigmas, usable, output="sigma")
    wide_level, four = nodes.add("Cast", usable, to=UINT64), nodes.constant(4, np.uint64)
    shifted = nodes.add("BitShift", wide_level, four, direction="LEFT")
    base = _phase(nodes, attempt, Phase.CLASS_PREDICT)
    rows = nodes.add("Where", known, "n", nodes.constant(0, np.int64))
    stream = replace(select.stream, word3=nodes.add("BitwiseOr", base, shifted))
    classify = replace(select, sigma=sigma, stream=stream, rows=rows)
    _classify(nodes, dual, usable, classify, cast)
    return model_of(nodes.graph("dual", _inputs(dual), _outputs(dual)))


def _phase(nodes: Nodes, attempt: str, phase: Phase) -> str:
    """Fourth counter word of a phase at level 0."""
    bits = nodes.constant(int(phase), np.uint64)
    return fourth_word(nodes, nodes.add("BitwiseOr", attempt, bits))


def choose_level(nodes: Nodes, counts: str, levels: int, rule: str) -> str:
    """Level index as `dualsmooth.engine.methods.routing` chooses it, named ``level``.

    Of selector votes int64 (levels + 1,); the index is -1 if every vote was invalid.
    """
    zero, end = nodes.constant([0], np.int64), nodes.constant([levels], np.int64)
    valid = nodes.add("Slice", counts, zero, end)
    none = nodes.add("Not", nodes.add("Cast", _sum(nodes, valid), to=BOOL))
    if rule == "plurality":
        score = nodes.add("Cast", valid, to=DOUBLE)
    else:
        score = nodes.add("Cast", _reached(nodes, counts, valid, levels), to=INT32)
    index = nodes.add("ArgMax", score, axis=0, keepdims=0)
    return nodes.add("Where", none, nodes.constant(-1, np.int64), index, output="level")


def _reached(nodes: Nodes, counts: str, valid: str, levels: int) -> str:
    """Whether at least half of all votes are at or below each level; always at the last one."""
    cumulative = nodes.add("CumSum", valid, nodes.constant(0, np.int64))
    twice = nodes.add("Mul", cumulative, nodes.constant(2, np.int64))
    half = nodes.add("GreaterOrEqual", twice, _sum(nodes, counts))
    top = np.arange(levels) == levels - 1
    return nodes.add("Or", half, nodes.constant(top, np.bool_))


def _sum(nodes: Nodes, values: str) -> str:
    return nodes.add("ReduceSum", values, nodes.constant([0], np.int64), keepdims=0)


def _select(nodes: Nodes, dual: Dual, select: Request) -> tuple[str, str]:
    """Votes for levels; and votes for classes at tau, if the same rows cast them."""
    if dual.joint is None:
        return count_votes(nodes, dual.selector, select, "selector_votes"), ""
    pairs = count_votes(nodes, dual.selector, select, "pairs")
    pair_count = dual.selector.outputs
    zero, invalid, end = (nodes.constant([at], np.int64) for at in (0, pair_count, pair_count + 1))
    valid = nodes.add("Slice", pairs, zero, invalid)
    table = nodes.add("Reshape", valid, nodes.constant([len(dual.sigmas), -1], np.int64))
    rest = nodes.add("Slice", pairs, invalid, end)

    def summed(axis: int, output: str) -> str:
        sums = nodes.add("ReduceSum", table, nodes.constant([axis], np.int64), keepdims=0)
        return nodes.add("Concat", sums, rest, axis=0, output=output)

    return summed(1, "selector_votes"), summed(0, "cast")


def _classify(nodes: Nodes, dual: Dual, index: str, request: Request, cast: str) -> None:
    """Votes of the classifier of a level: one network, or a chain of Ifs over experts.

    Those that are ``cast`` already are taken instead where the level is tau's.
    """
    roles = list(dict.fromkeys(dual.roles))
    table = nodes.constant([roles.index(role) for role in dual.roles], np.int64)
    which = nodes.add("Gather", table, index)
    if dual.joint is None:
        _votes_of(nodes, dual, roles, which, request, "votes")
        return
    at_tau = nodes.add("Equal", "level", nodes.constant(dual.joint, np.int64))
    rows = nodes.add("Where", at_tau, nodes.constant(0, np.int64), request.rows)
    drawn = _votes_of(nodes, dual, roles, which, replace(request, rows=rows), "drawn")
    kept = nodes.add("Mul", cast, nodes.add("Cast", at_tau, to=INT64))
    nodes.add("Add", drawn, kept, output="votes")


def _votes_of(
    nodes: Nodes, dual: Dual, roles: Sequence[str], which: str, request: Request, output: str
) -> str:
    """Add the votes of the network ``which`` names among the roles; the last one needs no test."""
    voter = dual.classifiers[roles[0]]
    if len(roles) == 1:
        return count_votes(nodes, voter, request, output)
    index = len(set(dual.roles)) - len(roles)
    chosen = nodes.add("Equal", which, nodes.constant(index, np.int64))
    branches = {}
    for branch, rest in (("then_branch", roles[:1]), ("else_branch", roles[1:])):
        inner = Nodes(f"{nodes.prefix}{branch[:4]}{index}/")
        votes = _votes_of(inner, dual, rest, which, request, "votes")
        result = [value(votes, INT64, (voter.outputs + 1,))]
        branches[branch] = inner.graph(f"{inner.prefix}{branch}", [], result)
    return nodes.add("If", chosen, output=output, **branches)


def _inputs(dual: Dual) -> list[ValueInfoProto]:
    return [
        value("image", FLOAT, dual.selector.shape),
        value("key", UINT32, (2,)),
        *(value(name, UINT32, ()) for name in ("image_id", "attempt", "first")),
        value("n", INT64, ()),
    ]


def _outputs(dual: Dual) -> list[ValueInfoProto]:
    classes = next(iter(dual.classifiers.values())).outputs
    return [
        value("selector_votes", INT64, (len(dual.sigmas) + 1,)),
        value("level", INT64, ()),
        value("sigma", FLOAT, ()),
        value("votes", INT64, (classes + 1,)),
    ]
