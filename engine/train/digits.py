"""The recipe of the bundled model `digits-dual`: scikit-learn's digits, 8x8 grey."""

from dualsmooth.engine.train.augment import Affine
from dualsmooth.engine.train.crew import Expert
from dualsmooth.engine.train.dual import DualRecipe
from dualsmooth.engine.train.loop import Schedule
from dualsmooth.engine.train.radii import Labelling
from dualsmooth.engine.train.selector import SelectorLoss

DIGITS_DUAL = DualRecipe(
    name="digits-dual",
    experts=(Expert(0.12), Expert(0.25), Expert(0.5, pull=5.0, entropy=0.5)),
    tau=0.5,
    classifying=Schedule(epochs=150, affine=Affine(0.15, 0.2, 0.1, 0.1)),
    selecting=Schedule(epochs=100, affine=None, draws=4),
    selector_loss=SelectorLoss(
        temperature=0.1, radius=10.0, pull=0.0, entropy=0.0, wrong_costs=True
    ),
    labelling=Labelling(votes=1000, folds=2),
)
"""Experts trained on the digits' training split only."""
