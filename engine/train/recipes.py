"""The recipe `dual` for any images, ours and as published."""

from dataclasses import replace

from dualsmooth.engine.train.dual import DualRecipe
from dualsmooth.engine.train.experts import Expert, Tuning
from dualsmooth.engine.train.loop import Affine, Schedule
from dualsmooth.engine.train.radii import Labelling
from dualsmooth.engine.train.selector import SelectorLoss
from dualsmooth.engine.train.utility import PUBLISHED

DUAL = DualRecipe(
    name="dual",
    experts=(Expert(0.25), Expert(0.5, pull=5.0, entropy=0.5), Expert(1.0, pull=5.0, entropy=0.5)),
    tau=1.0,
    classifying=Schedule(epochs=8, affine=None),
    selecting=Schedule(epochs=8, affine=None, peak_rate=2e-3),
    utility="R + 4 min(R, 0.5)",
    labelling=Labelling(votes=100),
)
"""A selector of one score, with operating points between small and large noise."""

DUAL_PUBLISHED = replace(
    DUAL,
    name="dual-published",
    selecting=Schedule(epochs=5, affine=None, batch=64, draws=8, peak_rate=2e-3, weight_decay=5e-2),
    utility=PUBLISHED,
    selector_loss=SelectorLoss(pull=40.0),
    tuning=Tuning(Schedule(epochs=2, affine=None, peak_rate=3e-4), least=0.0),
    warm_start=False,
)
"""Sun, Mao and Vechev (2025): soft labels exp(R), classes re-balanced, consistency, round 1."""

CIFAR_DUAL = replace(
    DUAL,
    name="cifar-dual",
    classifying=Schedule(epochs=60, affine=Affine(0.25, 0.0, 0.0, 0.0, flip=True), batch=512),
    selecting=Schedule(epochs=20, affine=None, batch=256, draws=4, peak_rate=2e-3),
    labelling=Labelling(votes=64, held_out=1 / 5),
    network="cifar_resnet110",
    half=True,
)
"""ResNet-110 on CIFAR-10, for a CUDA device."""

FASHION_DUAL = replace(
    DUAL,
    name="fashion-dual",
    experts=(Expert(0.5, pull=2.0, entropy=0.5), Expert(1.0, pull=1.0, entropy=0.5, teacher=0.5)),
    classifying=Schedule(epochs=6, affine=None),
    labelling=Labelling(votes=200, held_out=1 / 6, runner_up=True),
    half=True,
)
"""The bundled model of that name: Fashion-MNIST, 28x28 grey, for runner-up certificates."""

DIGITS_DUAL = DualRecipe(
    name="digits-dual",
    experts=(Expert(0.12), Expert(0.25), Expert(0.5, pull=5.0, entropy=0.5)),
    tau=0.5,
    classifying=Schedule(epochs=150, affine=Affine(0.15, 0.2, 0.1, 0.1)),
    selecting=Schedule(epochs=100, affine=None, draws=4),
    utility="R + 4 min(R, 0.25)",
    labelling=Labelling(votes=1000, folds=2),
)
"""Experts trained on the digits' training split only."""
