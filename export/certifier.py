"""Certificates from a deployment folder, with NumPy, SciPy and ONNX Runtime alone.

A session over ONNX Runtime: procedures, scheduler, bounds, ledgers and rounding are the code that
``dualsmooth certify`` runs.
A certificate is about the exported networks in the deployment's precision, float32 or int8, and
names the deployment's digest. With ``pairs`` it is about the float32 networks behind int8 ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.draws import Prediction
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import AnyArray, check_shape
from dualsmooth.engine.models.sources.onnx_session import CPU
from dualsmooth.engine.runtime.session import Session
from dualsmooth.engine.samplers.inputs import Images, share
from dualsmooth.engine.samplers.sampler import Closing
from dualsmooth.engine.settings import Settings
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
        self.deployment = read_deployment(folder)
        self.settings = Settings(seed=seed, attempt=attempt, device="cpu", precision="fp32")
        method = self.deployment.method
        self.method = method(sigma) if pairs is None else self.deployment.transfer(sigma, pairs)
        about = self.deployment.precision
        self.precision = about if pairs is None else f"fp32 from {about} votes"
        self.provider = provider
        self.sampler = OnnxSampler(
            *(self.deployment, self.method.roles),
            seed=seed,
            attempt=attempt,
            provider=provider,
            feed_noise=feed_noise,
            threads=threads,
        )

    def certify(
        self,
        image: AnyArray,
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
        labels, options = None if label is None else [label], (n0, n, alpha, budget)
        return next(self.certify_all(self._one(image), [image_id], labels, *options))

    def certify_all(
        self,
        images: AnyArray,
        image_ids: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
        n0: int | None = None,
        n: int | None = None,
        alpha: float | None = None,
        budget: Budget | None = None,
    ) -> Iterator[Certificate]:
        """Certify many images, several at a time, and yield certificates as images are decided.

        Images have the shape (count, height, width, channels) and by default the ids 0, 1, ..;
        other arguments, results and errors are those of `certify`.
        """
        if budget is not None and (n0, n) != (None, None):
            raise ArgumentError("budget", "must be given alone", f"n0={n0}, n={n}")
        return self._session(n0, n, alpha, budget).certify(images, image_ids, labels)

    def predict(
        self,
        image: AnyArray,
        *,
        n: int | None = None,
        alpha: float | None = None,
        image_id: int = 0,
    ) -> Prediction:
        """PREDICT for one image: P(answer is not the smoothed classifier's) <= alpha.

        Takes arguments and raises as `certify`; the noise level is estimated afresh.
        """
        session = self._session(None, n, alpha)
        ((_, prediction),) = session.predict(self._one(image), [image_id])
        return prediction

    def _session(
        self, n0: int | None, n: int | None, alpha: float | None, budget: Budget | None = None
    ) -> Session:
        """A session over the sampler, with the deployment's terms where none are given."""
        terms = self.deployment.terms
        fixed = Budget.fixed(terms.n0 if n0 is None else n0, terms.n if n is None else n)
        level = terms.alpha if alpha is None else alpha
        settings = replace(self.settings, budget=budget or fixed, alpha=level)
        about = {"bundle": self.deployment.digest, "precision": self.precision}
        if self.provider != CPU:
            about["device"] = self.provider
        return Session(self.method, settings, self.sampler, **about)

    def _one(self, image: AnyArray) -> Images:
        array = share(image, "image")
        check_shape(array, self.sampler.shape)
        return array[None]

    def close(self) -> None:
        """Stop the threads."""
        self.sampler.close()
