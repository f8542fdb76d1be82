"""Data sets of torchvision and Hugging Face, loaders, iterables; stand-ins where they are not."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from PIL import Image
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
)

from dualsmooth.engine.api import certify
from dualsmooth.engine.data.collect import channels_last, collect, is_collection
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.spec import load_images
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.images import SEVERAL, DeferredImages

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = [0, 2, 1, 1, 0, 2]


class Pictures(Dataset[tuple[Any, int]]):
    """As torchvision's: items by number, `classes`, `targets`."""

    classes = ("ant", "bee", "cat")

    def __init__(self, transform: Any = None, targets: Any = LABELS) -> None:
        self.targets, self.transform, self.read = targets, transform, 0

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        self.read += 1
        image = Image.fromarray(PIXELS[place])
        return (self.transform(image) if self.transform else image), LABELS[place]


def to_tensor(image: Image.Image) -> torch.Tensor:
    """As torchvision's ToTensor: channels first, float32 in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


class Table:
    """As a `datasets.Dataset`: items are mappings, columns come by name."""

    column_names, shape = ("img", "label"), (len(LABELS), 2)
    features = {"img": None, "label": SimpleNamespace(names=["ant", "bee", "cat"])}  # noqa: RUF012

    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, key: int | str) -> Any:
        if key == "label":
            return list(LABELS)
        assert isinstance(key, int)
        return {"img": Image.fromarray(PIXELS[key]), "label": LABELS[key]}


def same(found: ImageSet, classes: tuple[str, ...] = ("ant", "bee", "cat")) -> bool:
    pixels = np.asarray(found.images)
    if pixels.dtype != np.uint8:
        pixels = np.rint(pixels * 255).astype(np.uint8)
    assert_array_equal(pixels, PIXELS)
    return found.labels.tolist() == LABELS and found.classes == classes


def pairs() -> Iterator[tuple[Any, int]]:
    yield from zip(PIXELS, LABELS, strict=True)


def test_data_sets_loaders_and_iterables() -> None:
    assert same(collect(Pictures()))
    assert same(collect(Pictures(to_tensor)))
    assert same(collect(Table()))
    assert same(collect(Pictures(targets=np.array(LABELS)[:, None])))  # as MedMNIST's
    assert same(collect(DataLoader(Pictures(to_tensor), batch_size=4)))
    assert same(collect(pairs()), ())
    assert same(collect(list(pairs())), ())
    assert same(collect([{"image": x, "label": y} for x, y in pairs()]), ())
    part = collect(Subset(Pictures(), [3, 1]))
    assert (part.labels.tolist(), part.classes) == ([1, 2], ("ant", "bee", "cat"))
    alone = collect(Image.fromarray(x) for x in PIXELS)
    assert alone.labels.tolist() == [-1] * 6
    assert len(collect(DataLoader(Pictures(to_tensor), batch_size=4), most=5)) == 5
    assert len(collect(pairs(), most=2)) == len(collect(Pictures(), most=2)) == 2


def test_labels_kept_apart_are_those_of_the_items() -> None:
    assert same(collect(Pictures(targets=torch.tensor(LABELS))))
    assert same(collect(Pictures(targets=[*LABELS, 0])))  # of more images than there are here
    for targets in ([0.0, 2, 1, 1.7, 0, 2], torch.tensor(LABELS) / 2, [*map(str, LABELS)]):
        with pytest.raises(ArgumentError, match="labels must be integers"):
            collect(Pictures(targets=targets))
    unknown = collect(Pictures(targets=[None] * 6))
    assert unknown.labels.tolist() == [-1] * 6


def test_labels_that_items_do_not_have_are_refused() -> None:
    images = collect(Pictures(targets=[0, 1, 1, 1, 0, 2])).images
    images[0]
    with pytest.raises(
        ArgumentError, match="those of the items; received 1 in `targets`, item 1 ha"
    ):
        images[1]


def test_items_by_number_are_read_when_they_are_asked_for() -> None:
    pictures = Pictures()
    found = collect(pictures)
    assert isinstance(found.images, DeferredImages)
    assert pictures.read == 1  # what shape they have
    assert_array_equal(found.images[4], PIXELS[4])
    assert pictures.read == 2


def test_random_transforms_and_shuffled_loaders_are_refused() -> None:
    def flip(image: Image.Image) -> Image.Image:
        turned = next(coin)
        return image.rotate(180) if turned else image

    coin = iter([False, False, True])
    images = collect(Pictures(flip)).images
    images[0]
    with pytest.raises(ArgumentError, match=r"another image 0 of Pictures .no random transform"):
        images[0]
    batches = BatchSampler(RandomSampler(range(6)), 3, drop_last=False)
    for how in ({"shuffle": True}, {"batch_sampler": batches}):
        loader: Any = DataLoader(Pictures(to_tensor), **how)
        with pytest.raises(ArgumentError, match=r"keep their order; .* .shuffle=False"):
            collect(loader)


class Stream(IterableDataset[tuple[Any, int]]):
    """Without numbers or length: whatever order its generator gives."""

    def __init__(self, orders: Iterator[list[int]]) -> None:
        self.orders = orders

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        return ((PIXELS[place], LABELS[place]) for place in next(self.orders))


@pytest.mark.parametrize("batch", [None, 2])
def test_a_source_is_the_same_in_every_pass(batch: int | None) -> None:
    def taken(*orders: list[int]) -> ImageSet:
        stream = Stream(iter(orders))
        return collect(stream if batch is None else DataLoader(stream, batch), most=4)

    assert taken([0, 1, 2, 3, 4], [0, 1, 2, 3, 5]).labels.tolist() == LABELS[:4]
    assert len(taken([0, 1, 2, 3], [])) == 4  # read up
    for other in ([0, 1, 2, 4], [0, 1, 3, 2]):
        with pytest.raises(ArgumentError, match=r"a second pass; received another image \d of"):
            taken([0, 1, 2, 3], other)
    assert len(collect(iter(Stream(iter([[0, 1]]))))) == 2


def test_dark_data_sets_are_told() -> None:
    """Those of floats, after many images; a file of 8 bits may be dark."""
    pixels = [*PIXELS] * (1 + SEVERAL // len(PIXELS))
    floats, files = (
        collect([(image, 0) for image in made]).images
        for made in ([x / np.float32(255 * 1.5) for x in pixels], [x // 2 for x in pixels])
    )
    with warnings.catch_warnings(action="error"):
        _ = [(files[place], floats[max(0, place - 1)]) for place in range(SEVERAL)]
    with pytest.warns(UserWarning, match=r"no pixel is brighter than 0\.667 of white: perhaps"):
        floats[SEVERAL - 1]


@pytest.mark.parametrize(
    ("source", "options", "rule"),
    [
        ([], {}, "images must be at least one"),
        (iter([]), {}, "at least one, all of one shape and type; received none"),
        ([(PIXELS[0], 1), (PIXELS[0][1:], 1)], {}, r"must all be uint8 of shape \(5, 4, 3\)"),
        ([(PIXELS[0], 0.5)], {}, "labels must be integers"),
        ([(PIXELS[0].astype(np.int64), 1)], {}, "uint8 or floating point; received int64"),
        ([(PIXELS[0] / 2, 1)], {}, r"images must have values in \[0, 1\]"),
        ([(Image.new("RGBA", (2, 2)), 1)], {}, "images must be grey or RGB; received RGBA"),
        ([{"picture": PIXELS[0], "label": 1}], {}, r"the columns image and label; .*columns="),
        (Table(), {"columns": ("img", "fine")}, r"must have the columns \('img', 'fine'\)"),
        (Table(), {"layout": "NWHC"}, "layout must be one of auto, NHWC, NCHW"),
    ],
)
def test_bad_items(source: Any, options: dict[str, Any], rule: str) -> None:
    with pytest.raises(ArgumentError, match=rule):
        np.asarray(collect(source, **options).images)


def test_what_is_a_collection() -> None:
    for source in (Pictures(), Table(), pairs(), list(pairs()), DataLoader(Pictures())):
        assert is_collection(source)
    for array in (
        PIXELS,
        PIXELS.tolist(),
        torch.zeros(1, 3, 2, 2),
        load_images("digits"),
        "digits",
    ):
        assert not is_collection(array)


def test_channels_first_are_told_by_shape_or_by_name() -> None:
    first = PIXELS.transpose(0, 3, 1, 2)
    assert_array_equal(channels_last(first), PIXELS)
    assert_array_equal(channels_last(torch.from_numpy(first.copy())).numpy(), PIXELS)
    assert channels_last(PIXELS) is PIXELS
    assert_array_equal(channels_last(first, (5, 4, 3)), PIXELS)
    square = np.zeros((2, 3, 3, 3), np.uint8)
    assert channels_last(square) is square  # both sides could be: last, unless said otherwise
    assert channels_last(square, (3, 3, 3)) is square
    five = np.zeros((2, 5, 6, 6), np.float32)
    assert channels_last(five).shape == (2, 5, 6, 6)
    assert channels_last(five, (6, 6, 5)).shape == (2, 6, 6, 5)


def test_one_call_takes_them_all() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    unit = torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() / 255
    sources: list[Any] = [
        PIXELS,
        unit,
        Pictures(),
        Table(),
        DataLoader(Pictures(to_tensor), batch_size=4),
    ]
    found = [certify(model, s, sigma=0.5, n=100, progress=False) for s in sources]
    votes = [[(c.image_id, c.counts) for c in certificates] for certificates in found]
    assert all(other == votes[0] for other in votes)
    assert [c.label for c in found[2]] == LABELS
    assert found[2].configuration["classes"] == ["ant", "bee", "cat"]


def test_ids_of_an_archive_are_kept(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=LABELS, index=[40, 20, 30, 5, 2**32 - 1, 9])
    data = load_images(f"npz:{tmp_path / 'a.npz'}")
    assert data.places([5, 40]) == [3, 0]
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    found = certify(model, data, sigma=0.5, n=50, progress=False)
    assert [c.image_id for c in found] == [40, 20, 30, 5, 2**32 - 1, 9]
    alone = certify(model, PIXELS[2:3], sigma=0.5, n=50, image_ids=[30], progress=False)
    assert alone[0].counts == found[2].counts  # the noise is that of the id
    with pytest.raises(
        ArgumentError, match=r"received npz:.*: no 6 \(its ids are those of its index"
    ):
        data.places([6])
    for index, rule in (
        ([1, 1, 2, 3, 4, 5], "distinct integers in"), ([-1, 1, 2, 3, 4, 5], "distinct integers in"),
        ([1, 2], "index must be 6 integers"), (np.arange(6) / 1, "index must be 6 integers"),
    ):  # fmt: skip
        np.savez(tmp_path / "b.npz", images=PIXELS, index=index)
        with pytest.raises(FileError, match=rule):
            load_images(f"npz:{tmp_path / 'b.npz'}")
