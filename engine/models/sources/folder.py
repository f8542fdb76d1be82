"""Bundle folders: `bundle.json` beside one safetensors file per network.

A folder may come from anywhere, so reading it checks the format version, every field, the place,
size and digest of each weights file, and runs no code from it. Writing is all or nothing.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.files import at_home, new_folder, write_whole
from dualsmooth.engine.json_file import read_json
from dualsmooth.engine.limits import LARGEST_WEIGHTS, check_part, read_plain
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import Network
from dualsmooth.engine.records import sha256_of, typed_record

FORMAT, VERSION = "dualsmooth-bundle", 1
INDEX = "bundle.json"
_LARGEST_INDEX = 1 << 20
_NAME = re.compile(r"\w[\w .,:+@=()-]{0,99}")
_NAME_RULE = "name must be at most 100 letters, digits and .,:+@=()-_, the first a letter or digit"


@dataclass(frozen=True)
class _Network:
    architecture: str
    kwargs: dict[str, Any]
    weights: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Index:
    format: str
    version: int
    name: str
    input_shape: tuple[int, int, int]
    input_range: tuple[float, float]
    num_classes: int
    sigmas: tuple[float, ...]
    tau: float | None
    networks: dict[str, _Network]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{_NAME_RULE}: {self.name[:80]!r}")
        if self.input_range != (0, 1):
            raise ValueError("input_range must be [0, 1]")


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle folder."""
    index = folder / INDEX
    if folder.is_dir() and not os.path.lexists(index):
        others = {"config.json": f"hf:{folder} is a model of transformers"}
        others |= {"run.json": "it is a run; name the model that was certified"}
        others |= {"deployment.json": "it is a deployment; OnnxCertifier reads it"}
        hint = next((said for name, said in others.items() if (folder / name).exists()), "")
        raise FileError(folder, "must be a bundle folder", f"one without {INDEX}", hint)
    fields = read_json(index, _LARGEST_INDEX)
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise FileError(index, f"must have the format {FORMAT}", repr(fields)[:200])
    if fields.get("version") != VERSION:
        hint = "made by another version of dualsmooth"
        raise FileError(index, f"must have version {VERSION}", fields.get("version"), hint)
    try:
        read = typed_record(_Index, fields)
        networks = {}
        for role, entry in read.networks.items():
            weights, origin = _read_weights(folder, entry), str(folder / entry.weights)
            networks[role] = Network(
                entry.architecture, entry.kwargs, entry.sha256, weights, origin
            )
        named = (read.name, read.input_shape, read.num_classes, read.sigmas, read.tau)
        return Bundle(*named, networks, classes=read.classes)
    except ValueError as error:
        raise FileError(index, "must describe a bundle", error) from error


def save_bundle(
    bundle: Bundle, folder: str | Path, beside: Mapping[str, bytes] | None = None
) -> None:
    """Write a bundle folder, all or nothing: it is made beside the place and then renamed.

    Further files may stand beside, such as a model card; nothing reads them.
    """
    folder = at_home(folder, "folder")
    if not _NAME.fullmatch(bundle.name):
        raise ArgumentError("bundle", _NAME_RULE, bundle.name)
    files = dict(beside or {})
    entries = {}
    for role, network in sorted(bundle.networks.items()):
        if not isinstance(network.weights, bytes):
            hint = "make it with network_from_module(module, architecture, kwargs)"
            rule = "must be a registered architecture to be saved"
            raise ArgumentError(f"network {role}", rule, network.architecture, hint)
        name = f"{role}.safetensors"
        files[name] = network.weights
        weights = len(network.weights)
        entries[role] = _Network(
            network.architecture, dict(network.kwargs), name, weights, network.sha256
        )
    index = _Index(
        *(FORMAT, VERSION, bundle.name, bundle.input_shape, (0, 1), bundle.num_classes),
        *(bundle.sigmas, bundle.tau, entries, bundle.classes),
    )
    fields = asdict(index)
    if not bundle.classes:
        del fields["classes"]
    files[INDEX] = (json.dumps(fields, indent=2, allow_nan=False) + "\n").encode()
    with new_folder(folder) as draft:
        for name, data in files.items():
            write_whole(draft / name, data)


def _read_weights(folder: Path, entry: _Network) -> bytes:
    name = entry.weights
    if not name.endswith(".safetensors"):
        raise FileError(folder / INDEX, "weights must be a plain *.safetensors file name", name)
    path = check_part(folder, name, LARGEST_WEIGHTS)
    data = read_plain(path, min(LARGEST_WEIGHTS, entry.bytes))
    if len(data) != entry.bytes:
        raise FileError(path, f"must have {entry.bytes} bytes", len(data), "truncated?")
    if sha256_of(data) != entry.sha256:
        rule = f"must have the SHA-256 that {INDEX} states"
        raise FileError(path, rule, sha256_of(data), "damaged, or not from this bundle")
    return data
