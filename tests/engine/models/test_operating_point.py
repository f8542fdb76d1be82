from pathlib import Path
from typing import Any

import pytest
import torch

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.capture import capture
from dualsmooth.engine.models.operating_point import at_point, points_of, thresholds_at
from dualsmooth.engine.models.sources.load import load_bundle

POINTS = {"balanced": [-1.0, 0.5], "small": [0.0, 2.0]}


def test_a_name_or_a_number_is_a_point() -> None:
    assert thresholds_at(POINTS, "small") == (0.0, 2.0)
    assert thresholds_at(POINTS, 0) == thresholds_at(POINTS, "balanced") == (-1.0, 0.5)
    assert thresholds_at(POINTS, -0.5) == (-1.5, 0.0)


@pytest.mark.parametrize(
    "points",
    [
        *({}, [], {"balanced": []}, {"balanced": 1.0}, {"small": [0.0]}, {"balanced": ["0"]}),
        *({"balanced": [1.0, 0.0]}, {"balanced": [float("nan")]}, {"balanced": [True]}),
        {"balanced": [0.0], "small": [0.0, 1.0]},
    ],
)
def test_points_that_are_none(points: Any) -> None:
    with pytest.raises(ArgumentError, match="points must be balanced and others"):
        thresholds_at(points, 0)


@pytest.mark.parametrize("prefer", ["tiny", "", float("nan"), float("inf"), None, True, [0.0]])
def test_preferences_that_are_none(prefer: Any) -> None:
    with pytest.raises(ArgumentError, match="prefer must be balanced, small or a finite number"):
        thresholds_at(POINTS, prefer)


def test_a_vote_counts_the_thresholds_below_the_score(ordered_bundle: Bundle) -> None:
    x = torch.rand(200, 1, 8, 8) + 0.5 * torch.randn(200, 1, 8, 8)
    votes = {}
    for prefer in ("small", "balanced", "large", "0.05"):
        bundle = at_point(ordered_bundle, prefer)
        module: Any = bundle.build("selector")
        thresholds = bundle.networks["selector"].kwargs["prefer"]
        cuts = torch.tensor(thresholds_at(points_of(bundle), thresholds))  # type: ignore[arg-type]
        with torch.no_grad():
            expected = (module.network(x) > cuts).sum(1)
            votes[prefer] = module(x).argmax(1)
            captured = capture(module)
            assert captured is not None
            assert torch.equal(captured(x).argmax(1), votes[prefer])
        assert torch.equal(votes[prefer], expected)
    assert (votes["small"] <= votes["balanced"]).all()
    assert (votes["balanced"] <= votes["large"]).all()
    assert votes["small"].sum() < votes["large"].sum()


def test_another_point_is_another_bundle_with_the_same_weights(ordered_bundle: Bundle) -> None:
    told = at_point(ordered_bundle, "small")
    assert told.digest != ordered_bundle.digest == at_point(told, "balanced").digest
    assert told.networks["selector"].sha256 == ordered_bundle.networks["selector"].sha256
    assert (ordered_bundle.preference, told.preference) == ("balanced", "small")
    assert at_point(ordered_bundle, "0.25").preference == "0.25"
    again = Bundle.of_manifest(told.manifest, "again")
    assert (again.digest, again.preference) == (told.digest, "small")


def test_a_selector_without_points_has_no_preference(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    assert (points_of(bundle), bundle.preference) == ({}, "")
    with pytest.raises(ArgumentError, match="prefer must be left out: the selector of tiny"):
        at_point(bundle, "small")
