"""Whether a network classifies single images: as many logits as classes, none from batch mates."""

import torch
from torch import nn

from dualsmooth.engine.errors import FileError

_RELATIVE, _ABSOLUTE = 1e-3, 1e-5


def try_network(
    module: nn.Module, input_shape: tuple[int, int, int], outputs: int, role: str, origin: str
) -> None:
    """Run a network on two images, then on one of them beside another.

    A network that reads batch statistics, or scales by the largest value of a batch, has no votes
    of its own: they would depend on the packing. Differences below rounding's reach are let pass.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode, float32.
    input_shape : tuple
        (height, width, channels).
    outputs : int
        Logits it must give.
    role, origin : str
        Named in errors.

    Raises
    ------
    FileError
        If it cannot run, gives another number of logits, or mixes the rows of a batch.
    """
    height, width, channels = input_shape
    rule = f"{role} must map images {input_shape} to {outputs} logits"
    pair = torch.rand(2, channels, height, width, generator=torch.Generator().manual_seed(0))
    beside = torch.stack([pair[0], 1 - 4 * pair[1]])  # outside [0, 1], as noisy pixels are
    try:
        with torch.inference_mode():
            first, second = module(pair), module(beside)
    except (RuntimeError, ValueError) as error:
        raise FileError(origin, rule, error) from error
    if tuple(first.shape) != (2, outputs):
        raise FileError(origin, rule, f"{tuple(first.shape)} for two images")
    if not torch.allclose(first[0], second[0], _RELATIVE, _ABSOLUTE, equal_nan=True):
        rule = f"{role} must give an image the same logits whatever else is in the batch"
        raise FileError(origin, rule, "others beside another image",
                        "take batch statistics and scales of a whole batch out of it")  # fmt: skip
