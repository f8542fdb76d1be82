"""Certificates from a deployment folder, with NumPy, SciPy and ONNX Runtime alone.

The procedures are the engine's own (`dualsmooth.engine.methods`), driven one draw at a time over
ONNX Runtime, so every bound, ledger and rounding is the same code that ``dualsmooth certify`` runs.
A certificate is about the exported networks in the deployment's precision, float32 or int8, and
names the deployment's digest. With ``pairs`` it is about the float32 networks behind int8 ones.
"""

from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate, Stamp
from dualsmooth.engine.checks import error_level
from dualsmooth.engine.draws import Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import check_ids, check_images, unit_float
from dualsmooth.engine.models.sources.onnx_session import CPU
from dualsmooth.engine.runtime.flight import Flight, Result, drive
from dualsmooth.engine.samplers.sampler import Closing
from dualsmooth.export.deployment import read_deployment
from dualsmooth.export.sampler import OnnxSampler


class OnnxCertifier(Closing):
    """Certifies and predicts with the networks of a deployment.

    Parameters
    ----------
    folder : str or Path
        Written by ``dualsmooth export``; every file's digest is checked.
    sigma : float, optional
        Use fixed smoothing at this level of the deployment instead of its own method.
    pairs : int, optional
        Certify the float32 networks that int8 ones were made from: int8 votes, and this many
        samples that both answer (`dualsmooth.engine.methods.transfer`). Fixed smoothing only.
    seed, attempt : int
        Noise stream, 0 <= seed < 2^64 and 0 <= attempt < 2^16; fixed before looking at results.
    provider : str
        Execution provider of ONNX Runtime. One that lacks the integer operators of the vote graphs
        gets noise made on the host, and a warning says so.
    feed_noise : bool
        Make the noise on the host in any case.
    threads : int, optional
        Rows in work at once, by default one per core. Never changes a vote.

    Raises
    ------
    ArgumentError
        If an argument is outside its range, the deployment has no such level or no pairs, or ONNX
        Runtime has no such provider.
    FileError
        If a file is missing, damaged or tampered with.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        sigma: float | None = None,
        pairs: int | None = None,
        seed: int = 0,
        attempt: int = 0,
        provider: str = CPU,
        feed_noise: bool = False,
        threads: int | None = None,
    ) -> None:
        for name, number, stop in (("seed", seed, 1 << 64), ("attempt", attempt, 1 << 16)):
            if type(number) is not int or not 0 <= number < stop:
                raise ArgumentError(name, f"must be an integer in [0, {stop})", number)
        self.deployment = read_deployment(folder)
        method = self.deployment.method
        self.method = method(sigma) if pairs is None else self.deployment.transfer(sigma, pairs)
        about = self.deployment.precision
        self.precision = about if pairs is None else f"fp32 from {about} votes"
        self.seed, self.attempt, self.provider = seed, attempt, provider
        self.sampler = OnnxSampler(
            *(self.deployment, self.method.roles),
            seed=seed,
            attempt=attempt,
            provider=provider,
            feed_noise=feed_noise,
            threads=threads,
        )
        self._stamp = Stamp(
            method=self.method.name,
            seed=seed,
            attempt=attempt,
            bundle=self.deployment.digest,
            precision=self.precision,
            device="cpu" if provider == CPU else provider,
            sampler=self.sampler.name,
            batch_size=self.sampler.batch_size,
        )

    def certify(
        self,
        image: ArrayLike,
        *,
        n0: int | None = None,
        n: int | None = None,
        alpha: float | None = None,
        budget: Budget | None = None,
        image_id: int = 0,
        label: int | None = None,
    ) -> Certificate:
        """CERTIFY for one image.

        Parameters
        ----------
        image : array_like, shape (height, width, channels)
            uint8, or floating point in [0, 1].
        n0, n : int, optional
            Votes that choose and votes that estimate, by default the deployment's.
        alpha : float, optional
            Failure probability, in (0, 1), by default the deployment's.
        budget : Budget, optional
            A budget instead of n0 and n, for example ``Budget.decide((0.25, 0.5))``.
        image_id : int
            In [0, 2^32); noise depends on it, so images that are certified together need their own.
        label : int, optional
            True class, copied into the certificate.

        Returns
        -------
        Certificate
            Radius in [0, 1] pixel units, L2, rounded down.

        Raises
        ------
        ArgumentError
            If an argument is outside its range; nothing is drawn then.
        """
        if budget is not None and (n0, n) != (None, None):
            raise ArgumentError("budget", "must be given alone", f"n0={n0}, n={n}")
        terms, started = self.deployment.terms, perf_counter()
        chosen = budget or Budget.fixed(terms.n0 if n0 is None else n0, terms.n if n is None else n)
        level = terms.alpha if alpha is None else alpha
        flight = Flight(image_id, self.method.certify(chosen, level))
        self._fly(flight, image)
        assert flight.result is not None
        seconds = perf_counter() - started
        return Certificate.of(flight.result, self._stamp, image_id, label, flight.records, seconds)

    def predict(
        self,
        image: ArrayLike,
        *,
        n: int | None = None,
        alpha: float | None = None,
        image_id: int = 0,
    ) -> Prediction:
        """PREDICT for one image: P(answer is not the smoothed classifier's) <= alpha.

        Takes arguments and raises as `certify`; the noise level is estimated afresh.
        """
        terms = self.deployment.terms
        level = error_level("alpha", terms.alpha if alpha is None else alpha)
        procedure = self.method.predict(terms.n if n is None else n, level)
        flight = Flight(image_id, procedure)
        self._fly(flight, image)
        assert flight.result is not None
        return flight.result

    def _fly(self, flight: Flight[Result], image: ArrayLike) -> None:
        shape = self.sampler.shape
        array = np.asarray(image)
        if array.shape != shape:
            hint = "channels come last" if array.shape == (shape[2], *shape[:2]) else ""
            raise ArgumentError("image", f"must have shape {shape}", array.shape, hint)
        (checked,) = check_images(array[None], shape)
        check_ids([flight.image_id], 1)
        flight.slot = 0
        self.sampler.load(0, unit_float(checked))
        drive(flight, self.sampler)

    def close(self) -> None:
        """Stop the threads."""
        self.sampler.close()
