from pathlib import Path

import numpy as np
import pytest

from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.data.splits import training_images, training_split
from dualsmooth.engine.errors import ArgumentError


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("digits", "digits:train"),
        ("digits:train", "digits:train"),
        ("digits:test", "digits:test"),
        ("idx", "idx::train"),
        ("idx:", "idx::train"),
        ("idx:a/b", "idx:a/b:train"),
        ("cifar10:c:test", "cifar10:c:test"),
        ("npz:x.npz", "npz:x.npz"),
        ("folder:d", "folder:d"),
    ],
)
def test_training_never_falls_on_the_test_split(spec: str, expected: str) -> None:
    assert training_split(spec) == expected


def saved(folder: Path, labels: list[int]) -> str:
    """Images whose pixels tell their number."""
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones(
        (1, 2, 2, 1), int
    )
    np.savez(folder / "x.npz", x=images.astype(np.uint8), y=np.array(labels))
    return f"npz:{folder / 'x.npz'}"


def test_images_class_after_class_are_shuffled_always_the_same_way(tmp_path: Path) -> None:
    spec = saved(tmp_path, [0] * 40 + [1] * 40 + [2] * 40)
    every, first = training_images(spec), training_images(spec, 24)
    assert set(first.labels.tolist()) == {0, 1, 2}
    assert np.array_equal(first.images, every.images[:24])
    numbers = every.images[:, 0, 0, 0]
    assert sorted(numbers.tolist()) == list(range(120))
    assert np.array_equal(every.labels, numbers // 40)


@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, 2], [1, 1, 1, 1, 1, 1]], ids=["mixed", "one"])
def test_other_images_keep_their_order(labels: list[int], tmp_path: Path) -> None:
    spec = saved(tmp_path, labels)
    for count in (None, 4):
        images = training_images(spec, count)
        assert np.array_equal(images.images, load_images(spec).images[:count])
        assert images.labels.tolist() == labels[:count]


@pytest.mark.parametrize("count", [0, 7, True])
def test_more_images_than_there_are_is_an_error(count: int, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"^max must be an integer in \[1, 6\]"):
        training_images(saved(tmp_path, [0, 1, 0, 1, 0, 1]), count)
