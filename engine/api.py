"""`certify`: certificates for an array of images in one call."""

from collections.abc import Sequence

from dualsmooth.engine.adapters.smooth import Smooth
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.images import AnyArray
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.settings import Settings

__all__ = ["Smooth", "certify"]


def certify(
    method: Method,
    images: AnyArray,
    *,
    image_ids: Sequence[int] | None = None,
    labels: Sequence[int] | None = None,
    budget: Budget | None = None,
    alpha: float = 1e-3,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    threads: int | None = None,
    slots: int | None = None,
    backend: str = "auto",
    noise: str = "gaussian",
) -> list[Certificate]:
    """Certify images and return one certificate per image, in the order of the images.

    Parameters
    ----------
    method : FixedSmoothing or DualSmoothing
        What is certified, with its networks.
    images : array_like, shape (count, height, width, channels)
        uint8 in 0 .. 255, or floating point in [0, 1]; NumPy, PyTorch, CuPy or any array with
        ``__dlpack__``, read without a copy. Images on a CUDA device stay there.
    image_ids : sequence of int, optional
        Distinct ids in [0, 2^32), by default 0, 1, ..; noise depends on the id.
    labels : sequence of int, optional
        True classes, copied into the certificates.
    budget : Budget, optional
        Votes per stage, by default ``Budget.fixed(n0=100, n=100_000)``.
    alpha : float
        Failure probability per image, in (0, 1).
    seed : int
        Noise seed, 0 <= seed < 2^64.
    device, precision, batch_size, threads, slots, backend, noise
        See `dualsmooth.engine.settings.Settings`.

    Returns
    -------
    list of Certificate
        Radii are L2 distances in [0, 1] pixel units, rounded down.

    Raises
    ------
    ArgumentError
        If an argument is outside its range.
    """
    from dualsmooth.engine.runtime.session import Session

    settings = Settings(
        budget=budget or Budget.fixed(),
        alpha=alpha,
        seed=seed,
        device=device,
        precision=precision,
        batch_size=batch_size,
        threads=threads,
        slots=slots,
        backend=backend,
        noise=noise,
    )
    with Session.open(method, settings) as session:
        certificates = {c.image_id: c for c in session.certify(images, image_ids, labels)}
    order = image_ids if image_ids is not None else range(len(certificates))
    return [certificates[int(image_id)] for image_id in order]
