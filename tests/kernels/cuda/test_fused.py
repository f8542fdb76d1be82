"""From noise to votes in three kernels: their own source on a processor, against the layers."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dualsmooth.engine.noise.stream import philox4x32, uniform_from_word
from dualsmooth.kernels import reference
from dualsmooth.kernels.cuda import fused
from dualsmooth.kernels.cuda.fused import FusedResNet, fused_logits, run_kernels
from dualsmooth.kernels.cuda.residual_stage import on_chip
from dualsmooth.kernels.cuda.stages import STAGES, Program
from dualsmooth.kernels.folding import fold_stem
from dualsmooth.kernels.resnet import FoldedResNet, resnet_features
from dualsmooth.kernels.rows import Rows, seed_key
from tests.kernels.cuda.conftest import random_network

KEY = seed_key(2026 | 1 << 40)
CLASSES = 35
"""More than a warp has threads."""

LIMIT = 0.05
"""Of the largest activation or logit: some roundings of bf16, one after the other."""

VECTORS = json.loads((Path(__file__).parents[2] / "reference" / "philox.json").read_text())


def network(colors: int = 3, blocks: tuple[int, int, int] = (1, 2, 2)) -> FoldedResNet:
    return random_network(blocks=blocks, colors=colors, classes=CLASSES)


def made(shared: int = 227 * 1024, **options: Any) -> FusedResNet:
    chip = on_chip(network(**options), 32, shared)
    assert chip is not None
    whole = FusedResNet.fuse(chip)
    assert whole is not None
    return whole


def rows_of(count: int) -> Rows:
    """Two slots by turns; the second row does not vote, the third asks for a segment too many."""
    return Rows.pack(
        slot=[i % 2 for i in range(count)],
        sigma=[0.5 + 0.1 * i for i in range(count)],
        stream=[3 + 16 * i for i in range(count)],
        image=[(1 << 32) - 1 - i for i in range(count)],
        sample=[7 * i for i in range(count)],
        segment=[(1, -1, 2, 0, 1)[i % 5] for i in range(count)],
    )


def images_of(colors: int = 3) -> torch.Tensor:
    return torch.rand(2, 32, 32, colors, generator=torch.Generator().manual_seed(5))


def gap(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found.float() - truth.float()).abs().max() / truth.float().abs().max())


def check(host: Any, monkeypatch: pytest.MonkeyPatch, count: int = 3, **options: Any) -> Any:
    """Activations between the kernels, logits and votes; returns the logits."""
    between = list[torch.Tensor]()

    def launch(program: Program, stage: object, blocks: int, *arguments: Any) -> None:
        host.launch(program, stage, blocks, *arguments)
        shape = {"noisy_stage": (16, 32), "inner_stage": (8, 64)}.get(program.kernel, (0, 0))
        size = (count, shape[0], shape[0], shape[1])
        between.extend(a for a in arguments[1:] if not isinstance(a, int) and a.shape == size)

    monkeypatch.setattr(fused, "launch", launch)
    whole, rows, images = made(**options), rows_of(count), images_of(options.get("colors", 3))
    counts = torch.zeros(3, CLASSES + 1, dtype=torch.int64)
    logits = run_kernels(images, rows, KEY, whole, counts, 2)
    blocks = whole.network.blocks
    for found, depth in zip(between, (2, 4), strict=True):
        part = replace(whole.network, blocks=blocks[:depth])
        assert gap(found, resnet_features(images, rows, KEY, part)) <= LIMIT
    assert gap(logits, fused_logits(images, rows, KEY, whole)) <= LIMIT
    kept = torch.where(rows.segment < 2, rows.segment, -1)
    votes = torch.zeros_like(counts)
    reference.vote(logits, kept, votes)
    assert torch.equal(counts, votes)
    return logits


def test_the_kernels_are_the_layers_whatever_the_place(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five rows: the last thread block is partly empty. A row alone has the same logits, and so has
    one in the other launch choice of each stage, with the warps in reverse order."""
    logits = check(host, monkeypatch, 5)
    rows = rows_of(5)
    last = Rows(*(getattr(rows, f.name)[4:].contiguous() for f in fields(rows)))
    host.order = -1
    whole = made(shared=99 * 1024)
    assert [whole.second.stage.stage, whole.last.stage] == [STAGES[2], STAGES[4]]
    counts = torch.zeros(2, CLASSES + 1, dtype=torch.int64)
    alone = run_kernels(images_of(), last, KEY, whole, counts, 2)
    assert torch.equal(alone[0], logits[4])


def test_a_sanitizer_finds_nothing(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    host.checked = True
    check(host, monkeypatch, 1)
    assert not host.faults, host.faults


@pytest.mark.slow
def test_images_of_four_channels_and_deeper_stages(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(host, monkeypatch, colors=4)
    check(host, monkeypatch, blocks=(2, 3, 3))


QUICK = [
    ("sample[row], image[row], stream[row]", "image[row], sample[row], stream[row]"),
    ("tap / 3 * NOISY_LINE + tap % 3 * 8", "tap % 3 * NOISY_LINE + tap / 3 * 8"),
    ("rival < kind", "rival > kind"),
]  # fmt: skip
SLOW = [
    ("2 * from.y + 1) * LINE", "2 * from.y) * LINE"),
    ("slot[row]) * SIZE", "0 * slot[row]) * SIZE"),
    ("__fmaf_rn(sigma[row], z", "__fmaf_rn(sigma[0], z"),
    ("(y == 0) * 2 + (y == SIZE - 1)", "(y == 0) + (y == SIZE - 1) * 2"),
    ("(x == 0) * 2 + (x == SIZE - 1)", "0"),
    ("    clear(noisy, IMAGES * NOISY);\n", ""),
    ("    clear(memory + BUFFER, BUFFER);\n", ""),
    ("p.x * STRIDE + tap % 3", "p.x * STRIDE + tap / 3"),
    ("place(2 * from.x + 1,", "place(2 * from.x,"),
    ("bias + WIDE * 8 + tile", "bias + tile"),
    ("weights + FIRST + SECOND", "weights + FIRST"),
    ("out[(((first + p.image) * HALF", "out[((p.image * HALF"),
    ("place(x + 1, channel / 8)", "place(x, channel / 8)"),
    ("c += 32", "c += classes"),
    ("score += __ldg(bias + c);", ""),
    ("where < segments", "true"),
    ("    make_noise(noisy", "    if (threadIdx.x < 128) make_noise(noisy"),
]
BARRIERS = [
    "    clear(memory, 2 * BUFFER);\n@    make_noise",
    "image, sample, first, rows);\n@",
    "stem(memory, noisy, stem_weights, table);\n@",
    "    clear(noisy, IMAGES * NOISY);\n@",
    "    clear(memory + BUFFER, BUFFER);\n@",
    "        }\n    }\n@#pragma unroll 1",
    "    pool(means, memory);\n@",
]
SLOW += [(b.replace("@", "    __syncthreads();\n"), b.replace("@", "")) for b in BARRIERS]


@pytest.mark.parametrize(
    ("right", "wrong"), [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)]
)
def test_a_broken_kernel_is_noticed(
    host: Any, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str
) -> None:
    """In one order of the warps or the other. Class 33 ties with class 2, which wins."""
    tied = network()
    tied.fc_weight[:, 33] = tied.fc_weight[:, 2]
    tied.fc_bias[2] = tied.fc_bias[33] = 9.0
    monkeypatch.setattr(f"{__name__}.network", lambda **options: tied)
    changed = list[bool]()

    def edit(source: str) -> str:
        changed.append(right in source)
        return source.replace(right, wrong)

    host.edit = edit
    with pytest.raises(AssertionError):  # noqa: PT012
        for order in (1, -1):
            host.order = order
            check(host, monkeypatch)
    assert any(changed)


NORMALS = Program("test_normals", "", ("instructions", "taps", "stage", "normals"))
TEST_NORMALS = """
extern "C" __global__ void test_normals(
    const u32* counter, const u32* key, u32* words, float* z, int n) {
    for (int i = threadIdx.x; i < n; i += WARPS * 32) {
        u32 c[4] = {counter[4 * i], counter[4 * i + 1], counter[4 * i + 2], counter[4 * i + 3]};
        normal_pair(c[0], c[1], z[2 * i], z[2 * i + 1]);
        philox_words(c, key[2 * i], key[2 * i + 1]);
        for (int j = 0; j < 4; ++j) words[4 * i + j] = c[j];
    }
}
"""


def test_words_and_normals_are_those_of_the_stream(host: Any) -> None:
    """Known answers and many counters; normals of the same words, the far tails among them."""
    host.edit = lambda source: source + TEST_NORMALS
    random = np.random.default_rng(1)
    counter = random.integers(0, 1 << 32, (1 << 14, 4), np.uint32)
    counter[:64, 0] = np.arange(64)
    counter[64:128, 0] = 0xFFFFFFFF - np.arange(64, dtype=np.uint32)
    keys = random.integers(0, 1 << 32, (len(counter), 2), np.uint32)
    known = [(c, c["out"]) for c in VECTORS["official"] if c["rounds"] == 10]
    known += [(c, c["r10"]) for c in VECTORS["extra"]]
    for i, (vector, _) in enumerate(known):
        counter[200 + i], keys[200 + i] = (
            [int(word, 16) for word in vector[name]] for name in ("ctr", "key")
        )
    words, z = np.zeros_like(counter), np.zeros((len(counter), 2), np.float32)
    tensors = [torch.from_numpy(a.view(np.int32)) for a in (counter, keys, words)]
    host.launch(NORMALS, STAGES[0], 1, *tensors, torch.from_numpy(z), len(counter))
    answers = [[int(word, 16) for word in answer] for _, answer in known]
    assert words[200 : 200 + len(known)].tolist() == answers
    for i in range(0, len(counter), 97):
        assert np.array_equal(words[i], philox4x32(counter[i], keys[i]))
    u1, u2 = (uniform_from_word(counter[:, j].astype(np.uint64)).astype(float) for j in (0, 1))
    radius, angle = np.sqrt(-2 * np.log(u1)), 2 * math.pi * u2
    exact = np.stack((radius * np.cos(angle), radius * np.sin(angle)), 1)
    assert np.abs(z - exact).max() < 9.6e-7
    host.edit = lambda source: (source + TEST_NORMALS).replace("k0 += 0x9E3779B9u", "k0 += 1u")
    host.launch(NORMALS, STAGES[0], 1, *tensors, torch.from_numpy(z), len(counter))
    assert words[200].tolist() != answers[0]


def test_other_shapes_are_left_to_other_kernels() -> None:
    gray = fold_stem(torch.ones(3, 3, 1, 16), torch.zeros(16), torch.zeros(1), torch.ones(1))
    large = fold_stem(torch.ones(5, 5, 3, 16), torch.zeros(16), torch.zeros(3), torch.ones(3))
    chip = on_chip(network(), 32, 227 * 1024)
    assert chip is not None
    for other in (
        replace(chip, stem=gray),
        replace(chip, stem=large),
        replace(chip, blocks=chip.blocks[1:]),
        replace(chip, blocks=chip.blocks[:3]),
    ):
        assert FusedResNet.fuse(other) is None
