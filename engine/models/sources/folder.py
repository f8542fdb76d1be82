"""Bundle folders: `bundle.json` beside one safetensors file per network.

A folder may come from anywhere, so reading it checks the format version, every field, the place,
size and digest of each weights file, and runs no code from it. Writing is all or nothing.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dualsmooth.engine.checks import ascending
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.files import check_target, new_folder
from dualsmooth.engine.json_file import read_json
from dualsmooth.engine.limits import LARGEST_WEIGHTS, check_part, read_plain
from dualsmooth.engine.models.bundle import Bundle
from dualsmooth.engine.models.network import Network
from dualsmooth.engine.records import sha256_of

FORMAT, VERSION = "dualsmooth-bundle", 1
INDEX = "bundle.json"
_LARGEST_INDEX = 1 << 16
_NAME = re.compile(r"\w[\w .,:+@=()-]{0,99}")
_NAME_RULE = "name must be at most 100 letters, digits and .,:+@=()-_, the first a letter or digit"
_FIELDS = {
    "format": str,
    "version": int,
    "name": str,
    "input_shape": list,
    "input_range": list,
    "num_classes": int,
    "sigmas": list,
    "tau": (float, int, type(None)),
    "networks": dict,
}
_NETWORK_FIELDS = {
    "architecture": str,
    "kwargs": dict,
    "weights": str,
    "bytes": int,
    "sha256": str,
}


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle folder."""
    index = folder / INDEX
    fields = _read_index(index)
    networks = {}
    for role, entry in fields["networks"].items():
        _check_fields(index, f"network {role}", entry, _NETWORK_FIELDS)
        weights = _read_weights(folder, entry)
        origin = str(folder / entry["weights"])
        networks[role] = Network(
            entry["architecture"], entry["kwargs"], entry["sha256"], weights, origin
        )
    try:
        ascending("sigmas", fields["sigmas"])
        return Bundle(
            name=fields["name"],
            input_shape=tuple(fields["input_shape"]),
            num_classes=fields["num_classes"],
            sigmas=tuple(map(_number, fields["sigmas"])),
            tau=None if fields["tau"] is None else float(fields["tau"]),
            networks=networks,
        )
    except (ArgumentError, TypeError, ValueError, OverflowError) as error:
        raise FileError(index, f"must describe a bundle: {error}") from error


def save_bundle(
    bundle: Bundle, folder: str | Path, beside: Mapping[str, bytes] | None = None
) -> None:
    """Write a bundle folder, all or nothing: it is made beside the place and then renamed.

    Further files may stand beside, such as a model card; nothing reads them.
    """
    folder = Path(folder)
    check_target(folder)
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
        entries[role] = {
            "architecture": network.architecture,
            "kwargs": dict(network.kwargs),
            "weights": name,
            "bytes": len(network.weights),
            "sha256": network.sha256,
        }
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "name": bundle.name,
        "input_shape": list(bundle.input_shape),
        "input_range": [0, 1],
        "num_classes": bundle.num_classes,
        "sigmas": list(bundle.sigmas),
        "tau": bundle.tau,
        "networks": entries,
    }
    files[INDEX] = (json.dumps(fields, indent=2, allow_nan=False) + "\n").encode()
    _write_folder(folder, files)


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    with new_folder(folder) as draft:
        for name, data in files.items():
            with (draft / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


def _read_index(index: Path) -> dict[str, Any]:
    fields = read_json(index, _LARGEST_INDEX)
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise FileError(index, f"must have the format {FORMAT}", _brief(fields))
    if fields.get("version") != VERSION:
        hint = "made by another version of dualsmooth"
        raise FileError(index, f"must have version {VERSION}", fields.get("version"), hint)
    _check_fields(index, "the bundle", fields, _FIELDS)
    if not fields["name"].isprintable() or set(fields["name"]) & set("<>&\"'/\\"):
        rule = "name must be of printable characters, none of <>&\"'/\\"
        raise FileError(index, rule, ascii(fields["name"][:80]))
    if fields["input_range"] != [0, 1]:
        raise FileError(index, "input_range must be [0, 1]", fields["input_range"])
    if not _NAME.fullmatch(fields["name"]):
        raise FileError(index, _NAME_RULE, fields["name"])
    return fields


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def _check_fields(index: Path, what: str, entry: object, kinds: dict[str, Any]) -> None:
    if not isinstance(entry, dict) or entry.keys() != kinds.keys():
        raise FileError(index, f"{what} must have the fields {', '.join(kinds)}", _brief(entry))
    for name, kind in kinds.items():
        if not isinstance(entry[name], kind) or isinstance(entry[name], bool):
            raise FileError(index, f"{what}: {name} has the wrong type", _brief(entry[name]))


def _read_weights(folder: Path, entry: dict[str, Any]) -> bytes:
    name: str = entry["weights"]
    if not name.endswith(".safetensors"):
        raise FileError(folder / INDEX, "weights must be a plain *.safetensors file name", name)
    path = check_part(folder, name, LARGEST_WEIGHTS)
    data = read_plain(path, min(LARGEST_WEIGHTS, entry["bytes"]))
    if len(data) != entry["bytes"]:
        raise FileError(path, f"must have {entry['bytes']} bytes", len(data), "truncated?")
    if sha256_of(data) != entry["sha256"]:
        rule = f"must have the SHA-256 that {INDEX} states"
        raise FileError(path, rule, sha256_of(data), "damaged, or not from this bundle")
    return data


def _brief(value: object) -> str:
    text = ", ".join(value) if isinstance(value, dict) else repr(value)
    return text[:200] or "nothing"
