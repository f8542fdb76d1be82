"""Classifiers exported elsewhere as bundles: `.onnx` run by ONNX Runtime, `.pt2` by PyTorch.

Such a network is a function of a batch of images and nothing else is known about it, so it is tried
before it is believed: its shapes, that logits are finite for pixels in [0, 1], and that a row's
logits depend neither on the other rows nor on chance. It runs in float32 on the CPU.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dualsmooth.engine.errors import ArgumentError, FileError, reason_of
from dualsmooth.engine.limits import LARGEST_BATCH, LARGEST_INPUT
from dualsmooth.engine.machine import install_command
from dualsmooth.engine.models.bundle import CLASSIFIER, Bundle
from dualsmooth.engine.models.digest.exported import Exported
from dualsmooth.engine.models.front_door import admitted, outputs_of
from dualsmooth.engine.models.network import Network
from dualsmooth.engine.models.normalize import Normalize
from dualsmooth.engine.models.sources.constants import spread
from dualsmooth.engine.models.sources.pt2 import Program, load_pt2
from dualsmooth.engine.records import digest_of, sha256_of


def read_exported(
    path: Path,
    *,
    trust: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Bundle:
    """A bundle of the classifier in a `.onnx` or `.pt2` file, for any noise level.

    With ``trust`` PyTorch reads the `.pt2`, and runs what code is in it. ``mean`` and ``std`` are
    those of pixels in [0, 1], for a classifier that takes normalized ones. Channels come last in
    its input where only the last size is 1 or 3.
    """
    plain = path.suffix.lower() == ".onnx"
    data, (run, sizes, row_wise, of_whole) = _onnx(path) if plain else load_pt2(path, trust=trust)
    if len(sizes) != 4 or any(size is None for size in sizes[1:]):
        shown = tuple("any" if size is None else size for size in sizes)
        rule = "must take a batch of images (rows, channels, height, width) of one size"
        raise FileError(path, rule, shown)
    if channels_end := sizes[3] in (1, 3) and sizes[1] not in (1, 3):  # as Keras has them
        sizes = (sizes[0], sizes[3], *sizes[1:3])
    rows, channels, height, width = (size or 0 for size in sizes)
    values = channels * height * width
    if values > LARGEST_INPUT or rows * values > LARGEST_BATCH:
        rule = f"must take images of at most {LARGEST_INPUT} values, {LARGEST_BATCH} in a batch"
        raise FileError(path, rule, tuple(sizes))
    shape, sha256, kwargs = (height, width, channels), sha256_of(data), dict[str, list[float]]()
    if of_whole:
        warnings.warn(
            f"{path.name} runs row by row: it branches, or selects by values", stacklevel=2
        )
        run, rows = _each_alone(run, rows or 1), 0
    if channels_end:
        run = _channels_last(run)
    if (mean, std) != (None, None):
        kwargs = {
            "mean": list(spread("mean", [0.0] if mean is None else mean, channels)),
            "std": list(spread("std", [1.0] if std is None else std, channels)),
        }
        run, sha256 = _normalized(run, kwargs["mean"], kwargs["std"]), digest_of([sha256, kwargs])
    exported = Exported(run, rows or None, sha256, row_wise)
    network = Network(path.suffix.lower()[1:], kwargs, sha256, exported, str(path))
    admitted(network.build(), shape, None, CLASSIFIER, str(path), network)
    return Bundle(path.name, shape, outputs_of(network), (), None, {CLASSIFIER: network})


def _normalized(
    run: Callable[[torch.Tensor], torch.Tensor], mean: Sequence[float], std: Sequence[float]
) -> Callable[[torch.Tensor], torch.Tensor]:
    normalize = Normalize(mean, std)
    return lambda x: run(normalize(x))


def _each_alone(
    run: Callable[[torch.Tensor], torch.Tensor], rows: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    def alone(x: torch.Tensor) -> torch.Tensor:
        parts = (row.expand(rows, -1, -1, -1).contiguous() for row in torch.split(x, 1))
        return torch.cat([run(part)[:1] for part in parts])

    return alone


def _channels_last(
    run: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: run(x.permute(0, 2, 3, 1).contiguous())


def _onnx(path: Path) -> tuple[bytes, Program]:
    try:
        from dualsmooth.engine.models.sources.onnx_guard import read_with_data
        from dualsmooth.engine.models.sources.onnx_session import make_session
    except ImportError as error:
        hint = install_command("runtime")
        raise ArgumentError("bundle", "needs ONNX Runtime for .onnx files", path, hint) from error
    data, beside, of_whole = read_with_data(path)
    try:
        session = make_session(data, beside=beside)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        kinds, shapes = [(i.name, i.type) for i in inputs], [i.shape for i in inputs]
        names = [o.name for o in outputs]
    except ArgumentError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base; names may be no text
        rule = "must be an ONNX file that this ONNX Runtime can run"
        raise FileError(path, rule, reason_of(error)) from error
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)":
        raise FileError(path, "must have one float32 input and one output", f"{kinds} to {names}")
    name = inputs[0].name
    sizes = tuple(s if isinstance(s, int) and s > 0 else None for s in shapes[0])

    def run(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {name: x.numpy()})[0])

    return b"".join([data, *beside.values()]), Program(run, sizes, of_whole=of_whole)
