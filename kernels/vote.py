"""Wrappers of the vote kernels."""

import torch

from dualsmooth.kernels import reference
from dualsmooth.kernels.checks import expect, expect_words, runs_kernel
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.launch import VoteLaunch

MAX_CLASSES = 4094


def vote(
    features: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    segment: torch.Tensor,
    counts: torch.Tensor,
    *,
    backend: str = "auto",
    launch: VoteLaunch | None = None,
) -> None:
    """Pool, classify, take the argmax and count: counts[segment[r], vote(r)] += 1, in place.

    Parameters
    ----------
    features : float tensor [R, H, W, C]
        Last activations; C a power of two >= 16. Pooled in float32.
    weight : float tensor [C, K]
        Linear layer; its dtype is the dtype of the product, accumulated in float32.
    bias : float32 tensor [K]
        Linear layer.
    segment : int32 tensor [R]
        Histogram of each row; -1 for rows that do not vote.
    counts : int64 tensor [segments, K + 1]
        Added to. The last entry counts invalid votes: rows with a NaN or infinite logit.
    backend : str
        auto, triton or reference.
    launch : VoteLaunch or None
        Launch choice; None takes `VoteLaunch.choose`.

    Raises
    ------
    KernelArgumentError
        If a shape, dtype, device or range is wrong.
    """
    expect("features", features, (None, None, None, None))
    rows, height, width, channels = features.shape
    if channels < 16 or channels & (channels - 1):
        raise KernelArgumentError("features", "must have a power of two >= 16 channels", channels)
    expect("weight", weight, (channels, None), device=features.device)
    classes = weight.shape[1]
    expect("bias", bias, (classes,), (torch.float32,), device=features.device)
    expect_words("features", height * width * channels, "values each")
    expect_words("weight", weight.numel())
    _expect_counts(segment, counts, rows, classes, features.device)
    if not runs_kernel(backend, features):
        reference.vote(reference.logits(features, weight, bias), segment, counts)
        return
    from dualsmooth.kernels.triton.vote import vote_kernel

    choice = launch or VoteLaunch.choose(classes, channels)
    vote_kernel[(-(-rows // (choice.rows * choice.tiles)),)](
        features,
        weight,
        bias,
        segment,
        counts,
        rows,
        len(counts),
        classes,
        SPATIAL=height * width,
        CHANNELS=channels,
        CHUNK=min(choice.chunk, channels),
        **choice.constants(classes),
        num_warps=choice.warps,
        num_stages=1,
        enable_fp_fusion=True,
    )


def vote_logits(
    logits: torch.Tensor,
    segment: torch.Tensor,
    counts: torch.Tensor,
    *,
    backend: str = "auto",
    launch: VoteLaunch | None = None,
) -> None:
    """Argmax and count: counts[segment[r], vote(r)] += 1, in place.

    Parameters
    ----------
    logits : float tensor [R, K]
        Scores of each class.
    segment, counts, backend, launch
        As for `vote`.

    Raises
    ------
    KernelArgumentError
        If a shape, dtype, device or range is wrong.
    """
    expect("logits", logits, (None, None))
    rows, classes = logits.shape
    _expect_counts(segment, counts, rows, classes, logits.device)
    if not runs_kernel(backend, logits):
        reference.vote(logits.float(), segment, counts)
        return
    from dualsmooth.kernels.triton.vote import vote_logits_kernel

    choice = launch or VoteLaunch.choose(classes, 64)
    vote_logits_kernel[(-(-rows // (choice.rows * choice.tiles)),)](
        logits,
        segment,
        counts,
        rows,
        len(counts),
        classes,
        **choice.constants(classes),
        num_warps=choice.warps,
        enable_fp_fusion=True,
    )


def _expect_counts(
    segment: torch.Tensor, counts: torch.Tensor, rows: int, classes: int, device: torch.device
) -> None:
    if not 0 < classes <= MAX_CLASSES:
        raise KernelArgumentError("classes", f"must be in [1, {MAX_CLASSES}]", classes)
    expect("segment", segment, (rows,), (torch.int32,), device=device)
    expect("counts", counts, (None, classes + 1), (torch.int64,), device=device)
    if rows and not segment.is_cuda and int(segment.max()) >= len(counts):
        raise KernelArgumentError("segment", f"must be < {len(counts)}", int(segment.max()))
