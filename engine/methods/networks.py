"""What a method must know about the networks; `Bundle` is the usual implementation."""

from typing import ClassVar, Protocol


class Networks(Protocol):
    """Names of the networks and the noise levels they belong to."""

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Noise levels of the selector's classes, ascending."""

    @property
    def tau(self) -> float | None:
        """The selector's own noise level, None if there is no selector."""

    def classifier_at(self, sigma: float) -> str:
        """Name of the classifier used at sigma; raises `ArgumentError` if there is none."""


class CommonNetworks(Networks, Protocol):
    """Networks for methods that compare noise levels: the same classifier at all of them."""

    def common_classifier(self) -> str:
        """Name of the classifier used at every sigma; raises `ArgumentError` if levels differ."""


class OneNetwork:
    """A single classifier used at every sigma, without a selector."""

    name: ClassVar[str] = "classifier"
    sigmas: ClassVar[tuple[float, ...]] = ()
    tau: ClassVar[float | None] = None

    def classifier_at(self, sigma: float) -> str:
        """The classifier's name, whatever sigma is."""
        return self.name

    def common_classifier(self) -> str:
        """The classifier's name."""
        return self.name
