"""Training recipes by name, as `dualsmooth train RECIPE` runs them."""

from dataclasses import replace
from pathlib import Path

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.train.digits import DIGITS_DUAL, train_digits_dual

RECIPES = {DIGITS_DUAL.name: DIGITS_DUAL}


def train(name: str, data: str, out: str | Path, *, seed: int = 0, progress: bool = True) -> Bundle:
    """Run a recipe on the training split of a data set and write the bundle folder.

    Parameters
    ----------
    name : str
        A key of ``RECIPES``.
    data : str
        SPEC of the images. Without a split it means the training split: a model that is to be
        certified must not have seen the test images.
    out : str or Path
        Folder to make.
    seed : int
        The same seed gives the same bytes on one kind of machine.

    Raises
    ------
    ArgumentError, FileError
        If the name is not known, the data cannot be read, or the folder cannot be made.
    """
    if name not in RECIPES:
        raise ArgumentError("recipe", f"must be one of {', '.join(sorted(RECIPES))}", name)
    recipe = replace(RECIPES[name], seed=seed)
    return train_digits_dual(recipe, out, data=training_split(data), progress=progress)


def training_split(spec: str) -> str:
    """The SPEC with `:train` added where a split can be named and none is."""
    kind, colon, _ = spec.partition(":")
    if kind not in ("digits", "idx", "cifar10") or spec.endswith((":train", ":test")):
        return spec
    return spec + (":train" if colon or kind == "digits" else "::train")
