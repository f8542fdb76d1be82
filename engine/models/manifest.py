"""The bundle a manifest describes, without its weights: enough to check certificates."""

from typing import Any

from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import Network

FIELDS = {"input_shape", "num_classes", "sigmas", "tau", "networks"}


def bundle_of_manifest(manifest: Any, name: str) -> Bundle:
    """A bundle that knows its networks by digest only; none of them can be built.

    Parameters
    ----------
    manifest : object
        As `Bundle.manifest` gives it and JSON returns it.
    name : str
        Name of the bundle.

    Raises
    ------
    ValueError
        If it is not a manifest.
    """
    try:
        if set(manifest) != FIELDS:
            raise ValueError(f"must have the fields {', '.join(sorted(FIELDS))}")
        networks = {
            str(role): Network(str(architecture), dict(kwargs), str(sha256), b"", "a manifest")
            for role, (architecture, kwargs, sha256) in manifest["networks"].items()
        }
        return Bundle(
            name=name,
            input_shape=tuple(manifest["input_shape"]),
            num_classes=manifest["num_classes"],
            sigmas=tuple(manifest["sigmas"]),
            tau=manifest["tau"],
            networks=networks,
        )
    except (TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(f"not a manifest of a bundle: {error}") from error
