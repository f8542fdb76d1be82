"""What decides the output of a TorchScript module, equal for equal modules."""

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator

import torch


def script_parts(module: torch.jit.ScriptModule) -> Iterator[str | bytes]:
    """Names and contents of the file it would be saved as: code, constants, tensors."""
    file = io.BytesIO()
    torch.jit.save(module, file)
    with zipfile.ZipFile(file) as parts:
        for name in sorted(parts.namelist(), key=lambda name: _unmangled(name.encode())):
            if not re.search(r"\.debug_pkl$|/\.data/|/traced_inputs", name):
                data = parts.read(name)
                yield _unmangled(name.encode())
                yield _unmangled(_pickled(data) if name.endswith(".pkl") else data)


def _unmangled(text: bytes) -> bytes:
    """Without the numbers PyTorch gives to classes of one name in a process."""
    return re.sub(rb"\.?___torch_mangle_\d+", b"", text)


def _pickled(data: bytes) -> bytes:
    """A pickle's instructions; memory places by where they were set, not by number."""
    places: dict[object, int] = {}
    words: list[str] = []
    for code, argument, _ in pickletools.genops(data):
        if "PUT" in code.name:
            places[argument] = len(words)
        else:
            words.append(f"{code.name} {places[argument] if 'GET' in code.name else argument!r}")
    return "\n".join(words).encode()
