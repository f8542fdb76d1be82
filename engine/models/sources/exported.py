"""Classifiers exported elsewhere as bundles: `.onnx` run by ONNX Runtime, `.pt2` by PyTorch.

Such a network is a function of a batch of images and nothing else is known about it, so it is tried
before it is believed: its shapes, that logits are finite for pixels in [0, 1], and that a row's
logits depend neither on the other rows nor on chance. It runs in float32 on the CPU.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.limits import LARGEST_BATCH, LARGEST_INPUT
from dualsmooth.engine.models.bundle import CLASSIFIER, Bundle
from dualsmooth.engine.models.network import Network
from dualsmooth.engine.models.sources.pt2 import Program, load_pt2
from dualsmooth.engine.records import sha256_of

TRIAL_ROWS = 64
Size = int | None
"""Length of an axis; None where any will do."""


class Exported(nn.Module):
    """A network that is only a function, in rows of a fixed number where it takes no other.

    Parameters
    ----------
    run : callable
        From float32 (rows, channels, height, width) to logits; may be called from many threads.
    rows : int or None
        Rows that ``run`` takes; None means any number.
    sha256 : str
        Of the file that ``run`` was read from.
    """

    def __init__(
        self, run: Callable[[torch.Tensor], torch.Tensor], rows: Size, sha256: str
    ) -> None:
        super().__init__()
        self.sha256 = sha256
        self._run, self._rows = (run,), rows  # in a tuple, so that it is no submodule

    def __deepcopy__(self, memo: dict[int, Any]) -> "Exported":
        return Exported(self._run[0], self._rows, self.sha256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("an exported network runs in float32 only")
        (run,) = self._run
        if self._rows is None:
            return run(x.contiguous())
        padding = -len(x) % self._rows
        padded = torch.cat([x, x.new_zeros(padding, *x.shape[1:])])
        parts = [run(part.contiguous()) for part in torch.split(padded, self._rows)]
        return torch.cat(parts)[: len(x)]


def read_exported(path: Path, *, trust: bool = False) -> Bundle:
    """A bundle of the classifier in a `.onnx` or `.pt2` file, for any noise level.

    With ``trust`` PyTorch reads the `.pt2`, and runs what code is in it.

    Raises
    ------
    ArgumentError
        If ONNX Runtime is missing.
    FileError
        If the file is larger than a network can be, refers to other files, cannot be run, has other
        inputs or outputs than one batch of images and its logits, or fails a trial.
    """
    plain = path.suffix.lower() == ".onnx"
    data, (run, sizes) = _onnx(path) if plain else load_pt2(path, trust=trust)
    if len(sizes) != 4 or any(size is None for size in sizes[1:]):
        shown = tuple("any" if size is None else size for size in sizes)
        rule = "must take a batch of images (rows, channels, height, width) of one size"
        raise FileError(path, rule, shown)
    rows, channels, height, width = (size or 0 for size in sizes)
    values = channels * height * width
    if values > LARGEST_INPUT or rows * values > LARGEST_BATCH:
        rule = f"must take images of at most {LARGEST_INPUT} values, {LARGEST_BATCH} in a batch"
        raise FileError(path, rule, tuple(sizes))
    sha256 = sha256_of(data)
    module = Exported(run, rows or None, sha256)
    classes = _try(path, module, (channels, height, width))
    network = Network(path.suffix.lower()[1:], {}, sha256, module, str(path))
    return Bundle(path.name, (height, width, channels), classes, (), None, {CLASSIFIER: network})


def _onnx(path: Path) -> tuple[bytes, Program]:
    try:
        from dualsmooth.engine.models.sources.onnx_guard import read_model
        from dualsmooth.engine.models.sources.onnx_session import make_session
    except ImportError as error:
        hint = "pip install 'dualsmooth[runtime]'"
        raise ArgumentError("bundle", "needs ONNX Runtime for .onnx files", path, hint) from error
    data = read_model(path, loops=False)
    try:
        session = make_session(data)
        inputs, outputs = session.get_inputs(), session.get_outputs()
        kinds, shapes = [(i.name, i.type) for i in inputs], [i.shape for i in inputs]
        names = [o.name for o in outputs]
    except ArgumentError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no base; names may be no text
        rule = "must be an ONNX file, weights inside, that this ONNX Runtime can run"
        raise FileError(path, rule, str(error).splitlines()[0][:200]) from error
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)":
        raise FileError(path, "must have one float32 input and one output", f"{kinds} to {names}")
    name = inputs[0].name
    sizes = tuple(s if isinstance(s, int) and s > 0 else None for s in shapes[0])
    return data, (lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]), sizes)


def _try(path: Path, module: Exported, shape: tuple[int, int, int]) -> int:
    """Number of classes, after a few batches that show the network to be what it must be."""
    trial = torch.rand(TRIAL_ROWS, *shape, generator=torch.Generator().manual_seed(0))
    trial[0], trial[1] = 0.0, 1.0
    order = torch.arange(TRIAL_ROWS).roll(7)
    mixed = trial.clone()
    mixed[1::2] = 1 - 4 * mixed[1::2]  # outside [0, 1], as noisy pixels are
    try:
        with torch.inference_mode():
            logits, again, moved, beside = map(module, (trial, trial, trial[order], mixed))
    except Exception as error:  # whatever the runtime raises
        rule = f"must run on batches of images {shape}"
        raise FileError(path, rule, str(error).splitlines()[0][:200]) from error
    if logits.shape[:1] != (TRIAL_ROWS,) or logits.ndim != 2 or logits.shape[1] < 2:
        raise FileError(path, "must give logits (rows, classes)", tuple(logits.shape))
    if not logits.dtype.is_floating_point or not torch.isfinite(logits).all():
        received = f"{logits.min()} .. {logits.max()}, {logits.dtype}"
        raise FileError(path, "must give finite logits for pixels in [0, 1]", received)
    if not torch.equal(logits, again):
        raise FileError(path, "must give a batch the same logits every time", "others")
    rule = "must give each row's logits whatever the other rows are"
    if not torch.equal(logits[order], moved):
        raise FileError(path, rule, "others after the rows were exchanged")
    if not torch.equal(logits[::2], beside[::2]):
        raise FileError(path, rule, "others after every second row was replaced")
    return int(logits.shape[1])
