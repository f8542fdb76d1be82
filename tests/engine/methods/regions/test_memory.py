from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.methods.regions.memory import Memory


def point(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, -1, 1)


def answer(
    memory: Memory, at: np.ndarray, predicted: int, radius: float, alpha: float = 0.001
) -> tuple[int, float]:
    with memory.query(at) as query:
        if found := query.find(alpha):
            return found.predicted, found.radius
        radius = min(radius, query.room(predicted))
        if radius > 0.0:
            query.remember(predicted, radius, 0.25, alpha)
        return predicted, radius


def test_a_query_inside_a_ball_gets_its_answer_and_the_distance_to_its_rim() -> None:
    memory = Memory()
    assert answer(memory, point(0, 0), 3, 1.0) == (3, 1.0)
    predicted, radius = answer(memory, point(0.75, 0), 5, 9.0)
    assert predicted == 3
    assert 0.25 - 1e-12 < radius < 0.25
    assert len(memory) == 1


def test_the_order_of_queries_decides() -> None:
    first, second = Memory(), Memory()
    a, b = (point(0.0), 1, 0.75), (point(1.0), 2, 0.75)
    answers = {q[1]: answer(first, *q)[1] for q in (a, b)}
    turned = {q[1]: answer(second, *q)[1] for q in (b, a)}
    assert answers[1] == turned[2] == 0.75
    assert answers[2] == turned[1] == pytest.approx(0.25)
    assert answers[2] < 0.25


@given(st.integers(0, 10_000))
def test_balls_of_different_classes_never_overlap(seed: int) -> None:
    rng, memory = np.random.default_rng(seed), Memory()
    queries = rng.random((30, 1, 2, 1)).astype(np.float32)
    for query in queries:
        answer(memory, query, int(rng.integers(3)), float(rng.random() * 0.4))
    centers = np.array(memory._centers)
    for i, one in enumerate(memory.balls):
        for j, other in enumerate(memory.balls[:i]):
            gap = np.linalg.norm(centers[i] - centers[j])
            assert one.predicted == other.predicted or one.radius + other.radius <= gap


def test_two_queries_at_once_are_refused() -> None:
    memory = Memory()
    with (
        memory.query(point(0.0)),
        pytest.raises(ArgumentError, match="slots"),
        memory.query(point(1.0)),
    ):
        pass
    answer(memory, point(0.0), 1, 1.0)
    with pytest.raises(ArgumentError, match="pixels"):
        answer(memory, point(0.0, 0.0), 1, 1.0)


def test_the_file_brings_every_ball_back_and_is_held_by_one_process(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    memory = Memory(path)
    answer(memory, point(0.1, 0.2), 4, 0.5)
    with pytest.raises(FileError, match="another process"):
        Memory(path)
    memory.close()
    again = Memory(path)
    assert again.balls == memory.balls
    assert answer(again, point(0.1, 0.2), 7, 9.0)[0] == 4
    again.close()


def test_a_new_file_is_made_by_the_first_query_and_by_one_process(tmp_path: Path) -> None:
    first, second = Memory(tmp_path / "memory"), Memory(tmp_path / "memory")
    assert not [*tmp_path.iterdir()]  # nothing is left of what is refused before
    answer(first, point(0.1, 0.2), 4, 0.5)
    with pytest.raises(FileError, match="memory must be a file that can be written"):
        answer(second, point(0.1, 0.2), 4, 0.5)
    first.close()


def test_a_torn_line_is_dropped_and_a_changed_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    memory = Memory(path)
    answer(memory, point(0.0), 4, 0.5)
    memory.close()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    memory = Memory(path)
    assert len(memory) == 1
    memory.close()
    assert path.read_bytes() == whole
    path.write_bytes(whole.replace(b"0.5", b"0.9"))
    with pytest.raises(FileError, match="line 1") as refused:
        Memory(path)
    path.write_bytes(whole)
    Memory(path).close()  # the refused one let go of the file
    assert refused.traceback  # and not because its frames had gone
    with pytest.raises(FileError, match="memory"):
        Memory(tmp_path / "missing" / "memory")


@pytest.mark.parametrize("header", [b'{"about": 3}', b'{"about":', b'{"about":' + b"[" * 99999])
def test_a_header_of_something_else_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "memory").write_bytes(header + b"\n")
    with pytest.raises(FileError, match="line 1: must say what the balls are about"):
        Memory(tmp_path / "memory")
