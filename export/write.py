"""Writes deployment folders from bundles, all or nothing."""

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.draws import STREAM_VERSION
from dualsmooth.engine.errors import ArgumentError
from dualsmooth.engine.files import at_home, check_target, new_folder
from dualsmooth.engine.methods.transfer import pair_role
from dualsmooth.engine.models.bundle import SELECTOR, Bundle
from dualsmooth.engine.models.joint import joint_level
from dualsmooth.engine.models.sources.load import EXPORTED
from dualsmooth.engine.models.sources.onnx_session import OLDEST
from dualsmooth.engine.quantize.calibration import Calibration, levels_of
from dualsmooth.engine.records import digest_of
from dualsmooth.engine.terminal.progress import passing_bar, step
from dualsmooth.export.deployment import (
    DUAL,
    FORMAT,
    INDEX,
    INPUT,
    VERSION,
    Deployment,
    Terms,
    file_digest,
    method_of,
    read_deployment,
)
from dualsmooth.export.graph.dual import Dual, dual_model
from dualsmooth.export.graph.nodes import IR_VERSION, OPSET
from dualsmooth.export.graph.pairs import pair_model
from dualsmooth.export.graph.votes import Voter, vote_model
from dualsmooth.export.networks import check_network, check_rows, network_model
from dualsmooth.export.quantize import quantized_model

LARGEST_FILE = 2**31 - 1
"""Bytes one protobuf message can hold; larger models keep their weights beside them."""

SMALLEST_OUTSIDE = 128
"""Bytes of a tensor that is kept beside the model; shapes must stay inside."""

PIXELS_PER_BATCH, ROWS_PER_BATCH = 1 << 16, 256


def export_bundle(
    bundle: Bundle,
    folder: str | Path,
    terms: Terms,
    *,
    batch_size: int | None = None,
    int8: Calibration | None = None,
) -> Deployment:
    """Write every network, its vote graph, the dual predictor where there is a selector, the index.

    With ``int8`` the networks are quantised ones, and each classifier has a second vote graph that
    counts where it and the float32 network disagree; ranges are found with the noise of every level
    a network is used at. The rows of every pass are part of what is certified: by default the
    largest power of two, 8 to 256, with at most 65,536 pixels in a batch.
    """
    folder = at_home(folder, "folder")
    check_target(folder)
    for role, network in bundle.networks.items():
        check_exportable(f".{network.architecture}")
        if network.int8:
            rule, hint = (
                "must be in float32 to be exported",
                "export the float32 bundle with --int8",
            )
            raise ArgumentError(f"network {role}", rule, "one of 8-bit integers", hint)
    method_of(bundle, terms)
    rows = batch_of(bundle.input_shape) if batch_size is None else batch_size
    rows = positive_integer("batch_size", rows)
    with new_folder(folder) as draft:
        roles = passing_bar(iterable=bundle.networks, desc="export", unit="network")
        voters = {role: _write_network(draft, bundle, role, rows) for role in roles}
        about: dict[str, Any] = {"precision": "fp32"}
        if int8 is not None:
            levels = {role: levels_of(bundle, role, terms.sigma) for role in voters}
            about = _about_int8(draft, int8, levels)
            voters = {
                role: _quantize(draft, role, voter, int8.batches(levels[role], rows))
                for role, voter in voters.items()
            }
        for role, voter in passing_bar(iterable=voters.items(), desc="votes", unit="network"):
            _save(vote_model(voter), draft / f"{role}.votes.onnx")
        if SELECTOR in voters:
            _save(dual_model(_dual(bundle, voters, terms)), draft / DUAL)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in sorted(draft.iterdir())
        }
        index = index_of(bundle, terms, rows, about | versions(), files)
        (draft / INDEX).write_text(json.dumps(index, indent=2, allow_nan=False) + "\n")
    return read_deployment(folder)


def check_exportable(source: str) -> None:
    """Refuse a file that was exported already, by its name."""
    if source.lower().endswith(EXPORTED):
        rule = f"must not be a file that was exported already ({', '.join(EXPORTED)})"
        hint = "export the module it was made from: Bundle.from_classifier, then export_bundle"
        raise ArgumentError("bundle", rule, source, hint)


def batch_of(shape: tuple[int, int, int]) -> int:
    """Rows of a pass for images of shape (height, width, channels)."""
    rows = max(1, PIXELS_PER_BATCH // (shape[0] * shape[1]))
    return max(8, min(ROWS_PER_BATCH, 1 << rows.bit_length() - 1))


def _write_network(draft: Path, bundle: Bundle, role: str, rows: int) -> Voter:
    with step("loading PyTorch"):
        from dualsmooth.engine.samplers.fusion.fold import fold_batch_norm

    network = bundle.build(role)
    trial = _trial(bundle.input_shape, rows)
    model = network_model(fold_batch_norm(network), role, trial)
    _save(model, draft / f"{role}.onnx")
    outputs = bundle.outputs(role)
    check_network(draft / f"{role}.onnx", network, role, trial, outputs)
    return Voter(model, bundle.input_shape, outputs, rows)


def _trial(shape: tuple[int, int, int], rows: int) -> NDArray[np.float32]:
    height, width, channels = shape
    noise = np.random.default_rng(0).standard_normal((rows, channels, height, width))
    return noise.astype(np.float32)


def _about_int8(
    draft: Path, int8: Calibration, levels: dict[str, tuple[float, ...]]
) -> dict[str, Any]:
    """What the index says of int8 networks; the float32 ones still stand in the draft."""
    return {
        "precision": "int8",
        "calibration": int8.record | {"sigmas": levels},
        "float_networks": {role: file_digest(draft / f"{role}.onnx") for role in levels},
    }


def _quantize(
    draft: Path, role: str, voter: Voter, batches: Iterable[NDArray[np.float32]]
) -> Voter:
    """Put the int8 network in the place of the float32 one; pairs of both for classifiers."""
    path, trial = draft / f"{role}.onnx", _trial(voter.shape, voter.batch)
    quantized = replace(voter, network=quantized_model(path, role, batches))
    _save(quantized.network, path)
    check_rows(path, role, trial)
    if role != SELECTOR:
        both = pair_role(role)
        pair = pair_model(quantized.network, voter.network, voter.shape, voter.outputs)
        _save(pair, draft / f"{both}.onnx")
        check_rows(draft / f"{both}.onnx", both, trial)
        _save(vote_model(replace(voter, network=pair)), draft / f"{both}.votes.onnx")
    return quantized


def _dual(bundle: Bundle, voters: dict[str, Voter], terms: Terms) -> Dual:
    assert bundle.tau is not None
    at, rule = joint_level(bundle), terms.selector_rule or "median"
    asked = [bundle.sigmas[at - 1] if level == at else s for level, s in enumerate(bundle.sigmas)]
    roles = tuple(map(bundle.classifier_at, asked))  # the expert at tau casts no votes there
    classifiers = {role: voters[role] for role in roles}
    return Dual(voters[SELECTOR], bundle.tau, bundle.sigmas, classifiers, roles, rule, at)


def index_of(
    bundle: Bundle, terms: Terms, batch_size: int, about: dict[str, Any], files: dict[str, Any]
) -> dict[str, Any]:
    """Content of ``deployment.json``; ``about`` has the precision, versions and calibration."""
    fields = {
        "format": FORMAT,
        "version": VERSION,
        "name": bundle.name,
        "bundle_digest": bundle.digest,
        "input": {"shape": list(bundle.input_shape), **INPUT},
        "num_classes": bundle.num_classes,
        "sigmas": list(bundle.sigmas),
        "tau": bundle.tau,
        "roles": sorted(bundle.networks),
        "batch_size": batch_size,
        "stream_version": STREAM_VERSION,
        **about,
        "certificate": asdict(terms),
        "files": files,
    } | ({"joint": True} if bundle.joint else {})
    return fields | {"digest": digest_of(fields)}


def _save(model: ModelProto, path: Path) -> None:
    """Write a model, with its weights beside it where one message cannot hold them; check it."""
    if model.ByteSize() > LARGEST_FILE:
        written = ModelProto()
        written.CopyFrom(model)  # saving marks tensors as standing elsewhere, for good
        beside: Any = {"location": f"{path.name}.data", "size_threshold": SMALLEST_OUTSIDE}
        onnx.save_model(written, path, save_as_external_data=True, **beside)
    else:
        path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(path, full_check=True)


def versions() -> dict[str, Any]:
    """What reading the graphs takes, for the index."""
    return {"opset": OPSET, "ir_version": IR_VERSION, "onnxruntime": f">={OLDEST[0]}.{OLDEST[1]}"}
