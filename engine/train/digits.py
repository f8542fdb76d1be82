"""The recipe of the bundled model `digits-dual`: scikit-learn's digits, 8x8 grey."""

from pathlib import Path

from tqdm import tqdm

from dualsmooth.engine.data import load_images
from dualsmooth.engine.folders import check_target
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.bundle_files import save_bundle
from dualsmooth.engine.train.augment import Affine
from dualsmooth.engine.train.dual import DualRecipe, Expert, steps, train_dual
from dualsmooth.engine.train.loop import Schedule
from dualsmooth.engine.train.selector import SelectorLoss

DIGITS_DUAL = DualRecipe(
    name="digits-dual",
    experts=(Expert(0.12), Expert(0.25), Expert(0.5, pull=5.0, entropy=0.5)),
    tau=0.5,
    widths=(32, 64),
    hidden=128,
    classifying=Schedule(epochs=150, affine=Affine(0.15, 0.2, 0.1, 0.1)),
    selecting=Schedule(epochs=100, affine=None, draws=4),
    selector_loss=SelectorLoss(temperature=0.1, radius=10.0, pull=0.0, entropy=0.0),
    folds=2,
    votes=1000,
)
"""Experts trained on the digits' training split only."""


def train_digits_dual(
    recipe: DualRecipe, out: str | Path, *, data: str = "digits:train", progress: bool = True
) -> Bundle:
    """Train a dual model and write its bundle folder.

    Parameters
    ----------
    recipe : DualRecipe
    out : str or Path
        Folder to make.
    data : str
        SPEC of the training images.
    progress : bool
        Show a bar if the output is a terminal.

    Raises
    ------
    ArgumentError, FileError
        If the data cannot be read or trained on, or the folder exists or cannot be written.
    """
    check_target(Path(out))  # before the work, not after it
    images = load_images(data)
    with tqdm(total=steps(recipe), unit="network", disable=None if progress else True) as bar:

        def report(step: str) -> None:
            bar.set_postfix_str(step)
            bar.update()

        bundle = train_dual(images, recipe, report)
    save_bundle(bundle, out)
    return bundle
