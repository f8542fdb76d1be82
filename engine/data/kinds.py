"""What a file is, by what stands in it: for the errors about what was given for something else."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from dualsmooth.engine.data.image_files import SUFFIXES
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.files import at_home
from dualsmooth.engine.limits import open_plain

_SEEN, _ENTRIES = 1 << 16, 1000
"""Bytes at either end of a file, and entries of a folder, that are looked at."""

_IN_PYTHON = (
    "load it in Python: ds.certify(module, images, sigma=..), or "
    "torch.export.save(torch.export.export(module, (images,)), 'model.pt2')"
)
_SCRIPT = (
    "torch.onnx.export(torch.jit.load(FILE), (images,), 'model.onnx', dynamo=False) writes what is "
    "read, or give Bundle.from_classifier the loaded module"
)
MODELS = {
    "a file of torch.save": _IN_PYTHON,
    "TorchScript": _SCRIPT,
    "a program of torch.export": "name it FILE.pt2",
    "weights in safetensors": "timm:NAME:FILE, or hf:FOLDER for a model of transformers",
    "a file of Keras": "tf2onnx makes an .onnx file of it",
    "an .onnx file": "name it FILE.onnx",
    "a bundle folder": "",
}
"""Kinds of models, and what to do where one of another kind is asked for."""
IMAGES = {
    "an archive of NumPy arrays": "images are --data npz:FILE; in Python 'npz:FILE' beside a model",
    "a NumPy array": "images are numpy.savez('x.npz', x=x, y=labels), then npz:x.npz",
    "an image": "dualsmooth predict MODEL IMAGE; --data folder:DIR reads DIR/CLASS/FILE",
    "a folder of images": "images are --data folder:DIR, which reads DIR/CLASS/FILE",
}
"""Kinds of images, and how they are given."""
_FIRST = "a model goes first: dualsmooth certify MODEL --data SPEC; ds.certify(model, images)"


@contextmanager
def told_apart(place: str | Path, *takes: str, models: bool = False) -> Iterator[None]:
    """Have a refusal of what is behind a name say what that is, if it is none of the kinds that are
    taken; ``models`` where a model is asked for, else images are.
    """
    try:
        yield
    except (ArgumentError, FileError) as error:
        kind = kind_of(place)
        if not kind or kind in takes:
            raise
        hint = IMAGES.get(kind) or (MODELS[kind] if models else _FIRST)
        if isinstance(error, FileError):
            raise FileError(error.path, error.rule, kind, hint) from error
        raise ArgumentError(error.argument, error.rule, f"{place}, {kind}", hint) from error


def kind_of(place: str | Path) -> str:
    """A key of `MODELS` or `IMAGES`; empty where it is neither, or is not to be read."""
    try:
        path = at_home(place)
        if path.is_dir():
            return _kind_of_folder(path)
        with open_plain(path, links=True) as file:
            start = file.read(_SEEN)
            file.seek(-min(_SEEN, file.seek(0, 2)), 2)
            return _kind_of_bytes(path.suffix.lower(), start, file.read(_SEEN))
    except (OSError, ValueError, FileError):
        return ""


def _kind_of_folder(path: Path) -> str:
    if any(path.glob("*.json")):  # a run may hold plots
        return "a bundle folder" if (path / "bundle.json").exists() else ""
    files = (f for at in ("*", "*/*") for f in islice(path.glob(at), _ENTRIES))
    return "a folder of images" if any(f.suffix.lower() in SUFFIXES for f in files) else ""


def _kind_of_bytes(suffix: str, start: bytes, end: bytes) -> str:
    if start.startswith(b"PK\3\4"):  # whose names stand at the end
        inside = {
            b"/constants.pkl": "TorchScript",
            b"/models/model.json": "a program of torch.export",
            b"serialized_exported_program.json": "a program of torch.export",
            b"/data.pkl": "a file of torch.save",
            b".npy": "an archive of NumPy arrays",
            b"model.weights.h5": "a file of Keras",
        }
        return next((kind for name, kind in inside.items() if name in end), "")
    if suffix in SUFFIXES:
        return "an image"
    heads = {
        b"\x93NUMPY": "a NumPy array",
        b"\x80\2": "a file of torch.save",
        b"\x89HDF": "a file of Keras",
        b"\x89PNG": "an image",
        b"\xff\xd8\xff": "an image",
    }
    kind = next((kind for head, kind in heads.items() if start.startswith(head)), "")
    if not kind and start[8:10] == b'{"':
        kind = "weights in safetensors"
    return kind or ("an .onnx file" if suffix == ".onnx" else "")
