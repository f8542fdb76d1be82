"""A bundle whose networks are networks of 8-bit integers."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from dualsmooth.engine.checks import positive
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.files import at_home, check_target
from dualsmooth.engine.models.architectures.ordered import OrderedScore
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.ensemble import Consensus, SoftVoting
from dualsmooth.engine.models.int8 import ARCHITECTURE as INT8
from dualsmooth.engine.models.network import Network, network_from_module
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.quantize.calibration import Calibration, levels_of
from dualsmooth.engine.quantize.network import Batches, quantized_network
from dualsmooth.engine.terminal.progress import passing_bar

ROWS = 64
"""Rows of a batch of the calibration."""

CARD = "MODEL_CARD.md"


def quantize(bundle: Bundle, images: NDArray[np.generic], *, sigma: float | None = None) -> Bundle:
    """A bundle of int8 networks in place of a bundle's float32 networks.

    Every network becomes another base classifier, with weights of 8 bits (a scale for each output
    channel) and maps of 8 bits; its certificates are about it, and say nothing about the float32
    network. Ranges are found on the images with the noise of every level a network is used at. The
    layer that gives the logits stays float32. The same arguments give the same bundle.

    Parameters
    ----------
    bundle : Bundle
    images : array
        Shape (images, height, width, channels): uint8, or floats in [0, 1]. Labels are not needed;
        images that are to be certified should not be among them.
    sigma : float or None
        Noise level to calibrate at, in [0, 1] pixel units, of a bundle without levels of its own.

    Raises
    ------
    ArgumentError
        If a network has a layer that has no integer form, which is named, or ``sigma`` is missing.
    """
    return _quantized_bundle(bundle, Calibration(images), sigma)


def write_quantized(
    bundle: Bundle, calibration: Calibration, out: str | Path, *, sigma: float | None = None
) -> None:
    """Write the folder of the bundle that `quantize` gives, with a model card, all or nothing."""
    check_target(out := at_home(out, "out"))
    made, about = _quantized_bundle(bundle, calibration, sigma), calibration.record
    card = (
        f"# {made.name}\n\nThe networks of `{bundle.name}` (digest {bundle.digest}) in 8-bit "
        "integers: base classifiers of their own. Certificates are about these networks, not about "
        f"the float32 ones.\n\nCalibrated on {about['images']} images, SHA-256 "
        f"{about['sha256']}, with the noise of every level a network is used at.\n"
    )
    save_bundle(made, out, {CARD: card.encode()})


def _quantized_bundle(bundle: Bundle, calibration: Calibration, sigma: float | None) -> Bundle:
    if not len(calibration.images):
        raise ArgumentError("images", "must hold at least one", 0)
    if not bundle.sigmas and sigma is None:
        rule = f"must be given: bundle {bundle.name} has no noise levels of its own"
        raise ArgumentError("sigma", rule, sigma, "the level you will certify at")
    if sigma is not None:
        positive("sigma", sigma)
    if bundle.sigmas and sigma is not None:
        rule, own = "is for a bundle without levels", ", ".join(map(str, bundle.sigmas))
        raise ArgumentError("sigma", rule, sigma, f"leave it out: this one is calibrated at {own}")
    networks = dict[str, Network]()
    shown = passing_bar(iterable=bundle.networks.items(), desc="quantize", unit="network")
    for role, network in shown:
        batches = list(calibration.batches(levels_of(bundle, role, sigma), ROWS))
        networks[role] = _quantized(network, bundle.build(role), role, batches)
    name = f"{bundle.name[:90]}-int8"
    fields = (bundle.input_shape, bundle.num_classes, bundle.sigmas, bundle.tau)
    kept: dict[str, Any] = {"preparation": bundle.preparation, "classes": bundle.classes}
    return Bundle(name, *fields, networks, **kept)


def _quantized(network: Network, module: nn.Module, role: str, batches: Batches) -> Network:
    """A network in int8; of a selector with thresholds, or an ensemble, what it is made of."""
    if network.int8:
        raise ArgumentError(f"network {role}", "must be in float32", "one of 8-bit integers")
    kwargs: dict[str, Any] = dict(network.kwargs)
    if isinstance(module, OrderedScore):
        kwargs["kwargs"], module.network = quantized_network(module.network, role, batches)
        return network_from_module(module, network.architecture, kwargs | {"architecture": INT8})
    if isinstance(module, SoftVoting | Consensus) and "members" in kwargs:
        kwargs["members"] = []
        voting = isinstance(module, SoftVoting)
        parts: list[Any] = [module] if voting else [module.first, module.rest]
        for members in [part.members for part in parts]:
            for place, member in enumerate(members):
                about, members[place] = quantized_network(member, role, batches)
                kwargs["members"].append({"architecture": INT8, "kwargs": about})
        return network_from_module(module, network.architecture, kwargs)
    made, alone = quantized_network(module, role, batches)
    return network_from_module(alone, INT8, made)
