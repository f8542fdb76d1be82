"""`predict`: the smoothed classifier's classes of images in one call."""

from collections.abc import Iterable
from typing import Any

from dualsmooth.engine.budget import ANSWERS, Budget
from dualsmooth.engine.draws import Prediction
from dualsmooth.engine.results.arguments import ImageSource, Model, method_and_images
from dualsmooth.engine.settings import Settings
from dualsmooth.engine.terminal.progress import passing_bar, shown


def predict(
    model: Model,
    images: ImageSource,
    *,
    sigma: float | None = None,
    method: str | None = None,
    image_ids: Iterable[int] | None = None,
    n: int = ANSWERS,
    alpha: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    backend: str = "auto",
    noise: str = "gaussian",
    progress: bool = True,
    **options: Any,
) -> list[Prediction]:
    """The smoothed classifier's classes, in the order of the images; no radius.

    Parameters
    ----------
    n : int
        Votes per network.
    alpha : float
        Probability that an answer is not the smoothed classifier's class, in (0, 1).
    model, images, sigma, method, image_ids, seed, progress, options
        As `certify` takes them.
    device, precision, batch_size, threads, backend, noise
        See `dualsmooth.engine.settings.Settings`.

    Returns
    -------
    list of Prediction
        ``predicted`` is a class, or None where the votes do not settle one.

    Raises
    ------
    ArgumentError, FileError
        As `certify` does.
    """
    from dualsmooth.engine.runtime.session import Session

    drawn = (alpha, seed, 0, device, precision, batch_size, threads, None, backend, noise)
    settings = Settings(Budget.fixed(1, n), *drawn)
    named = {"sigma": sigma, "method": method, **options}
    with shown(progress):
        system, array, data = method_and_images(predict, model, images, (None, image_ids), named)
    with shown(progress), Session.open(system, settings) as session:
        look = {"desc": "predict", "total": len(array), "unit": "image"}
        answers = session.predict(array, data.image_ids)
        found = dict(passing_bar(show=progress, iterable=answers, **look))
    return [found[i] for i in data.image_ids]
