"""Device words and normals against the NumPy specification."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from dualsmooth.engine.noise.stream import philox4x32, uniform_from_word
from dualsmooth.kernels import reference
from dualsmooth.kernels.rows import word_bits
from dualsmooth.kernels.triton.philox import minus_two_log, normal_pair, philox_words

VECTORS = json.loads((Path(__file__).parents[2] / "reference" / "philox.json").read_text())
LOWEST, HIGHEST = 0, (1 << 32) - 1


@triton.jit  # type: ignore[untyped-decorator]
def words_kernel(counter, key, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < n
    c0 = tl.load(counter + i * 4, mask=mask, other=0).to(tl.uint32, bitcast=True)
    c1 = tl.load(counter + i * 4 + 1, mask=mask, other=0).to(tl.uint32, bitcast=True)
    c2 = tl.load(counter + i * 4 + 2, mask=mask, other=0).to(tl.uint32, bitcast=True)
    c3 = tl.load(counter + i * 4 + 3, mask=mask, other=0).to(tl.uint32, bitcast=True)
    k0 = tl.load(key + i * 2, mask=mask, other=0).to(tl.uint32, bitcast=True)
    k1 = tl.load(key + i * 2 + 1, mask=mask, other=0).to(tl.uint32, bitcast=True)
    w0, w1, w2, w3 = philox_words(c0, c1, c2, c3, k0, k1)
    tl.store(out + i * 4, w0.to(tl.int32, bitcast=True), mask=mask)
    tl.store(out + i * 4 + 1, w1.to(tl.int32, bitcast=True), mask=mask)
    tl.store(out + i * 4 + 2, w2.to(tl.int32, bitcast=True), mask=mask)
    tl.store(out + i * 4 + 3, w3.to(tl.int32, bitcast=True), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def pair_kernel(first, second, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    w1 = tl.load(first + i, mask=i < n, other=0).to(tl.uint32, bitcast=True)
    w2 = tl.load(second + i, mask=i < n, other=0).to(tl.uint32, bitcast=True)
    a, b = normal_pair(w1, w2)
    tl.store(out + i, a, mask=i < n)
    tl.store(out + n + i, b, mask=i < n)


@triton.jit  # type: ignore[untyped-decorator]
def log_kernel(u, out, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, minus_two_log(tl.load(u + i, mask=i < n, other=1.0)), mask=i < n)


def device_words(
    counter: list[list[int]], key: list[list[int]], device: torch.device
) -> list[list[int]]:
    out = torch.empty((len(counter), 4), dtype=torch.int32, device=device)
    words_kernel[(triton.cdiv(len(counter), 64),)](
        torch.stack([word_bits(c, device) for c in counter]),
        torch.stack([word_bits(k, device) for k in key]),
        out,
        len(counter),
        BLOCK=64,
    )
    return out.cpu().numpy().view(np.uint32).tolist()  # type: ignore[no-any-return]


def device_pairs(words: NDArray[np.uint64], device: torch.device) -> NDArray[np.float32]:
    first, second = (word_bits(w.tolist(), device) for w in words)
    out = torch.empty((2, len(first)), device=device)
    block = 1 << 14
    pair_kernel[(triton.cdiv(len(first), block),)](first, second, out, len(first), BLOCK=block)
    return out.cpu().numpy()


def exact_pairs(words: NDArray[np.uint64]) -> NDArray[np.float32]:
    u1, u2 = (uniform_from_word(w).astype(np.float64) for w in words)
    radius, angle = np.sqrt(-2 * np.log(u1)), 2 * np.pi * u2
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)]).astype(np.float32)


def test_words_equal_the_published_vectors(device: torch.device) -> None:
    cases = [(c, c["out"]) for c in VECTORS["official"] if c["rounds"] == 10]
    cases += [(c, c["r10"]) for c in VECTORS["extra"]]
    counter = [[int(w, 16) for w in case["ctr"]] for case, _ in cases]
    key = [[int(w, 16) for w in case["key"]] for case, _ in cases]
    expected = [[int(w, 16) for w in words] for _, words in cases]
    assert device_words(counter, key, device) == expected
    for c, k, words in zip(counter, key, expected, strict=True):
        assert reference.philox_words(torch.tensor(c), word_bits(k)).tolist() == words


def test_words_equal_the_specification_on_random_counters(device: torch.device) -> None:
    rng = np.random.default_rng(1)
    counter, key = rng.integers(0, 1 << 32, (100, 4)), rng.integers(0, 1 << 32, (100, 2))
    got = device_words(counter.tolist(), key.tolist(), device)
    for i in range(100):
        assert_array_equal(got[i], philox4x32(counter[i], key[i]))


@pytest.mark.parametrize(
    "words", ["everywhere", "smallest uniforms", "uniforms next to one", "quarter turns", "corners"]
)
def test_normals_are_within_the_promise(words: str, device: torch.device) -> None:
    rng = np.random.default_rng(2)
    pair = rng.integers(0, 1 << 32, (2, 1 << 17), dtype=np.uint64)
    if words == "smallest uniforms":
        pair[0] >>= np.uint64(20)
    elif words == "uniforms next to one":
        pair[0] = HIGHEST - (pair[0] >> np.uint64(14))
    elif words == "quarter turns":
        pair[0] >>= np.uint64(16)
        near = (pair[1] & np.uint64(7)) << np.uint64(29)
        pair[1] = (near + (pair[1] >> np.uint64(16)) - np.uint64(1 << 15)) & np.uint64(HIGHEST)
    elif words == "corners":
        edge = [
            0,
            1,
            2,
            255,
            256,
            1 << 29,
            1 << 30,
            1 << 31,
            3 << 30,
            7 << 29,
            HIGHEST - 128,
            HIGHEST,
        ]
        grid = np.array(np.meshgrid(edge, edge), dtype=np.uint64)
        pair = grid.reshape(2, -1)
    got, expected = device_pairs(pair, device), exact_pairs(pair)
    assert np.isfinite(got).all()
    assert np.abs(got - expected).max() <= 2e-6
    assert np.abs(got).max() <= 6.77


def test_a_clamped_uniform_would_break_the_promise(device: torch.device) -> None:
    """The clamp at 1e-7 of `tl.randn4x` moves the far tail by more than the tolerance."""
    pair = np.array([[0], [0]], dtype=np.uint64)
    clamped = np.sqrt(-2 * np.log(1e-7))
    assert abs(device_pairs(pair, device)[0, 0] - clamped) > 1


def test_radius_is_exactly_zero_at_one_and_steep_beside_it(device: torch.device) -> None:
    u = torch.tensor([1.0, 1 - 2.0**-24, 1 - 2.0**-23, 0.5, 2.0**-33], device=device)
    out = torch.empty(5, device=device)
    log_kernel[(1,)](u, out, 5, BLOCK=8)
    exact = -2 * torch.log(u.double())
    assert out[0] == 0
    torch.testing.assert_close(out.double()[1:], exact[1:], rtol=2e-7, atol=0)
