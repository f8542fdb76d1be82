import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualsmooth.engine.samplers.sampler import Segment, unroll
from dualsmooth.engine.samplers.tables import COLUMNS, device_rows, divide, fill

WORDS = st.integers(0, 2**32 - 1)
SEGMENTS = st.lists(
    st.builds(
        Segment,
        slot=st.integers(0, 9),
        image_id=WORDS,
        sigma=st.floats(0.0, 2.0, width=32),
        stream=st.integers(0, 255),
        first=st.integers(0, 2**32 - 40),
        count=st.integers(1, 30),
    ),
    min_size=1,
    max_size=9,
)


@given(SEGMENTS, st.integers(1, 25), st.integers(1, 4))
def test_pieces_hold_every_sample_once_and_in_order(
    segments: list[Segment], rows: int, most: int
) -> None:
    pieces = divide(segments, rows, most)
    assert all(0 < len(piece) <= most for piece in pieces)
    assert all(sum(part.count for _, part in piece) <= rows for piece in pieces)
    samples = [
        (index, part.slot, part.first + i)
        for piece in pieces
        for index, part in piece
        for i in range(part.count)
    ]
    assert samples == [
        (index, segment.slot, segment.first + i)
        for index, segment in enumerate(segments)
        for i in range(segment.count)
    ]


@given(SEGMENTS, st.integers(1, 25))
def test_tables_hold_the_words_of_every_row_and_padding_votes_nowhere(
    segments: list[Segment], batch: int
) -> None:
    word3, rows = 1 << 8 | 9 << 16, unroll(segments)
    tables = np.full((-(-len(rows) // batch) + 1, len(COLUMNS), batch), 77, np.int32)
    sizes = fill(tables, segments, word3)
    assert sum(sizes) == len(rows)
    assert (tables[len(sizes) :] == 77).all()
    columns = [device_rows(torch.from_numpy(t), batch) for t in tables[: len(sizes)]]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(column, name).numpy() for column in columns])

    count = len(rows)
    np.testing.assert_array_equal(joined("slot")[:count], rows["slot"])
    np.testing.assert_array_equal(joined("sigma")[:count], rows["sigma"])
    np.testing.assert_array_equal(joined("segment")[:count], rows["segment"])
    for name, words in (
        ("stream", rows["stream"] | np.uint64(word3)),
        ("image", rows["image_id"]),
        ("sample", rows["sample"]),
    ):
        np.testing.assert_array_equal(joined(name)[:count].view(np.uint32), words)
    assert (joined("segment")[count:] == -1).all()
    assert (joined("slot")[count:] == 0).all()
