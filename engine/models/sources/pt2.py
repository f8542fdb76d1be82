"""Programs saved by ``torch.export.save``.

PyTorch unpickles parts of such a file if they are there. Files that hold any are refused, but
PyTorch also evaluates expressions for sizes in it: load only files that you trust.
"""

import io
import json
import logging
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.limits import LARGEST_MODEL, check_size, check_zip, read_plain

_PLAIN = re.compile(
    r"[^/]+/(archive_format|archive_version|version|byteorder|\.data/[\w.]+|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt)"
)
_SAMPLES, _CONFIG = "data/sample_inputs/model.pt", "_config.json"


Program = tuple[Callable[[torch.Tensor], torch.Tensor], tuple[int | None, ...]]
"""A network as a function of one batch, and the sizes of that batch; None means any."""


def load_pt2(path: Path) -> tuple[bytes, Program]:
    """Bytes of a file and the program in it.

    Raises
    ------
    FileError
        If the file is not a program of plain tensors with one float32 input and one output.
    """
    rule = "must be a program of plain tensors, saved by torch.export.save"
    check_size(path, LARGEST_MODEL)
    try:
        check_zip(path)
        data = read_plain(path, LARGEST_MODEL, links=True)
        _refuse_pickles(data)
        with _silence():
            program = torch.export.load(io.BytesIO(data))
        (name,) = program.graph_signature.user_inputs
        (_,) = program.graph_signature.user_outputs
        module = program.module()
    except FileError:
        raise
    except Exception as error:  # zip, JSON and PyTorch's readers raise many kinds
        received = (
            f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        )
        raise FileError(path, rule, received) from error
    placeholder = next(n for n in program.graph.nodes if n.op == "placeholder" and n.name == name)
    value = placeholder.meta["val"]
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        raise FileError(path, "must have one float32 input", getattr(value, "dtype", type(value)))
    sizes = tuple(size if isinstance(size, int) else None for size in value.shape)
    return data, (module, sizes)


@contextmanager
def _silence() -> Iterator[None]:
    """No warnings and tracebacks of PyTorch's: what is wrong is said in one error."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _refuse_pickles(data: bytes) -> None:
    """Raise ValueError if anything in the archive would be unpickled as more than tensors."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            if not _PLAIN.fullmatch(name):
                raise ValueError(f"unexpected part {name}")
            if name.endswith(_SAMPLES):
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)
            elif name.endswith(_CONFIG):
                entries = json.loads(archive.read(name))["config"].values()
                if any(entry.get("use_pickle", True) for entry in entries):
                    raise ValueError(f"{name} names a pickle")
