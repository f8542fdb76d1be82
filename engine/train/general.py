"""The recipe `dual` for any images, ours and as published."""

from dualsmooth.engine.train.dual import DualRecipe, Expert, Tuning
from dualsmooth.engine.train.loop import Schedule
from dualsmooth.engine.train.radii import Labelling
from dualsmooth.engine.train.selector import SelectorLoss

_EXPERTS = (Expert(0.25), Expert(0.5, pull=5.0, entropy=0.5), Expert(1.0, pull=5.0, entropy=0.5))

DUAL = DualRecipe(
    name="dual",
    experts=_EXPERTS,
    tau=1.0,
    classifying=Schedule(epochs=10, affine=None),
    selecting=Schedule(epochs=10, affine=None, weight_decay=5e-2),
    selector_loss=SelectorLoss(temperature=0.25, radius=10.0, pull=0.0, entropy=0.0),
    labelling=Labelling(votes=100),
)
"""Selector trained for the ordered median and interval routing."""

DUAL_PUBLISHED = DualRecipe(
    name="dual-published",
    experts=_EXPERTS,
    tau=1.0,
    classifying=Schedule(epochs=10, affine=None),
    selecting=Schedule(epochs=10, affine=None, weight_decay=5e-2),
    selector_loss=SelectorLoss(
        temperature=1.0, radius=0.0, pull=40.0, entropy=0.5, of_mean=True, rebalance=True
    ),
    labelling=Labelling(votes=100),
    tuning=Tuning(Schedule(epochs=2, affine=None, peak_rate=3e-4), least=0.0),
)
"""Sun, Mao and Vechev (2025): soft labels exp(R), classes re-balanced, consistency, round 1."""
