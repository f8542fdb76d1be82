"""Files of ``torch.save``, read without running code from them."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from dualsmooth.engine.errors import FileError
from dualsmooth.engine.limits import LARGEST_WEIGHTS, check_size, check_zip


def load_torch_file(path: Path, harmless: tuple[type, ...] = ()) -> Mapping[object, object]:
    """The mapping in a torch file, read with ``weights_only=True``.

    Parameters
    ----------
    path : Path
    harmless : tuple of type
        Classes that may be in it beside tensors and plain values.

    Raises
    ------
    FileError
        If the file is too large, cannot be read, holds other objects, or holds no mapping.
    """
    check_size(path, LARGEST_WEIGHTS)
    try:
        if zipfile.is_zipfile(path):
            check_zip(path)
        with torch.serialization.safe_globals(list(harmless)):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except FileError:
        raise
    except Exception as error:  # zip, pickle and storage readers raise many kinds
        received = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise FileError(path, "must be a torch checkpoint of plain tensors", received) from error
    if not isinstance(found, Mapping):
        raise FileError(path, "must be a mapping with tensors in it", type(found).__name__)
    return found
