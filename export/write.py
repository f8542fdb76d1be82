"""Writes deployment folders from bundles, all or nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from dualsmooth.engine.checks import positive_integer
from dualsmooth.engine.folders import check_target, new_folder
from dualsmooth.engine.models.bundle import SELECTOR, Bundle
from dualsmooth.export.deployment import (
    DUAL,
    INDEX,
    Deployment,
    Recipe,
    file_digest,
    index_of,
    method_of,
    read_deployment,
)
from dualsmooth.export.dual_graph import Dual, dual_model
from dualsmooth.export.graph import IR_VERSION, OPSET
from dualsmooth.export.networks import check_network, network_model
from dualsmooth.export.sessions import OLDEST
from dualsmooth.export.vote_graph import Voter, vote_model

LARGEST_FILE = 2**31 - 1
"""Bytes one protobuf message can hold; larger models keep their weights beside them."""

SMALLEST_OUTSIDE = 128
"""Bytes of a tensor that is kept beside the model; shapes must stay inside."""

PIXELS_PER_BATCH, ROWS_PER_BATCH = 1 << 16, 256


def export_bundle(
    bundle: Bundle, folder: str | Path, recipe: Recipe, *, batch_size: int | None = None
) -> Deployment:
    """Write every network, its vote graph, the dual predictor where there is a selector, the index.

    Parameters
    ----------
    bundle : Bundle
        Networks.
    folder : str or Path
        Must not exist yet.
    recipe : Recipe
        Certificates the deployment is for.
    batch_size : int, optional
        Rows of every pass through a network, part of what is certified. By default the largest
        power of two, 8 to 256, with at most 65,536 pixels in a batch.

    Raises
    ------
    ArgumentError
        If the recipe does not fit the bundle, or a network cannot be exported faithfully.
    FileError
        If the folder exists or cannot be written.
    """
    folder = Path(folder)
    check_target(folder)
    method_of(bundle, recipe)
    rows = batch_of(bundle.input_shape) if batch_size is None else batch_size
    rows = positive_integer("batch_size", rows)
    with new_folder(folder) as draft:
        voters = {role: _write_network(draft, bundle, role, rows) for role in bundle.networks}
        if SELECTOR in voters:
            _save(dual_model(_dual(bundle, voters, recipe)), draft / DUAL)
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
            for path in sorted(draft.iterdir())
        }
        index = index_of(bundle, recipe, rows, _versions(), files)
        (draft / INDEX).write_text(json.dumps(index, indent=2, allow_nan=False) + "\n")
    return read_deployment(folder)


def batch_of(shape: tuple[int, int, int]) -> int:
    """Rows of a pass for images of shape (height, width, channels)."""
    rows = max(1, PIXELS_PER_BATCH // (shape[0] * shape[1]))
    return max(8, min(ROWS_PER_BATCH, 1 << rows.bit_length() - 1))


def _write_network(draft: Path, bundle: Bundle, role: str, rows: int) -> Voter:
    from dualsmooth.engine.models.fold import fold_batch_norm

    network = fold_batch_norm(bundle.build(role))
    height, width, channels = bundle.input_shape
    trial = np.random.default_rng(0).standard_normal((rows, channels, height, width))
    model = network_model(network, role, trial.astype(np.float32))
    _save(model, draft / f"{role}.onnx")
    outputs = bundle.outputs(role)
    check_network(draft / f"{role}.onnx", network, role, trial.astype(np.float32), outputs)
    voter = Voter(model, bundle.input_shape, outputs, rows)
    _save(vote_model(voter), draft / f"{role}.votes.onnx")
    return voter


def _dual(bundle: Bundle, voters: dict[str, Voter], recipe: Recipe) -> Dual:
    assert bundle.tau is not None
    roles = tuple(bundle.classifier_at(sigma) for sigma in bundle.sigmas)
    return Dual(
        voters[SELECTOR], bundle.tau, bundle.sigmas, {role: voters[role] for role in roles}, roles,
        recipe.selector_rule or "median",
    )  # fmt: skip


def _save(model: ModelProto, path: Path) -> None:
    """Write a model, with its weights beside it where one message cannot hold them; check it."""
    if model.ByteSize() > LARGEST_FILE:
        onnx.save_model(
            model, path, save_as_external_data=True, location=f"{path.name}.data",
            size_threshold=SMALLEST_OUTSIDE,
        )  # fmt: skip
    else:
        path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(path, full_check=True)


def _versions() -> dict[str, Any]:
    return {
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "onnxruntime": f">={OLDEST[0]}.{OLDEST[1]}",
    }
