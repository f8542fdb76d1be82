"""`certify`: certificates for images in one call."""

from collections.abc import Iterable
from contextlib import closing
from typing import Any

from dualsmooth.engine.adapters.smooth import Smooth
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.results.arguments import ImageSource, Model, budget_of, method_and_images
from dualsmooth.engine.results.certificates import Certificates
from dualsmooth.engine.runs.progress import Progress
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.settings import Settings
from dualsmooth.engine.terminal.progress import shown

__all__ = ["Smooth", "certify"]


def certify(
    model: Model,
    images: ImageSource,
    *,
    sigma: float | None = None,
    method: str | None = None,
    image_ids: Iterable[int] | None = None,
    labels: Iterable[int] | None = None,
    budget: Budget | None = None,
    n: int | None = None,
    n0: int | None = None,
    alpha: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    slots: int | None = None,
    backend: str = "auto",
    noise: str = "gaussian",
    progress: bool = True,
    **options: Any,
) -> Certificates:
    """Certify images and return their certificates, in the order of the images.

    Parameters
    ----------
    model : Module, function, Bundle, str, Path or Method
        What is certified: a PyTorch module or a function from images (n, channels, height, width)
        with pixels in [0, 1] to logits (it is put into evaluation mode); a bundle; a name or file
        as `load_bundle` takes it; or a method with networks and options of its own.
    images : array_like, shape (count, height, width, channels), ImageSet or str
        uint8 in 0 .. 255, or floating point in [0, 1]; NumPy, PyTorch, CuPy or any array with
        ``__dlpack__``, read without a copy. Images on a CUDA device stay there. Or a SPEC, such as
        ``digits`` or ``folder:DIR``.
    sigma : float, optional
        Noise level, in [0, 1] pixel units.
    method : str, optional
        fixed, dual, ..; by default dual where there is a selector and no sigma, else fixed.
    **options
        The method's further options, as on the command line.
    image_ids : sequence of int, optional
        Distinct ids in [0, 2^32), by default 0, 1, ..; noise depends on the id.
    labels : sequence of int, optional
        True classes, copied into the certificates; by default those of an image set.
    budget : Budget, optional
        Votes per stage, by default ``Budget.fixed(n0=100, n=10_000)``.
    n, n0 : int, optional
        Short for ``budget=Budget.fixed(n0=n0, n=n)``.
    alpha : float
        Failure probability per image, in (0, 1).
    seed : int
        Noise seed, 0 <= seed < 2^64.
    device, precision, batch_size, threads, slots, backend, noise
        See `dualsmooth.engine.settings.Settings`.
    progress : bool
        Show a bar in terminals and notebooks, and elsewhere a line on stderr every 30 seconds.

    Returns
    -------
    Certificates
        Radii are L2 distances in [0, 1] pixel units, rounded down.

    Raises
    ------
    ArgumentError
        If an argument is outside its range.
    FileError
        If a file cannot be read, or a network is refused.
    """
    drawn = (alpha, seed, 0, device, precision, batch_size, threads, slots, backend, noise)
    settings = Settings(budget_of(budget, n=n, n0=n0), *drawn)
    named = {"sigma": sigma, "method": method, **options}
    with shown(progress):
        system, array, data = method_and_images(certify, model, images, (labels, image_ids), named)
    with shown(progress), Session.open(system, settings) as session:
        truth, found = list(map(int, data.labels)), dict[int, Any]()
        view = Progress(system.name, len(truth), 0, lambda: session.occupancy.share, show=progress)
        with closing(view):
            for certificate in session.certify(array, data.image_ids, truth):
                found[certificate.image_id] = certificate
                view.seen(certificate)
                view.update()
        return Certificates.of(found, session, data)
