"""The dual predictor graph against the engine's routing and the vote graphs, votes exactly."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from onnx import ModelProto, checker

from dualsmooth.engine.draws import Draw, Phase
from dualsmooth.engine.methods.routing import routed_level
from dualsmooth.engine.models.sources.onnx_session import OrtSession, make_session
from dualsmooth.engine.samplers.sampler import Segment
from dualsmooth.export.feeds import dual_feeds, vote_feeds
from dualsmooth.export.graph.dual import Dual, choose_level, dual_model
from dualsmooth.export.graph.nodes import INT64, Nodes, model_of, value
from dualsmooth.export.graph.votes import Voter, vote_model

Make = Callable[..., ModelProto]
SHAPE, CLASSES, BATCH, N = (4, 3, 1), 5, 16, 53
SIGMAS, TAU = (0.1, 0.2, 0.4), 0.5
IMAGES = np.random.default_rng(1).random((3, *SHAPE)).astype(np.float32)


def voter(network: ModelProto, outputs: int) -> Voter:
    return Voter(network, SHAPE, outputs, BATCH)


def votes_of(
    session: OrtSession, draw: Draw, image: NDArray[np.float32], attempt: int
) -> NDArray[np.int64]:
    feeds = vote_feeds(image, Segment.of(draw, 0, 2, 0, draw.count), 9, attempt)
    return np.asarray(session.run(None, feeds)[0])


def alone(used: Voter) -> OrtSession:
    return make_session(vote_model(used).SerializeToString())


def leaning(level: int) -> Callable[[Nodes, str, str], str]:
    """Selector logits that prefer one level."""

    def change(nodes: Nodes, _: str, logits: str) -> str:
        push = nodes.constant(2.0 * (np.arange(len(SIGMAS)) == level), np.float32)
        return nodes.add("Add", logits, push)

    return change


@pytest.mark.parametrize(
    ("rule", "roles"),
    [
        ("median", ("classifier",) * 3),
        ("plurality", ("classifier@0.1", "classifier@0.2", "classifier@0.4")),
        ("median", ("classifier", "classifier@0.2", "classifier")),
    ],
    ids=["one network", "experts", "one expert"],
)
def test_votes_level_and_sigma(linear_network: Make, rule: str, roles: tuple[str, ...]) -> None:
    classifiers = {
        role: voter(linear_network(SHAPE, CLASSES, scaled(i)), CLASSES)
        for i, role in enumerate(dict.fromkeys(roles))
    }
    levels, experts = set(), {role: alone(used) for role, used in classifiers.items()}
    for level in range(3):
        selector = voter(linear_network(SHAPE, 3, leaning(level)), 3)
        model = dual_model(Dual(selector, TAU, SIGMAS, classifiers, roles, rule))
        checker.check_model(model, full_check=True)
        session, selecting = make_session(model.SerializeToString()), alone(selector)
        for image in IMAGES:
            feeds = dual_feeds(image, N, seed=9, image_id=2, attempt=5, first=3)
            selected, found, sigma, votes = session.run(None, feeds)
            select = Draw("selector", TAU, Phase.SELECT_PREDICT, 3, N)
            expected = votes_of(selecting, select, image, 5)
            assert_array_equal(selected, expected)
            chosen = routed_level(rule, expected)
            assert chosen is not None
            assert (found, sigma) == (chosen, np.float32(SIGMAS[chosen]))
            draw = Draw("c", SIGMAS[chosen], Phase.CLASS_PREDICT, 3, N, chosen)
            assert_array_equal(votes, votes_of(experts[roles[chosen]], draw, image, 5))
            levels.add(chosen)
    assert levels == {0, 1, 2}


def scaled(index: int) -> Callable[[Nodes, str, str], str]:
    """Logits of an expert of its own: classes turned by its index."""

    def change(nodes: Nodes, _: str, logits: str) -> str:
        turned = np.roll(np.eye(CLASSES), index, axis=1)
        return nodes.add("MatMul", logits, nodes.constant(turned, np.float32))

    return change


@pytest.mark.parametrize(
    ("histogram", "rule", "level"),
    [((5, 0, 5, 0), "median", 0), ((4, 2, 4, 0), "median", 1), ((4, 0, 4, 3), "median", 2),
     ((5, 0, 5, 0), "plurality", 0), ((1, 4, 4, 1), "plurality", 1)], ids=str,
)  # fmt: skip
def test_ties_and_invalid_votes_route_as_the_engine_does(
    histogram: tuple[int, ...], rule: str, level: int
) -> None:
    """The rule alone, on counts handed to it."""

    nodes = Nodes()
    choose_level(nodes, "counts", 3, rule)
    graph = nodes.graph("rule", [value("counts", INT64, (4,))], [value("level", INT64, ())])
    session = make_session(model_of(graph).SerializeToString())
    counts = np.array(histogram, np.int64)
    assert session.run(None, {"counts": counts})[0] == level
    assert level == routed_level(rule, counts)


@pytest.mark.parametrize("rule", ["median", "plurality"])
def test_a_selector_without_valid_votes_stops_the_predictor(
    linear_network: Make, rule: str
) -> None:
    def broken(nodes: Nodes, _: str, logits: str) -> str:
        return nodes.add("Mul", logits, nodes.constant([np.nan] * 3, np.float32))

    selector = voter(linear_network(SHAPE, 3, broken), 3)
    classifier = voter(linear_network(SHAPE, CLASSES), CLASSES)
    dual = Dual(selector, TAU, SIGMAS, {"classifier": classifier}, ("classifier",) * 3, rule)
    session = make_session(dual_model(dual).SerializeToString())
    selected, level, _, votes = session.run(None, dual_feeds(IMAGES[0], N, seed=9, image_id=2))
    assert_array_equal(selected, [0, 0, 0, N])
    assert level == -1
    assert_array_equal(votes, np.zeros(CLASSES + 1))
