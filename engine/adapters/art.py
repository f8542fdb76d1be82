"""The engine as an estimator of the Adversarial Robustness Toolbox (extra ``bench``).

`CertifiedClassifier` answers the calls of ART's ``PyTorchRandomizedSmoothing``: ``predict`` and
``certify`` with the same arguments and results, for every method of this engine.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dualsmooth.engine.api import certify
from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import ABSTAIN
from dualsmooth.engine.checks import error_level, positive_integer
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.runtime.session import bundle_of
from dualsmooth.engine.settings import Settings

try:
    from art.estimators.classification.classifier import ClassifierMixin
    from art.estimators.estimator import BaseEstimator
except ImportError as error:
    hint = "pip install adversarial-robustness-toolbox"
    raise ArgumentError("art", "must be installed", str(error), hint) from error


class CertifiedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A smoothed classifier for ART: predicts, or abstains, and certifies L2 radii.

    Parameters
    ----------
    method : FixedSmoothing, DualSmoothing or another method of the engine
        What is certified, with its networks.
    sample_size : int
        Votes per network of `predict`, and votes n0 that choose the class in `certify`.
    alpha : float
        Failure probability per image, in (0, 1).
    channels_first : bool
        Whether images come as (count, channels, height, width), as ART's usually do.
    seed : int
        Noise seed. Every image of every call draws fresh noise.
    precision, device : str
        See `dualsmooth.engine.settings.Settings`.

    Raises
    ------
    ArgumentError
        If an argument is outside its range.
    """

    def __init__(
        self,
        method: Method,
        *,
        sample_size: int = 100,
        alpha: float = 0.001,
        channels_first: bool = True,
        seed: int = 0,
        precision: str = "auto",
        device: str = "auto",
    ) -> None:
        bundle = bundle_of(method)
        super().__init__(model=method, clip_values=(0.0, 1.0))
        self.method, self.channels_first, self.seed = method, channels_first, seed
        self.sample_size = positive_integer("sample_size", sample_size)
        self.alpha = error_level("alpha", alpha)
        self._how: dict[str, Any] = {"precision": precision, "device": device}
        self.nb_classes = bundle.num_classes
        height, width, channels = bundle.input_shape
        self._input_shape = (channels, height, width) if channels_first else bundle.input_shape
        self._images_seen = 0

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image as the caller passes it."""
        return self._input_shape

    def certify(
        self, x: ArrayLike, n: int, batch_size: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Classes and radii of images.

        Parameters
        ----------
        x : array_like, shape (count, *input_shape)
            Pixels in [0, 1].
        n : int
            Fresh votes per network that enter the bounds.
        batch_size : int, optional
            Rows per forward pass; part of what is certified.

        Returns
        -------
        tuple of (ndarray of int64, ndarray of float64), shape (count,)
            Class, -1 for abstain, and L2 radius, rounded down, 0 for abstain.

        Raises
        ------
        ArgumentError
            If images or n are invalid.
        """
        images, ids = self._images(x)
        found = certify(
            *(self.method, images),
            image_ids=ids,
            budget=Budget.fixed(self.sample_size, n),
            batch_size=batch_size,
            alpha=self.alpha,
            seed=self.seed,
            **self._how,
        )
        classes = [ABSTAIN if c.predicted is None else c.predicted for c in found]
        return np.array(classes, np.int64), np.array([c.radius for c in found], np.float64)

    def predict(
        self, x: ArrayLike, batch_size: int | None = None, verbose: bool = False
    ) -> NDArray[np.float32]:
        """Smoothed predictions, one-hot; a row of zeros is abstain.

        Parameters
        ----------
        x : array_like, shape (count, *input_shape)
            Pixels in [0, 1].
        batch_size : int, optional
            Rows per forward pass.
        verbose : bool
            Taken because ART passes it; nothing is printed.

        Returns
        -------
        ndarray of float32, shape (count, nb_classes)
            Wrong with probability <= alpha per image.
        """
        from dualsmooth.engine.runtime.session import Session

        images, ids = self._images(x)
        budget = Budget.fixed(self.sample_size, self.sample_size)
        votes = {"seed": self.seed, "batch_size": batch_size, **self._how}
        settings = Settings(budget, self.alpha, **votes)
        rows = np.zeros((len(ids), self.nb_classes), np.float32)
        with Session.open(self.method, settings) as session:
            for image_id, prediction in session.predict(images, ids):
                if prediction.predicted is not None:
                    rows[image_id - ids[0], prediction.predicted] = 1.0
        return rows

    def set_params(self, **kwargs: object) -> None:
        """Refuse: what was made once is what is certified.

        Raises
        ------
        ArgumentError
            If a parameter is given, for example ``preprocessing_defences`` or ``clip_values``.
        """
        if kwargs:
            rule = "must be part of the network, or of the images that are passed"
            raise ArgumentError(next(iter(kwargs)), rule, "set_params", "make another estimator")

    def fit(self, x: ArrayLike, y: ArrayLike, **kwargs: object) -> None:
        """Refuse: bundles are trained by ``dualsmooth train`` or by your own code.

        Raises
        ------
        NotImplementedError
            Always, as ART asks of estimators that do not train.
        """
        raise NotImplementedError("train the networks first; this estimator certifies them")

    def _images(self, x: ArrayLike) -> tuple[NDArray[np.generic], list[int]]:
        """Channels-last images with ids never used before."""
        from dualsmooth.engine.samplers.inputs import share

        images = np.asarray(share(x, "x"))
        if images.shape[1:] != self._input_shape:
            rule = f"must have shape (count, {str(self._input_shape)[1:]}"
            order = "first" if self.channels_first else "last"
            raise ArgumentError("x", rule, images.shape, f"channels come {order}: channels_first")
        if self.channels_first:
            images = images.transpose(0, 2, 3, 1)
        first = self._images_seen
        self._images_seen += len(images)
        return images, list(range(first, first + len(images)))
