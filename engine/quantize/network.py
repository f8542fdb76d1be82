"""One float32 network as a network of 8-bit integers."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.models.capture import is_captured
from dualsmooth.engine.models.int8 import Int8Network
from dualsmooth.engine.samplers.fusion.fold import folded_network
from dualsmooth.engine.samplers.fusion.patterns import note_shapes
from dualsmooth.engine.samplers.fusion.structure import IMAGE, Part, Structure
from dualsmooth.kernels.cpu.int8_conv import SUMS

LARGEST_WEIGHT, LARGEST_VALUE = 127, 255
"""Weights are -127 .. 127, values 0 .. 255."""

Batches = Iterable[NDArray[np.float32]]
Range = tuple[float, float]


def quantized_network(
    network: nn.Module, role: str, batches: Batches
) -> tuple[dict[str, Any], Int8Network]:
    """Keyword arguments and network of 8-bit integers for a float32 network in eval mode.

    Batch norm is folded. Ranges are the smallest and largest values on the batches of noisy images,
    float32 (rows, channels, height, width); of a map behind a ReLU the smallest is 0. Weights are
    symmetric, with a scale for each output, and the layer that gives the logits stays float32.
    """
    first, *rest = batches
    example = torch.from_numpy(first)
    _, channels, height, width = example.shape
    folded = folded_network(network, torch.float32, (len(example), height, width, channels))
    if not is_captured(folded):
        rule, hint = "must be one that can be captured", "certify it in float32"
        raise ArgumentError(f"network {role}", rule, type(network).__name__, hint)
    note_shapes(folded, example)
    structure = Structure(folded, role).read()
    ranges = _ranges(folded, structure, [example, *map(torch.from_numpy, rest)])
    kwargs: dict[str, Any] = {
        "channels": channels,
        "steps": [part.text for part in structure.parts],
        "features": structure.head.in_features,
        "outputs": structure.head.out_features,
        "pooled": structure.pooled,
    }
    made = Int8Network(**kwargs)
    _fill(made, structure, [_scale(*limits) for limits in ranges])
    return kwargs, made.eval()


def _ranges(
    folded: fx.GraphModule, structure: Structure, batches: Iterable[torch.Tensor]
) -> list[Range]:
    """Smallest and largest value of the image and of every part, zero among them."""
    (image,) = folded.graph.find_nodes(op="placeholder")
    watched = {part.last: number for number, part in enumerate(structure.parts, start=1)}
    watched[image] = IMAGE
    found = [[0.0, 0.0] for _ in watched]

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            if n in watched:
                low, high = found[watched[n]]
                found[watched[n]] = [min(low, float(result.min())), max(high, float(result.max()))]
            return result

    with torch.inference_mode():
        for batch in batches:
            Watch(folded).run(batch)
    return [(low, high) for low, high in found]


def _scale(low: float, high: float) -> tuple[float, int]:
    """What a step of a map stands for, and the whole number that stands for zero."""
    scale = (high - low) / LARGEST_VALUE or 1.0
    return scale, round(-low / scale)


def _fill(made: Int8Network, structure: Structure, scales: list[tuple[float, int]]) -> None:
    layers, numbers = made.layers, list(scales)
    for number, part in enumerate(structure.parts, start=1):
        if part.weight is None:
            numbers[number] = numbers[part.read]  # a maximum is one of the values it reads
    for made_at, (part, step) in enumerate(zip(structure.parts, layers.parts(), strict=True), 1):
        step.rim.fill_(numbers[made_at][1])
        if part.weight is not None:
            normalize = structure.normalize if part.read == IMAGE else None
            values = _constants(structure.role, part, numbers, made_at, normalize)
            for name, value in values.items():
                step.get_buffer(name).copy_(value)
    (scale, zero), (last_scale, last_zero) = numbers[IMAGE], numbers[-1]
    layers.rim.fill_(zero)
    if structure.normalize is not None:
        mean = structure.normalize[0].double() / scale + zero
        layers.rim.copy_(mean.round().clamp(0, LARGEST_VALUE))
    ends = (1 / scale, zero, last_zero, last_scale)
    for name, constant in zip(("inverse", "zero", "last_zero", "last_scale"), ends, strict=True):
        layers.get_buffer(name).fill_(constant)
    made.fc.load_state_dict(structure.head.state_dict())


def _constants(
    role: str, part: Part, numbers: list[tuple[float, int]], number: int, normalize: Any
) -> Mapping[str, torch.Tensor]:
    """Weights, scales, biases and factor of a convolution; made in float64."""
    assert part.weight is not None
    weight = part.weight.double()
    bias = weight.new_zeros(len(weight)) if part.bias is None else part.bias.double()
    if normalize is not None:
        mean, std = (values.double().view(1, -1, 1, 1) for values in normalize)
        weight = weight / std
        bias = bias - (weight * mean).sum((1, 2, 3))
    (read, zero), (made, made_zero) = numbers[part.read], numbers[number]
    largest = weight.abs().amax((1, 2, 3))
    steps = torch.where(largest > 0, largest / LARGEST_WEIGHT, 1.0)
    whole = (weight / steps.view(-1, 1, 1, 1)).round()
    if float(whole.abs().sum((1, 2, 3)).max()) * LARGEST_VALUE >= SUMS:
        rule, received = "must have sums below 2^31", f"layer {part.last.target}"
        raise ArgumentError(f"network {role}", rule, received, "certify it in float32")
    scale = read * steps / made
    bias = bias / made + made_zero - zero * whole.sum((1, 2, 3)) * scale
    other, other_zero = (0.0, 0) if part.added is None else numbers[part.added]
    factor = torch.tensor(other / made, dtype=torch.float64)
    return {"weight": whole, "scale": scale, "bias": bias - other_zero * factor, "factor": factor}
