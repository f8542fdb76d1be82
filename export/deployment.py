"""Deployment folders: ONNX files and ``deployment.json``, which says what may be done with them.

A folder may come from anywhere. Reading it checks the format, the digest of the index, and the
place, size and SHA-256 of every file; nothing in it is code. No torch and no onnx is needed.
"""

import hashlib
import os
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from dualsmooth.engine.budget import Budget
from dualsmooth.engine.checks import error_level, one_of, positive_integer
from dualsmooth.engine.draws import STREAM_VERSION
from dualsmooth.engine.errors import ArgumentError, FileError
from dualsmooth.engine.files import at_home
from dualsmooth.engine.json_file import read_json
from dualsmooth.engine.limits import LARGEST_BATCH, LARGEST_WEIGHTS, check_part, open_plain
from dualsmooth.engine.methods.dual import DualSmoothing
from dualsmooth.engine.methods.fixed import FixedSmoothing
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.methods.transfer import TransferSmoothing, pair_role
from dualsmooth.engine.models.bundle import SELECTOR, Bundle
from dualsmooth.engine.models.network import Network
from dualsmooth.engine.records import digest_of, typed_record

FORMAT, VERSION = "dualsmooth-deployment", 1
INDEX = "deployment.json"
DUAL = "dual.onnx"
PRECISIONS = ("fp32", "int8")
INPUT = {"layout": "height, width, channels", "dtype": "float32", "range": [0, 1]}
"""What images are, beside their shape; a deployment of others would be read as one of these."""
_LARGEST_INDEX = 1 << 20


@dataclass(frozen=True, slots=True)
class Terms:
    """Settings of the certificates a deployment is made for: ``fixed`` or ``dual``."""

    method: str
    sigma: float | None = None
    selector_rule: str | None = None
    routing: str | None = None
    published_split: bool = False
    n0: int = 100
    n: int = 10_000
    alpha: float = 1e-3

    def __post_init__(self) -> None:
        Budget.fixed(self.n0, self.n)
        error_level("alpha", self.alpha)


@dataclass(frozen=True)
class _Input:
    shape: tuple[int, int, int]
    layout: str
    dtype: str
    range: tuple[float, float]

    def __post_init__(self) -> None:
        if {"layout": self.layout, "dtype": self.dtype, "range": [*self.range]} != INPUT:
            raise ValueError(f"input must have {INPUT}")


@dataclass(frozen=True)
class _File:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _Index:
    format: str
    version: int
    name: str
    bundle_digest: str
    input: _Input
    num_classes: int
    sigmas: tuple[float, ...]
    tau: float | None
    roles: tuple[str, ...]
    batch_size: int
    stream_version: int
    precision: str
    opset: int
    ir_version: int
    onnxruntime: str
    certificate: Terms
    files: dict[str, _File]
    digest: str
    calibration: dict[str, Any] | None = None
    float_networks: dict[str, str] | None = None
    joint: bool = False

    def __post_init__(self) -> None:
        one_of("precision", self.precision, PRECISIONS)
        positive_integer("batch_size", self.batch_size)
        if self.batch_size * prod(self.input.shape) > LARGEST_BATCH:
            rule = f"must make at most {LARGEST_BATCH} values"
            raise ArgumentError("batch_size", rule, self.batch_size)


@dataclass(frozen=True, slots=True, eq=False)
class Deployment:
    """What ``deployment.json`` says, checked; the bundle's networks have digests and no weights.

    Every pass through a network has `batch_size` rows. The precision is ``int8`` if the networks
    were quantised, else ``fp32``. The digest is that of the index, which holds those of the files:
    it identifies what is certified.
    """

    folder: Path
    bundle: Bundle
    batch_size: int
    terms: Terms
    precision: str
    digest: str

    def method(self, sigma: float | None = None) -> FixedSmoothing | DualSmoothing:
        """The method of the terms, or fixed smoothing at another of the deployment's levels."""
        if sigma is None:
            return method_of(self.bundle, self.terms)
        known = self.bundle.sigmas or (self.terms.sigma,)
        if sigma not in known:
            raise _unknown_level(sigma, known)
        return FixedSmoothing(self.bundle, sigma)

    def transfer(self, sigma: float | None, pairs: int) -> TransferSmoothing:
        """The method that certifies the float32 networks from int8 votes."""
        if self.precision != "int8":
            hint = "dualsmooth export --int8 makes one"
            raise ArgumentError("pairs", "must go with an int8 deployment", self.precision, hint)
        method = self.method(sigma)
        if not isinstance(method, FixedSmoothing):
            rule = "must go with fixed smoothing"
            raise ArgumentError("pairs", rule, method.name, "name one sigma")
        return TransferSmoothing(self.bundle, method.sigma, pairs)

    def outputs(self, role: str) -> int:
        """Number of logits of a network, or of the pair of networks of a role."""
        return self.bundle.outputs(role.removesuffix(pair_role("")))

    def votes_file(self, role: str) -> Path:
        """The vote graph of a network."""
        return self.folder / f"{role}.votes.onnx"

    def network_file(self, role: str) -> Path:
        """The network alone."""
        return self.folder / f"{role}.onnx"


def method_of(bundle: Bundle, terms: Terms) -> FixedSmoothing | DualSmoothing:
    """The method that terms name; a fixed sigma must be one the networks were made for."""
    counts = ("n0", "n", "alpha")
    named = {name: value for name, value in asdict(terms).items() if name not in counts}
    method = choose_method(bundle, **named)
    if bundle.sigmas and terms.sigma is not None and terms.sigma not in bundle.sigmas:
        raise _unknown_level(terms.sigma, bundle.sigmas)
    if not isinstance(method, FixedSmoothing | DualSmoothing):
        raise ArgumentError("method", "must be fixed or dual in a deployment", terms.method)
    return method


def _unknown_level(sigma: float, known: tuple[float | None, ...]) -> ArgumentError:
    levels = ", ".join(f"{level:g}" for level in known if level is not None)
    return ArgumentError("sigma", f"must be one of the levels trained for: {levels}", sigma)


def read_deployment(folder: str | Path) -> Deployment:
    """Read a deployment folder and check every file in it."""
    folder = at_home(folder, "folder")
    index = folder / INDEX
    fields = _read_index(index)
    try:
        read = typed_record(_Index, fields)
        for name, file in read.files.items():
            _check_file(folder, name, file)
        for path in folder.iterdir():
            if path.suffix in (".onnx", ".data") and path.name not in read.files:
                raise FileError(path, f"must be listed in {INDEX}, with its digest")
        networks = {
            role: Network("onnx", {}, read.files[f"{role}.votes.onnx"].sha256, b"")
            for role in read.roles
        }
        if read.joint:
            chosen = networks[SELECTOR]
            about: dict[str, Any] = {"architecture": "ordered_score", "kwargs": {"joint": True}}
            networks[SELECTOR] = replace(chosen, **about)
        made = (read.name, read.input.shape, read.num_classes, read.sigmas, read.tau)
        bundle = Bundle(*made, networks)
        method_of(bundle, read.certificate)
    except (ValueError, LookupError) as error:
        raise FileError(index, "must describe a deployment", error) from error
    terms, precision = read.certificate, read.precision
    return Deployment(folder, bundle, read.batch_size, terms, precision, read.digest)


def _read_index(index: Path) -> dict[str, Any]:
    fields = read_json(index, _LARGEST_INDEX)
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise FileError(index, f"must have the format {FORMAT}", repr(fields)[:80])
    for name, known in (("version", VERSION), ("stream_version", STREAM_VERSION)):
        if fields.get(name) != known:
            hint = "made by another version of dualsmooth"
            raise FileError(index, f"must have {name} {known}", fields.get(name), hint)
    rest = {name: value for name, value in fields.items() if name != "digest"}
    digest = digest_of(rest)
    if fields.get("digest") != digest:
        raise FileError(index, "must have the digest it states", digest, "was it edited?")
    return fields


def _check_file(folder: Path, name: str, stated: _File) -> None:
    path = check_part(folder, name, LARGEST_WEIGHTS)
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size != stated.bytes:
            raise FileError(path, f"must have {stated.bytes} bytes", size, "truncated?")
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != stated.sha256:
        rule = f"must have the SHA-256 that {INDEX} states"
        raise FileError(path, rule, digest, "damaged, or not from this deployment")


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
