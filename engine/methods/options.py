"""What a user may say about a method, and what an audit makes of it again."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.images import unit_float
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.methods.regions.anchors import Anchors
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.records import unlike


@dataclasses.dataclass(frozen=True)
class Given:
    """What an auditor has beside a run; None for what is not at hand."""

    images: ImageSet | None = None
    """The data set."""
    anchors: Anchors | None = None
    references: NDArray[Any] | None = None
    memory: Path | None = None
    """File with the balls that a memory began with; not needed if it began with none."""


class Recorded(NamedTuple):
    """A method of a run as an audit makes it again, without networks."""

    name: str
    of: Callable[[Certificate], Method]
    """The procedures that made a certificate."""
    trusted: str = ""
    """What is taken as recorded, and what would show it; empty if nothing is."""

    @classmethod
    def at(cls, method: Method, data: ImageSet, trusted: str = "") -> "Recorded":
        """A method that reads images, from those of the data set."""

        def of(certificate: Certificate) -> Method:
            (place,) = data.places([certificate.image_id])
            return method.at(unit_float(data.images[place]))

        return cls(method.name, of, trusted)


def check_same(what: str, ours: Mapping[str, Any], recorded: Mapping[str, Any]) -> None:
    """Refuse what an auditor gives for a file of the run if the record names another."""
    if changed := unlike(ours, recorded):
        raise ArgumentError(what, "must be those of the run", f"another {', '.join(changed)}")


class Options(ABC):
    """What a user may say about a method: a dataclass of ``name: Annotated[type, help] = default``.

    The command line is made from the fields; an option that several methods take has one type.
    """

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the options."""
        return tuple(field.name for field in dataclasses.fields(cls))  # type: ignore[arg-type]

    @abstractmethod
    def build(self, bundle: Bundle) -> Method:
        """The method; raises `ArgumentError` if an option is missing or does not fit."""

    @classmethod
    def recorded(cls, bundle: Bundle, options: Mapping[str, Any], given: Given) -> Recorded:
        """The method of a `Method.record`; no file that the record names is opened."""
        method = cls(**options).build(bundle)
        return Recorded(method.name, lambda _: method)
