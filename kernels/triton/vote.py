"""Device code: from features or logits to class counts; no logits leave the kernel."""

import triton
import triton.language as tl


@triton.jit
def cast_votes(scores, classes, CLASSES_PAD: tl.constexpr):
    """Vote of each row of logits [ROWS, CLASSES_PAD]: lowest best index, or `classes` if invalid.

    A row is invalid if any of its logits is NaN or infinite.
    """
    known = (tl.arange(0, CLASSES_PAD) < classes)[None, :]
    finite = tl.abs(scores) < float("inf")
    broken = tl.sum((known & ~finite).to(tl.int32), axis=1) > 0
    best = tl.argmax(tl.where(known & finite, scores, float("-inf")), axis=1)
    return tl.where(broken, classes, best)


@triton.jit
def flush(counts, histogram, current, classes, BINS: tl.constexpr):
    """Add a histogram to the counts of segment `current`; nothing if it is negative."""
    bins = tl.arange(0, BINS)
    entry = counts + current.to(tl.int64) * (classes + 1) + bins
    keep = (bins <= tl.where(current >= 0, classes, -1)) & (histogram > 0)
    tl.atomic_add(entry, histogram.to(tl.int64), mask=keep, sem="relaxed")


@triton.jit
def tally(votes, segment, histogram, current, counts, segments, classes, BINS: tl.constexpr):
    """Count one tile of votes [ROWS]; returns the running histogram and its segment.

    A tile of one segment (the usual case) stays in registers; a mixed tile adds row by row.
    """
    votes_somewhere = (segment >= 0) & (segment < segments)
    lowest = tl.min(tl.where(votes_somewhere, segment, 0x7FFFFFFF), axis=0)
    highest = tl.max(tl.where(votes_somewhere, segment, -1), axis=0)
    if lowest == highest:
        if highest != current:
            flush(counts, histogram, current, classes, BINS)
            histogram = tl.zeros([BINS], tl.int32)
            current = highest
        histogram += tl.histogram(tl.where(votes_somewhere, votes, BINS - 1), BINS)
    else:
        entry = counts + segment.to(tl.int64) * (classes + 1) + votes
        one = tl.full(votes.shape, 1, tl.int64)
        tl.atomic_add(entry, one, mask=votes_somewhere, sem="relaxed")
    return histogram, current


@triton.jit
def vote_kernel(
    features,  # [rows, SPATIAL, CHANNELS]
    weight,  # [CHANNELS, classes]
    bias,  # fp32 [classes]
    segment,  # int32 [rows]
    counts,  # int64 [segments, classes + 1]
    rows,
    segments,
    classes,
    SPATIAL: tl.constexpr,
    CHANNELS: tl.constexpr,
    CLASSES_PAD: tl.constexpr,
    BINS: tl.constexpr,  # power of two > classes + 1; the last bin takes rows that do not vote
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,  # channels per dot
    TILES: tl.constexpr,  # tiles of ROWS rows per program
):
    """Global average pooling + linear + argmax + counts per segment."""
    kind = tl.arange(0, CLASSES_PAD)
    known = kind < classes
    histogram = tl.zeros([BINS], tl.int32)
    current = tl.program_id(0) * 0 - 1
    for tile in range(TILES):
        row = (tl.program_id(0) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        live = row < rows
        base = row.to(tl.int64)[:, None] * (SPATIAL * CHANNELS)
        scores = tl.zeros([ROWS, CLASSES_PAD], tl.float32)
        for first in range(0, CHANNELS, CHUNK):
            channel = first + tl.arange(0, CHUNK)
            pooled = tl.zeros([ROWS, CHUNK], tl.float32)
            for place in range(0, SPATIAL, 8):  # one load, so that its parts are under way at once
                pixel = place + tl.arange(0, 8)
                at = base[:, :, None] + pixel[None, :, None] * CHANNELS + channel[None, None, :]
                inside = live[:, None, None] & (pixel < SPATIAL)[None, :, None]
                x = tl.load(features + at, mask=inside, other=0.0)
                pooled += tl.sum(x.to(tl.float32), axis=1)
            w = tl.load(
                weight + channel[:, None] * classes + kind[None, :], mask=known[None, :], other=0.0
            )
            pooled = (pooled * (1.0 / SPATIAL)).to(w.dtype)
            scores = tl.dot(pooled, w, scores, input_precision="ieee")
        scores += tl.load(bias + kind, mask=known, other=0.0)[None, :]
        votes = cast_votes(scores, classes, CLASSES_PAD)
        where = tl.load(segment + row, mask=live, other=-1)
        histogram, current = tally(
            votes, where, histogram, current, counts, segments, classes, BINS
        )
    flush(counts, histogram, current, classes, BINS)


@triton.jit
def vote_logits_kernel(
    logits,  # [rows, classes]
    segment,
    counts,
    rows,
    segments,
    classes,
    CLASSES_PAD: tl.constexpr,
    BINS: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
):
    """Argmax + counts per segment of logits that another library computed."""
    kind = tl.arange(0, CLASSES_PAD)[None, :]
    histogram = tl.zeros([BINS], tl.int32)
    current = tl.program_id(0) * 0 - 1
    for tile in range(TILES):
        row = (tl.program_id(0) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        live = row < rows
        at = row.to(tl.int64)[:, None] * classes + kind
        scores = tl.load(logits + at, mask=live[:, None] & (kind < classes), other=0.0)
        votes = cast_votes(scores.to(tl.float32), classes, CLASSES_PAD)
        where = tl.load(segment + row, mask=live, other=-1)
        histogram, current = tally(
            votes, where, histogram, current, counts, segments, classes, BINS
        )
    flush(counts, histogram, current, classes, BINS)
