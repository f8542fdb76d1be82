"""The interface of Cohen et al.'s code: one classifier, one input, CERTIFY and PREDICT."""

import warnings
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, ClassVar, TypeVar

from dualsmooth.engine.budget import ANSWERS, PILOT, VOTES, Budget
from dualsmooth.engine.certificate import ABSTAIN
from dualsmooth.engine.checks import positive, positive_integer
from dualsmooth.engine.draws import Counts, Draw
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import AnyArray
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.models.network import OneNetwork
from dualsmooth.engine.settings import Settings

if TYPE_CHECKING:
    import torch
    from torch import nn

Result = TypeVar("Result")
_NORMALIZED = 32.0
"""Inputs that were normalized, whatever their mean and deviation, stay below."""


class Smooth:
    """A smoothed classifier g(x) = argmax_c P(f(x + N(0, sigma^2 I)) = c).

    Votes are cast in float32 and on the processor, also where there is a GPU, which `certify` uses
    (and may use bfloat16); noise and numbers of votes are the same by default.

    Inputs may be normalized: noise and radii are in their units. Where they look like pixels of
    0 .. 255 beside a small sigma, a warning says so.

    Parameters
    ----------
    base_classifier : torch.nn.Module or callable
        Maps a batch of inputs to logits; it is put into evaluation mode, and read anew at each
        call.
    num_classes : int
        Number of logits.
    sigma : float
        Noise standard deviation in input units.
    seed : int
        Noise seed. Every call draws fresh noise (the call number is the image id).

    Raises
    ------
    ArgumentError
        If an argument is outside its range.
    """

    ABSTAIN: ClassVar[int] = ABSTAIN

    def __init__(
        self,
        base_classifier: "Callable[[torch.Tensor], torch.Tensor]",
        num_classes: int,
        sigma: float,
        *,
        seed: int = 0,
    ) -> None:
        if not callable(base_classifier):
            rule = "must be a module or a function from a batch of inputs to logits"
            raise ArgumentError("base_classifier", rule, type(base_classifier).__name__)
        if positive_integer("num_classes", num_classes) < 2:
            raise ArgumentError("num_classes", "must be an integer >= 2", num_classes)
        self.base_classifier, self.num_classes = base_classifier, int(num_classes)
        self.sigma, self.seed, self._calls = positive("sigma", sigma), Settings(seed=seed).seed, 0
        self._built: tuple[str, nn.Module] | None = None

    def __repr__(self) -> str:
        network = type(self.base_classifier).__name__
        return f"Smooth({network}, num_classes={self.num_classes}, sigma={self.sigma:g})"

    def certify(
        self,
        x: "torch.Tensor | AnyArray",
        n0: int = PILOT["fixed"],
        n: int = VOTES,
        alpha: float = 1e-3,
        batch_size: int | None = None,
    ) -> tuple[int, float]:
        """CERTIFY of Cohen et al. (2019).

        Parameters
        ----------
        x : torch.Tensor, or any array with ``__dlpack__``
            One input, floating point: (channels, height, width), also as a batch of one, or any
            other shape of up to three axes without batch axis.
        n0, n : int
            Votes to choose the class, and fresh votes to bound its probability.
        alpha : float
            Failure probability in (0, 1).
        batch_size : int or None
            Rows per forward pass; part of what makes votes reproducible. None: by image size.

        Returns
        -------
        tuple of (int, float)
            Class and L2 radius, rounded down; (ABSTAIN, 0.0) if nothing is certified.

        Raises
        ------
        ArgumentError
            If an argument is outside its range, or x is no input that float32 can hold.
        FileError
            If the classifier gives no logits, or reads more than its own row of a batch.
        """
        method = FixedSmoothing(OneNetwork(), self.sigma)
        certificate = self._drive(x, method.certify(Budget(n0, n), alpha), batch_size)
        label = self.ABSTAIN if certificate.predicted is None else certificate.predicted
        return label, certificate.radius

    def predict(
        self,
        x: "torch.Tensor | AnyArray",
        n: int = ANSWERS,
        alpha: float = 1e-3,
        batch_size: int | None = None,
    ) -> int:
        """PREDICT of Cohen et al. (2019): the class, wrong with probability <= alpha, or ABSTAIN.

        Parameters and errors as in `certify`; ``n`` votes are drawn.
        """
        method = FixedSmoothing(OneNetwork(), self.sigma)
        prediction = self._drive(x, method.predict(n, alpha), batch_size)
        return self.ABSTAIN if prediction.predicted is None else prediction.predicted

    def _drive(
        self,
        x: "torch.Tensor | AnyArray",
        procedure: "Generator[Draw, Counts, Result]",
        batch_size: int | None,
    ) -> Result:
        from dualsmooth.engine.runtime.drive import drive
        from dualsmooth.engine.runtime.flight import Flight
        from dualsmooth.engine.samplers.choose import make_sampler
        from dualsmooth.engine.samplers.classifier import as_image

        image, shape = as_image(x)
        if (most := abs(image).max()) > _NORMALIZED and self.sigma < 2.0:
            said = f"x reaches {most:g}, and sigma is {self.sigma:g} in its units"
            warnings.warn(f"{said}: pixels of 0 .. 255 are to be divided by 255", stacklevel=3)
        sampler = make_sampler(
            {OneNetwork.name: self._network(shape)},
            {OneNetwork.name: self.num_classes},
            image.shape,
            seed=self.seed,
            batch_size=Settings(device="cpu", batch_size=batch_size).padded_batch(image.shape),
        )
        flight = Flight(self._calls, procedure, slot=0)
        self._calls += 1
        try:
            sampler.load(0, image)
            return drive(flight, sampler).result
        finally:
            sampler.close()

    def _network(self, shape: tuple[int, ...]) -> "nn.Module":
        """The classifier as it is now; tried once, and again when it has changed."""
        from dualsmooth.engine.samplers.classifier import bundle_for

        bundle = bundle_for(self.base_classifier, shape, self.num_classes)
        if self._built is None or self._built[0] != bundle.digest:
            self._built = bundle.digest, bundle.build(OneNetwork.name)
        return self._built[1]
