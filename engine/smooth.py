"""Drop-in for the ``Smooth`` class of Cohen, Rosenfeld and Kolter's published code."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, ClassVar, TypeVar

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.certificate import ABSTAIN
from dualsmooth.engine.checks import positive
from dualsmooth.engine.draws import Counts, Draw
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import AnyArray
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.networks import OneNetwork

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")


class Smooth:
    """A smoothed classifier g(x) = argmax_c P(f(x + N(0, sigma^2 I)) = c).

    Parameters
    ----------
    base_classifier : torch.nn.Module or callable
        Maps a batch of inputs to logits; it is put into evaluation mode, and weights are read at
        each call.
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
        if num_classes < 2:
            raise ArgumentError("num_classes", "must be an integer >= 2", num_classes)
        self.base_classifier, self.num_classes, self.sigma = base_classifier, num_classes, sigma
        positive("sigma", sigma)
        self.seed, self._calls = seed, 0

    def certify(
        self, x: "torch.Tensor | AnyArray", n0: int, n: int, alpha: float, batch_size: int
    ) -> tuple[int, float]:
        """CERTIFY of Cohen et al. (2019).

        Parameters
        ----------
        x : torch.Tensor, or any array with ``__dlpack__``
            One input, (channels, height, width) or any other shape, without batch axis.
        n0, n : int
            Votes to choose the class, and fresh votes to bound its probability.
        alpha : float
            Failure probability in (0, 1).
        batch_size : int
            Rows per forward pass; part of what makes votes reproducible.

        Returns
        -------
        tuple of (int, float)
            Class and L2 radius, rounded down; (ABSTAIN, 0.0) if nothing is certified.

        Raises
        ------
        ArgumentError
            If an argument is outside its range, or x holds NaN or infinity.
        """
        method = FixedSmoothing(OneNetwork(), self.sigma)
        certificate = self._drive(x, method.certify(Budget(n0, n), alpha), batch_size)
        label = self.ABSTAIN if certificate.predicted is None else certificate.predicted
        return label, certificate.radius

    def predict(self, x: "torch.Tensor | AnyArray", n: int, alpha: float, batch_size: int) -> int:
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
        batch_size: int,
    ) -> Result:
        from dualsmooth.engine.runtime.driver import drive
        from dualsmooth.engine.runtime.flight import Flight
        from dualsmooth.engine.runtime.native import make_sampler
        from dualsmooth.engine.runtime.one_input import as_image, network_for

        image, shape = as_image(x)
        sampler = make_sampler(
            {OneNetwork.name: network_for(self.base_classifier, shape)},
            {OneNetwork.name: self.num_classes},
            image.shape,
            seed=self.seed,
            batch_size=batch_size,
        )
        flight = Flight(self._calls, procedure, slot=0)
        self._calls += 1
        try:
            sampler.load(0, image)
            result = drive(flight, sampler).result
        finally:
            sampler.close()
        assert result is not None
        return result
