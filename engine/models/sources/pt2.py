"""Programs saved by ``torch.export.save``, read without PyTorch's reader.

That one unpickles, compiles and evaluates what the file says. Here weights are bytes with sizes
that fit them, and the program is a list of known operators (`pt2_program`). Anything else is
refused, unless the caller trusts the file.
"""

import io
import math
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dualsmooth.engine.errors import ArgumentError, FileError, reason_of
from dualsmooth.engine.json_file import parse_json
from dualsmooth.engine.limits import LARGEST_MODEL, check_size, check_stored, read_plain
from dualsmooth.engine.models.capture import quiet
from dualsmooth.engine.models.sources.pt2_program import DTYPES, Pt2Program
from dualsmooth.engine.models.sources.pt2_rows import is_row_wise

_PARTS = re.compile(
    r"archive_format|archive_version|version|byteorder|\.data/[\w.]+|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt"
)
_SCHEMA = 8
_SYMBOL = re.compile(r"Symbol\('(\w+)'(?:, \w+=(?:True|False))*\)|(\w+)")
_TRUST = "--trust-model, or load_bundle(path, trust=True), runs whatever is in it"


class Program(NamedTuple):
    """A network as a function of one batch, and the sizes of that batch; None means any.

    Of one that is seen to be ``row_wise``, for any number of rows, nothing has to be tried; one
    that decides for batches as a whole (``of_whole``) is to be given each row alone.
    """

    run: Callable[[torch.Tensor], torch.Tensor]
    sizes: tuple[int | None, ...]
    row_wise: bool = False
    of_whole: bool = False


def load_pt2(path: Path, *, trust: bool = False) -> tuple[bytes, Program]:
    """Bytes of a file and the program in it; a file that PyTorch reads can run any code."""
    check_size(path, LARGEST_MODEL)
    try:
        check_stored(path, ".json")
        data = read_plain(path, LARGEST_MODEL, links=True)
        return data, _trusted(data) if trust else _program(data)
    except FileError:
        raise
    except ArgumentError as error:
        raise FileError(path, error.rule, error.value, error.hint) from error
    except Exception as error:  # zip, JSON and operators raise many kinds
        rule = "must be a program of plain tensors and known operators, saved by torch.export.save"
        raise FileError(path, rule, reason_of(error), "" if trust else _TRUST) from error


def _program(data: bytes) -> Program:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        root = archive.namelist()[0].partition("/")[0] + "/"
        parts = {name.removeprefix(root): name for name in archive.namelist()}
        for part, name in parts.items():
            if not name.startswith(root) or not _PARTS.fullmatch(part):
                raise ValueError(f"unexpected part {name[:100]}")

        def text(part: str) -> Any:
            return parse_json(archive.read(parts[part]))

        if "byteorder" in parts and archive.read(parts["byteorder"]) != b"little":
            raise ValueError("another byte order")
        tensors: dict[str, torch.Tensor] = {}
        for kind, folder in (("weights", "data/weights/"), ("constants", "data/constants/")):
            for name, entry in text(f"{folder}model_{kind}_config.json")["config"].items():
                if entry["use_pickle"]:
                    raise ValueError(f"{name[:100]} is a pickle")
                raw = archive.read(parts[folder + entry["path_name"]])
                tensors[name] = _tensor(name, raw, entry["tensor_meta"])
        return _graph(text("models/model.json"), tensors)


def _graph(model: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Program:
    if model["schema_version"]["major"] != _SCHEMA or model.get("guards_code"):
        raise ValueError("guards, or a schema of another version")
    graph, signature = model["graph_module"]["graph"], model["graph_module"]["signature"]
    constants, inputs = {}, []
    for entry in signature["input_specs"]:
        ((kind, spec),) = entry.items()
        if kind == "user_input":
            inputs.append(spec["arg"]["as_tensor"]["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            constants[spec["arg"]["name"]] = tensors[spec[f"{kind}_name"]]
        else:
            raise ValueError(f"an input of kind {kind[:40]}")
    pixels, output = _only("input", inputs), _only("output", signature["output_specs"])
    program = Pt2Program(
        graph["nodes"], constants, pixels, output["user_output"]["arg"]["as_tensor"]["name"]
    )
    value = graph["tensor_values"][pixels]
    if DTYPES.get(value["dtype"]) is not torch.float32:
        raise ValueError("an input that is not float32")
    sizes = tuple(_size(size) for size in value["sizes"])
    least, most = _rows(value["sizes"][0], model["range_constraints"])
    if None not in sizes[1:]:
        program.check_sizes((least, *(size or 0 for size in sizes[1:])))

    def run(x: torch.Tensor) -> torch.Tensor:
        fits = len(x.shape) == len(sizes) and least <= len(x) <= most
        if not fits or any(s not in (None, n) for s, n in zip(sizes, x.shape, strict=True)):
            raise ValueError(f"the program takes no batch of shape {tuple(x.shape)}")
        return program(x)

    free = sizes[0] is not None or (least <= 1 and most == math.inf)
    return Program(run, sizes, free and is_row_wise(program))


def _only(kind: str, found: Sequence[Any]) -> Any:
    """The one input or output of a program."""
    if len(found) != 1:
        rule = "must have one input, images, and one output, logits"
        raise ArgumentError("program", rule, f"{len(found)} {kind}s", "export a module of such")
    return found[0]


def _size(size: dict[str, Any]) -> int | None:
    return size["as_int"] if "as_int" in size else None


def _rows(size: dict[str, Any], ranges: dict[str, Any]) -> tuple[int, float]:
    """Least and largest number of rows."""
    if "as_int" in size:
        return size["as_int"], size["as_int"]
    found = _SYMBOL.fullmatch(size["as_expr"]["expr_str"])
    if not found:
        raise ValueError("a number of rows that is no plain symbol")
    limits = ranges[found[1] or found[2]]
    low, high = limits["min_val"], limits["max_val"]
    return max(1, low or 0), math.inf if high is None else high


def _tensor(name: str, raw: bytes, meta: dict[str, Any]) -> torch.Tensor:
    """A tensor over its own bytes: no larger than they are, in whatever strides."""
    dtype, sizes = DTYPES[meta["dtype"]], [entry["as_int"] for entry in meta["sizes"]]
    strides = [entry["as_int"] for entry in meta["strides"]]
    offset, room = meta["storage_offset"]["as_int"], len(raw) // dtype.itemsize
    if not all(type(n) is int and n >= 0 for n in (*sizes, *strides, offset)):
        raise ValueError(f"{name[:100]} has no plain sizes")
    if math.prod(sizes) > room:
        raise ValueError(f"{name[:100]} states {sizes[:8]} in {len(raw)} bytes")
    flat = torch.frombuffer(bytearray(raw), dtype=dtype) if raw else torch.empty(0, dtype=dtype)
    found = flat.as_strided(sizes, strides, offset)
    if found.isnan().any():
        raise ValueError(f"{name[:100]} holds NaN")
    return found


def _trusted(data: bytes) -> Program:
    with quiet():
        program = torch.export.load(io.BytesIO(data))
    name = _only("input", program.graph_signature.user_inputs)
    _only("output", program.graph_signature.user_outputs)
    placeholder = next(n for n in program.graph.nodes if n.op == "placeholder" and n.name == name)
    value = placeholder.meta["val"]
    if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
        raise ValueError(f"an input of {getattr(value, 'dtype', type(value))}, not float32")
    sizes = tuple(size if isinstance(size, int) else None for size in value.shape)
    return Program(program.module(), sizes)
