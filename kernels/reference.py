"""One short truth per kernel, plain PyTorch on any device, written before the kernels.

Words are exact int64 arithmetic. Normals are evaluated in float64 from the float32 uniform and
rounded once, as `engine/noise/stream.py` specifies. Images and activations are channels-last.
"""

import math

import torch
import torch.nn.functional as functional

from dualsmooth.kernels.rows import Rows
from dualsmooth.kernels.thresholds import Thresholds

_WORD = 0xFFFFFFFF
LOW_WORD = 0x8000
"""Bit of counter word c3 that marks the low half of a 64-bit word."""


def philox_words(counter: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Philox4x32-10. counter int64 (..., 4) and key (2,) hold uint32 values; int64 (..., 4)."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = (int(k) & _WORD for k in key)
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # wraps modulo 2^64, as intended
        c0, c1 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, p1 & _WORD
        c2, c3 = ((p0 >> 32) & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return torch.stack((c0, c1, c2, c3), -1)


def row_words(rows: Rows, key: torch.Tensor, blocks: int, mark: int = 0) -> torch.Tensor:
    """Words of blocks 0 .. blocks - 1 of every row: int64 [R, blocks, 4], values < 2^32."""
    c1, c2, c3 = (w.long() & _WORD for w in (rows.sample, rows.image, rows.stream))
    block = torch.arange(blocks, device=c1.device).expand(len(rows), -1)
    columns = [block, *((w[:, None]).expand_as(block) for w in (c1, c2, c3 | mark))]
    return philox_words(torch.stack(columns, -1), key)


def box_muller(words: torch.Tensor) -> torch.Tensor:
    """Words int64 (..., 4) to normals float32 (..., 4)."""
    u = (words.float() * 2.0**-32 + 2.0**-33).double()
    radius = torch.sqrt(-2 * torch.log(u[..., 0::2]))
    angle = 2 * math.pi * u[..., 1::2]
    pairs = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), -1)
    return pairs.flatten(-2).float()


def block_step(channels: int) -> int:
    """Image values per Philox block."""
    return channels if channels in (3, 4) else 4


def to_image(lanes: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Lanes [R, blocks, 4] to [R, H, W, C]."""
    height, width, channels = shape
    flat = lanes[..., : block_step(channels)].flatten(1)
    return flat[:, : height * width * channels].reshape(-1, height, width, channels)


def blocks_of(shape: tuple[int, int, int]) -> int:
    """Philox blocks of an image of shape (H, W, C)."""
    return -(-math.prod(shape) // block_step(shape[2]))


def noise(images: torch.Tensor, rows: Rows, key: torch.Tensor) -> torch.Tensor:
    """x + sigma z in float32: images [slots, H, W, C] to [R, H, W, C]."""
    height, width, channels = images.shape[1:]
    shape = (height, width, channels)
    z = to_image(box_muller(row_words(rows, key, blocks_of(shape))), shape)
    return images[rows.slot.long()].float() + rows.sigma[:, None, None, None] * z


def integer_noise(
    images: torch.Tensor, rows: Rows, key: torch.Tensor, level: torch.Tensor, tables: Thresholds
) -> torch.Tensor:
    """(x + E) / 255 on the grid: images uint8 [slots, H, W, C] to float32 [R, H, W, C]."""
    height, width, channels = images.shape[1:]
    shape = (height, width, channels)
    high = row_words(rows, key, blocks_of(shape))
    low = row_words(rows, key, blocks_of(shape), LOW_WORD)
    flip = torch.iinfo(torch.int64).min  # signed order of x ^ flip is unsigned order of x
    ordered = to_image((high << 32 | low) ^ flip, shape)
    steps = torch.empty(ordered.shape, dtype=torch.int64, device=images.device)
    for index in sorted(set(level.tolist())):
        limits = tables.limits[index, : int(tables.count[index])] ^ flip
        found = torch.searchsorted(limits, ordered[level == index], right=True)
        steps[level == index] = found + int(tables.lowest[index])
    return (images[rows.slot.long()].long() + steps).float() * (1.0 / 255.0)


def pad_channels(x: torch.Tensor, channels: int) -> torch.Tensor:
    """Append zero channels: [..., C] to [..., channels]."""
    return functional.pad(x, (0, channels - x.shape[-1]))


def conv(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    *,
    stride: int = 1,
    residual: torch.Tensor | None = None,
    shortcut: tuple[torch.Tensor, torch.Tensor] | None = None,
    relu: bool = True,
    padding: int | None = None,
) -> torch.Tensor:
    """Convolution + bias (+ residual or 1x1 strided shortcut) + ReLU, float32; "same" padding.

    x [R, H, W, Cin], weight [K, K, Cin, Cout], bias [Cout], residual [R, OH, OW, Cout];
    shortcut is (input [R, OH s, OW s, Cs], weight [Cs, Cout]) with s its stride.
    """
    kernel = weight.permute(3, 2, 0, 1).float()
    image = x.permute(0, 3, 1, 2).float()
    pad = weight.shape[0] // 2 if padding is None else padding
    y = functional.conv2d(image, kernel, bias.float(), stride, pad)
    y = y.permute(0, 2, 3, 1)
    if residual is not None:
        y = y + residual.float()
    if shortcut is not None:
        source, projection = shortcut
        step = source.shape[1] // y.shape[1]
        y = y + source[:, ::step, ::step].float() @ projection.float()
    return torch.relu(y) if relu else y


def stem(
    noisy: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    *,
    stride: int = 1,
    relu: bool = True,
    padding: int | None = None,
) -> torch.Tensor:
    """Convolution of the normalised noisy image, zero padding after normalisation, float32.

    noisy [R, H, W, C] in input units, weight [K, K, C, Cout] unfolded, mean and std [C].
    """
    return conv((noisy - mean) / std, weight, bias, stride=stride, relu=relu, padding=padding)


def affine(
    x: torch.Tensor,
    scale: torch.Tensor | None,
    shift: torch.Tensor | None,
    *,
    other: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    relu: bool = True,
    keep: bool = False,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """s = x + bias + other and y = relu(s * scale + shift), float32, s and y rounded to x's dtype.

    x, other [..., C]; bias, scale, shift [C]. s is None without ``keep``.
    """
    y = x.float() if bias is None else x.float() + bias
    total = (y if other is None else y + other.float()).to(x.dtype)
    y = total.float() if scale is None or shift is None else total.float() * scale + shift
    return total if keep else None, (torch.relu(y) if relu else y).to(x.dtype)


def logits(features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Global average pooling + linear: features [R, H, W, C], weight [C, K], bias [K]; [R, K].

    Sums are float64 and rounded to float32, so they do not depend on a row's place in the batch.
    """
    pooled = features.float().mean((1, 2)).double()
    return (pooled @ weight.double()).float() + bias.float()


def vote(scores: torch.Tensor, segment: torch.Tensor, counts: torch.Tensor) -> None:
    """Add one vote per row to counts int64 [segments, K + 1]; rows with segment < 0 do not vote.

    The vote is the lowest index of the largest logit, or K (invalid) if a logit is not finite.
    """
    classes = scores.shape[1]
    finite = torch.isfinite(scores).all(1)
    safe = torch.where(finite[:, None], scores, 0.0)
    best = (safe == safe.max(1, keepdim=True).values).int().argmax(1)
    cast = torch.where(finite, best, classes)[segment >= 0]
    where = segment[segment >= 0].long() * (classes + 1) + cast
    counts += torch.bincount(where, minlength=counts.numel()).reshape(counts.shape)
