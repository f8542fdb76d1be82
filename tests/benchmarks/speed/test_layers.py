"""The table of layers: nothing is left out, nothing is counted twice."""

import pytest

from dualsmooth.benchmarks.speed import layers
from dualsmooth.benchmarks.speed.cpu import CASES


def test_every_kind_of_convolution_is_found_in_both_and_the_whole_is_the_sum() -> None:
    pytest.importorskip("openvino")
    rows = layers.grouped(CASES["resnet20"], *layers.measure(CASES["resnet20"], 1))
    kinds = {kind: row for kind, row in rows.items() if row["convolutions"] and kind != layers.ALL}
    assert sum(row["convolutions"] for row in kinds.values()) == 21
    assert all(min(row["our_ms"], row["their_ms"]) > 0 for row in kinds.values())
    for key in ("our_ms", "their_ms", "convolutions"):
        parts = sum(row[key] for kind, row in rows.items() if kind != layers.ALL)
        assert rows[layers.ALL][key] == pytest.approx(parts)
    assert layers.table(rows).count("\n") == len(rows) + 2
