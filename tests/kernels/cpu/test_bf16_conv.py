"""The compiled bfloat16 loops, under an emulation of their instructions, against a definition in
NumPy that takes every sum in the same order: every bit.
"""

import dataclasses
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dualsmooth.kernels.cpu import bf16_conv
from dualsmooth.kernels.cpu.bf16_conv import Bf16Chain, convolution, maximum
from dualsmooth.kernels.cpu.compiled import compiled
from dualsmooth.kernels.cpu.maps import TILES, Step
from dualsmooth.kernels.errors import KernelArgumentError

Array = NDArray[np.float32]
Emulate = Callable[..., None]
STEP = re.compile(r"(max|\d+) (\d)x(\d) stride (\d) pad (\d)(?: of (\d))?(?: plus (\d))?( relu)?")
NORMALIZE = (torch.tensor([0.4, 0.5, 0.3]), torch.tensor([0.2, 0.3, 0.25]))
WAYS = pytest.mark.parametrize("tiled", [False, True], ids=["vdpbf16ps", "AMX"])

CASES: dict[str, tuple[tuple[int, int, int], list[str]]] = {
    "color image": ((9, 7, 3), ["16 3x3 stride 1 pad 1 relu", "max 3x3 stride 2 pad 1 of 1"]),
    "grey image, stride 2": ((8, 8, 1), ["32 3x3 stride 2 pad 1", "40 3x3 stride 1 pad 0 of 1"]),
    "odd channels": ((7, 11, 5), ["21 3x3 stride 1 pad 1", "7 3x3 stride 2 pad 1 of 1 relu"]),
    "kernel of 5 and maximum": (
        (13, 12, 1),
        ["6 5x5 stride 1 pad 2", "max 2x2 stride 2 pad 0 of 1", "16 5x5 stride 1 pad 0 of 2"],
    ),
    "stem of 7, padded maximum": (
        (15, 13, 3),
        [
            "64 7x7 stride 2 pad 3 relu",
            "max 3x3 stride 2 pad 1 of 1",
            "64 1x1 stride 1 pad 0 of 2 relu",
            "16 1x1 stride 1 pad 0 of 3",
        ],
    ),
    "blocks": (
        (9, 10, 3),
        [
            "16 3x3 stride 1 pad 1 relu",
            "16 3x3 stride 1 pad 1 of 1 relu",
            "16 3x3 stride 1 pad 1 of 2 plus 1 relu",
            "32 1x1 stride 2 pad 0 of 3",
            "32 3x3 stride 2 pad 1 of 3 relu",
            "32 3x3 stride 1 pad 1 of 5 plus 4",
            "48 3x3 stride 1 pad 1 of 6 relu",
        ],
    ),
    "linear layers": (
        (4, 4, 16),
        [
            "64 3x3 stride 2 pad 1 relu",
            "128 2x2 stride 1 pad 0 of 1 relu",
            "84 1x1 stride 1 pad 0 of 2",
            "84 1x1 stride 1 pad 0 of 3 plus 3",
        ],
    ),
    "lines of 16 and 20": (
        (3, 20, 32),
        ["32 3x3 stride 1 pad 1 relu", "16 3x5 stride 1 pad 0 of 1", "32 3x3 stride 1 pad 1 of 2"],
    ),
    "lines of 7 and 14": (
        (3, 14, 32),
        ["16 3x3 stride 1 pad 1", "64 3x3 stride 2 pad 1 of 1", "10 3x3 stride 1 pad 1 of 2"],
    ),
}


CANCEL = "sums that cancel"
"""The case whose results are nothing but rounding, so that they show the order of sums."""
CASES[CANCEL] = ((3, 20, 32), ["40 3x3 stride 1 pad 1"])


def steps_of(name: str, seed: int = 0) -> list[Step]:
    (_, _, channels), texts = CASES[name]
    draw, steps, made = torch.Generator().manual_seed(seed), list[Step](), [channels]
    for text in texts:
        found = STEP.fullmatch(text)
        assert found is not None, text
        kind, height, width, stride, pad, read, added, relu = found.groups()
        window = ((int(height), int(width)), int(stride), (int(pad), int(pad)))
        inputs = made[int(read or 0)]
        if kind == "max":
            steps.append(maximum(int(read), window, inputs))
        else:
            shape = (int(kind), inputs, *window[0])
            weight = torch.randn(shape, generator=draw) / (inputs * window[0][0]) ** 0.5
            bias = torch.randn(len(weight), generator=draw)
            if name == CANCEL:
                weight[:, 16:], bias = -weight[:, :16], 0 * bias
            plus = None if added is None else int(added)
            steps.append(convolution(int(read or 0), plus, window, weight, bias, relu=bool(relu)))
        made.append(len(steps[-1].rim))
    return steps


def images(name: str, rows: int = 5) -> torch.Tensor:
    pixels = torch.randn(rows, *CASES[name][0], generator=torch.Generator().manual_seed(1))
    pixels[0] *= 1e3
    if name == CANCEL:
        pixels[..., 16:] = pixels[..., :16]
    return pixels.permute(0, 3, 1, 2).bfloat16()


def chain(name: str, tiled: bool, **how: Any) -> Bf16Chain:
    normalize = NORMALIZE if CASES[name][0][2] == 3 else None
    return Bf16Chain(steps_of(name, **how), CASES[name][0], normalize, tiled=tiled)


def fused(a: Array, b: Array, sums: Array) -> Array:
    """a * b + sums rounded once, of bfloat16 a and b: exact to an odd bit, then to float32."""
    with np.errstate(all="ignore"):
        product, other = a.astype(np.float64) * b, sums.astype(np.float64)
        total = product + other
        back = total - product
        lost = (product - (total - back)) + (other - back)
        bits = total.view(np.int64)
        away = np.where((lost > 0) == (total > 0), 1, -1)
        total = (bits + np.where((np.abs(lost) > 0) & (bits % 2 == 0), away, 0)).view(np.float64)
        return flushed(total.astype(np.float32))


@cache
def known(name: str, tiled: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, one of them with a pixel that is no number, and what a chain makes of them."""
    x = images(name, 5)
    x[3, :, 1, 5] = float("nan")
    return x, definition(name, x, chain(name, tiled))


def flushed(values: Array) -> Array:
    small = np.abs(values) < np.float32(2.0**-126)
    return np.where(small, np.copysign(np.float32(0), values), values)


def sums_of(read: Array, step: Step, tiled: bool) -> Array:
    """Sums of products in the order of the instructions."""
    assert step.weight is not None
    weight = step.weight.float().permute(2, 3, 1, 0).numpy()  # (height, width, channels, outputs)
    (height, width), (above, left), s = step.kernel, step.padding, step.stride
    padded = np.pad(read, ((0, 0), (above, above), (left, left), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
    lines = windows[:, ::s, ::s].transpose(0, 1, 2, 4, 5, 3)
    lines = lines.reshape(*lines.shape[:4], -1, 1)
    taps = weight.reshape(height, -1, weight.shape[-1])
    total = np.zeros((*lines.shape[:3], weight.shape[-1]), np.float32)
    for y in range(height):
        line, values = lines[:, :, :, y], taps.shape[1]
        for first in range(0, values, 32) if tiled else ():
            parts = [np.zeros_like(total), np.zeros_like(total)]
            for k in range(first, min(first + 32, values)):
                parts[k % 2] = fused(line[:, :, :, k], taps[y, k], parts[k % 2])
            total = flushed(total + flushed(parts[0] + parts[1]))
        for k in () if tiled else range(values + values % 2):
            if k ^ 1 < values:
                total = fused(line[:, :, :, k ^ 1], taps[y, k ^ 1], total)
    return total


def definition(name: str, x: torch.Tensor, made: Bf16Chain) -> torch.Tensor:
    """What the chain must give; it says itself which convolutions AMX computes."""
    mean, deviation = bf16_conv._normalize(made_for(name), CASES[name][0][2])
    image = (x.permute(0, 2, 3, 1).float() - mean) / deviation
    maps = [image.bfloat16().float().numpy()]
    for step, layer in zip(steps_of(name), made._layers, strict=True):
        if step.weight is None:
            whole = torch.from_numpy(maps[step.read]).permute(0, 3, 1, 2)
            most = torch.nn.functional.max_pool2d(whole, step.kernel, step.stride, step.padding)
            maps.append(most.permute(0, 2, 3, 1).numpy())
            continue
        assert step.bias is not None
        value = sums_of(maps[step.read], step, bool(layer.tiled)) + step.bias.numpy()
        if step.added is not None:
            value = value + maps[step.added]
        kept = torch.from_numpy(value)
        maps.append((torch.relu(kept) if step.relu else kept).bfloat16().float().numpy())
    return torch.from_numpy(maps[-1]).permute(0, 3, 1, 2)


def made_for(name: str) -> Any:
    return NORMALIZE if CASES[name][0][2] == 3 else None


@WAYS
@pytest.mark.parametrize("name", CASES)
def test_the_loops_give_the_bits_of_the_definition(
    name: str, tiled: bool, emulated: Emulate
) -> None:
    loops, x = chain(name, tiled), images(name)
    wanted = definition(name, x, loops)
    assert torch.equal(loops(x), wanted)
    assert len(np.unique(wanted.numpy())) > 60, "the case has few values"


def test_the_definition_rounds_once() -> None:
    """2^24 + 1 + 2^-30 is nearer to 2^24 + 2, which two roundings miss."""
    ones = np.ones(1, np.float32)
    small = np.float32(2.0**-30) * ones
    assert fused(ones, 16777216 * ones, ones) == 16777216
    assert np.float32(np.float64(2**24) + 1) == 16777216
    near = np.nextafter(np.float32(1), np.float32(2)) * ones
    assert fused(small * 0 + 1, near * 0 + 1, small) == 1
    assert fused(ones * 256, ones * 65536, ones + 2**-20) == 16777218


@WAYS
def test_every_tile_is_tried_and_so_is_every_way(tiled: bool, emulated: Emulate) -> None:
    layers = [layer for name in CASES for layer in chain(name, tiled)._layers if layer.vectors]
    if tiled:
        layers = [layer for layer in layers if layer.tiled]
        assert {layer.pixels for layer in layers} >= {5, 7, 10, 14}
        assert {layer.vectors for layer in layers} == {1, 2}
        assert {layer.steps % 16 > 0 for layer in layers} == {True, False}
    else:
        assert {(layer.pixels, layer.vectors) for layer in layers} == set(TILES)
        assert {layer.half for layer in layers} == {0, 1}


@WAYS
@pytest.mark.parametrize("name", ["blocks", "linear layers", "grey image, stride 2"])
def test_a_row_has_the_same_bits_in_every_batch(name: str, tiled: bool, emulated: Emulate) -> None:
    loops = chain(name, tiled)
    x = images(name, loops._rows + 20)
    together = loops(x)
    assert torch.equal(loops(x.flip(0)).flip(0), together)
    assert torch.equal(loops(x.contiguous()), together)
    assert torch.equal(torch.cat([loops(row[None]) for row in x[:12]]), together[:12])
    beside = x.clone()
    beside[1::2] = float("nan")
    found = loops(beside)
    assert torch.equal(found[::2], together[::2])
    assert found[1::2].isnan().all()


@WAYS
def test_what_is_no_number_reaches_the_last_map(tiled: bool, emulated: Emulate) -> None:
    for name in CASES:
        loops, x = chain(name, tiled), images(name, 4)
        x[1, 0], x[2, :, 1, 3] = float("nan"), float("inf")
        found, wanted = loops(x), definition(name, x, loops)
        assert found[1].isnan().all(), name
        assert torch.equal(found.nan_to_num(7.0), wanted.nan_to_num(7.0)), name
        assert found[0::3].isfinite().all()


def test_nothing_beyond_a_kernel_is_read(emulated: Emulate) -> None:
    """Only outputs whose windows hold the pixel that is no number have none."""
    for name in ("color image", "grey image, stride 2", "odd channels"):
        (height, width, channels), _ = CASES[name]
        step = steps_of(name)[:1]
        x = images(name)
        x[:, :, 4, 5] = float("nan")
        found = Bf16Chain(step, (height, width, channels), tiled=False)(x).isnan()
        ones = torch.zeros(1, 1, height, width)
        ones[:, :, 4, 5] = 1
        weight, stride = torch.ones(1, 1, *step[0].kernel), step[0].stride
        touched = torch.nn.functional.conv2d(ones, weight, None, stride, 1)[0, 0] > 0
        assert torch.equal(found, touched.expand_as(found))


BROKEN = {
    "wrong pair order": (
        "_mm512_dpbf16_ps(sums, (__m512bh)(weights), (__m512bh)(values))",
        "_mm512_dpbf16_ps(_mm512_dpbf16_ps(sums, _mm512_slli_epi32((__m512i)"
        "(weights), 16) , _mm512_slli_epi32(values, 16)), _mm512_and_si512("
        "weights, _mm512_set1_epi32(0xffff0000)), values)",
    ),
    "half a step dropped": ("if (VALUE > 1 && l->half) {", "if (0) {"),
    "half a step read whole": ("pixels, vectors, STEP / 2);", "pixels, vectors, STEP);"),
    "border missing": ("frame(&l->out, here, constants, scratch);", ";"),
    "rounded to zero": (
        "_mm512_cvtneps_pbh(values))",
        "_mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(values), 16)))",
    ),
    "shortcut of another pixel": (
        "shortcut + p * s->shortcut_pixel + k * VALUE",
        "shortcut + (p ^ 1) * s->shortcut_pixel + k * VALUE",
    ),
    "ReLU hides NaN": (
        "_mm512_max_ps(_mm512_setzero_ps(), value)",
        "_mm512_max_ps(value, _mm512_setzero_ps())",
    ),
    "maximum hides NaN": (
        "_mm512_mask_mov_ps(_mm512_max_ps(a, b), nan, a)",
        "(void)nan, _mm512_max_ps(a, b)",
    ),
    "no bias": ("_mm512_add_ps(sums[p * vectors], bias)", "sums[p * vectors]"),
    "ReLU always": ("if (l->relu) value", "value"),
    "rows of the last group": ("rows - first < group ? rows - first : group", "1"),
    "end of a line dropped": (
        "if (i == l->steps) continue;",
        "if (i) { weight += (l->steps - i) * line; continue; }",
    ),
    "weights of the first vector": (
        "_tile_loadd(4, weight + BLOCK, line);",
        "_tile_loadd(4, weight, line);",
    ),
    "sums kept": ("_tile_zero(0);", "if (!x) _tile_zero(0);"),
    "mean left out": ("_mm512_maskz_loadu_ps(mask, mean + x))", "_mm512_setzero_ps())"),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", BROKEN)
def test_a_broken_variant_is_noticed(variant: str, emulated: Emulate) -> None:
    """By the tests above, and by the proof before the first use, but for the order of sums."""
    names = ("color image", "kernel of 5 and maximum", "blocks", "lines of 16 and 20", CANCEL)
    emulated("bf16", *BROKEN[variant])
    wrong = []
    for name in names:
        for tiled in (False, True):
            x, wanted = known(name, tiled)
            found = chain(name, tiled)(x)
            same = (found == wanted) | (found.isnan() & wanted.isnan())
            wrong.append(not same.all())
    assert any(wrong)
    if variant != "wrong pair order":
        assert bf16_conv.trouble() or bf16_conv.trouble(tiled=True)


def test_the_proof_lets_the_right_loops_pass(emulated: Emulate) -> None:
    assert bf16_conv.available()
    assert not bf16_conv.trouble(tiled=True)
    assert any(layer.tiled for layer in Bf16Chain(steps_of("blocks"), (9, 10, 3))._layers)


def test_whole_numbers_of_the_proof_have_exact_sums() -> None:
    """No sum of magnitudes reaches 2^24, so every order of float32 additions is exact."""
    steps, normalize = bf16_conv._known_chain(torch.Generator().manual_seed(0), True)
    x = torch.full((1, 3, 6, 9), 4.0).bfloat16()
    magnitudes = [
        Step(
            s.read,
            s.added,
            s.kernel,
            s.stride,
            s.padding,
            s.rim,
            None if s.weight is None else s.weight.abs(),
            None if s.bias is None else s.bias.abs(),
            relu=s.relu,
        )
        for s in steps
    ]
    largest = (normalize[0].abs().neg(), normalize[1])
    for count in range(1, len(steps) + 1):
        found = bf16_conv.by_definition(magnitudes[:count], x, largest)
        assert float(found.max()) < 2**24


def test_without_the_instructions_the_reason_is_told(emulated: Emulate) -> None:
    emulated("bf16", "return has_tiles() ? 3 : 1;", "return has_tiles() ? 1 : 1;")
    assert bf16_conv.available()
    assert bf16_conv.trouble(tiled=True).endswith("has no AMX")
    emulated("bf16", "return has_tiles() ? 3 : 1;", "return has_tiles() ? 0 : 1;")
    assert bf16_conv.trouble().endswith("has no AVX512-BF16")
    emulated("bf16", "#define BUILT\n", "")  # a compiler that does not know them
    assert bf16_conv.trouble().endswith("has no AVX512-BF16")
    assert not bf16_conv.available()


def test_what_does_not_fit_is_refused(emulated: Emulate) -> None:
    loops, steps = chain("blocks", False), steps_of("blocks")
    with pytest.raises(KernelArgumentError, match=r"x must be bfloat16 \(rows, 3, 9, 10\)"):
        loops(torch.zeros(2, 3, 9, 11).bfloat16())
    with pytest.raises(KernelArgumentError, match="x must be bfloat16"):
        loops(torch.zeros(2, 3, 9, 10))
    with pytest.raises(KernelArgumentError, match="shortcut must be"):
        Bf16Chain(
            [*steps[:4], dataclasses.replace(steps[2], read=3, added=4)], (9, 10, 3), tiled=False
        )


def inner_loops(code: list[tuple[int, str]]) -> list[list[str]]:
    """Instructions between where a jump leads back to and that jump, without a jump in between."""
    at = {address: number for number, (address, _) in enumerate(code)}
    found = []
    for number, (_, text) in enumerate(code):
        jump = re.match(r"j\w+ +([0-9a-f]+)", text)
        start = at.get(int(jump[1], 16), number) if jump else number
        body = [line for _, line in code[start:number]]
        if body and not any(re.match(r"j\w+ ", line) for line in body):
            found.append(body)
    return found


def test_the_build_multiplies_in_registers() -> None:
    """Inner loops hold the instructions; they write no memory and read no sums from the stack."""
    library, objdump = compiled("bf16_conv"), shutil.which("objdump")
    if library is None or objdump is None:
        pytest.skip("needs the built loops and objdump")
    command = [objdump, "-d", "--no-show-raw-insn", "-M", "intel", library._name]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "vdpbf16ps" not in text:
        pytest.skip("the compiler or the processor's kind has no such instructions")
    code = [(int(at, 16), line) for at, line in re.findall(r"^ +([0-9a-f]+):\t(.+)$", text, re.M)]
    loops = [body for body in inner_loops(code) if any("dpbf16ps" in line for line in body)]
    products = [[line for line in body if "dpbf16ps" in line] for body in loops]
    assert {len(lines) for lines in products} >= {1, 2, 8, 14, 16}
    for body, lines in zip(loops, products, strict=True):
        assert all(re.match(r"vdpbf16ps zmm|tdpbf16ps tmm", line) for line in lines)
        assert not [line for line in body if re.search(r"zmm.*\[r[sb]p|^\w+ +\w+ PTR", line)]
