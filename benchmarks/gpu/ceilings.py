"""Contests of variants, ceilings of a device, and cuDNN's rates beside predictions.

They decide which program of a network can be the fastest: one that reads every activation nine
times through the L2 cache cannot beat what the cache delivers.
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from time import perf_counter
from typing import Any

import torch
import triton
import triton.language as tl

from dualsmooth.benchmarks.gpu import kernels, layers
from dualsmooth.benchmarks.gpu.certify import compare_dual
from dualsmooth.benchmarks.gpu.checks import gates, machine
from dualsmooth.benchmarks.gpu.gate import CUDNN, KERNELS, ON_CHIP, POINTWISE, require
from dualsmooth.benchmarks.gpu.gate import STAGES as STAGES_CHECKED
from dualsmooth.benchmarks.gpu.items import Item, Place, Turn
from dualsmooth.engine.samplers.passes import reproducible
from dualsmooth.kernels import ops, reference
from dualsmooth.kernels.cuda.residual_stage import pack_weights, residual_stage
from dualsmooth.kernels.cuda.stages import STAGES, Stage, shared_memory

PREDICTED = {(16, 32): (414e-6, 125e-6), (32, 16): (219e-6, 62e-6), (64, 8): (122e-6, 31e-6)}
"""(channels, side) -> seconds of a 3x3 convolution of 8,192 images, computed for an H200: if the
nine reads of an input are bound by the L2 cache (6.2e12 bytes/s), and if by device memory."""

VARIANTS = (
    Stage(16, 32, pitch=34, images=1, warps=8, rows=8, tiles=2, resident=2),
    Stage(16, 32, pitch=34, images=1, warps=4, rows=8, tiles=2, resident=3),
    Stage(32, 16, pitch=18, images=2, warps=8, rows=16, tiles=1, resident=2),
    Stage(32, 16, pitch=18, images=1, warps=4, rows=8, tiles=1, resident=5),
    Stage(64, 8, pitch=10, images=4, warps=8, rows=8, tiles=1, resident=1),
    Stage(64, 8, pitch=10, images=2, warps=8, rows=8, tiles=1, resident=2),
)
"""Launch choices that take less shared memory and were never timed; none spills."""

BATCH, ROUNDS = 8192, 30


def seconds_of(call: Callable[[], object], place: Place, rounds: int = ROUNDS) -> float:
    """Median time of a call on the device, after three untimed ones."""
    times = list[float]()
    for round_ in range(rounds + 3):
        if place.device.type == "cuda":
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            call()
            stop.record()
            stop.synchronize()
            taken = start.elapsed_time(stop) / 1e3
        else:
            begin = perf_counter()
            call()
            taken = perf_counter() - begin
        if round_ >= 3:
            times.append(taken)
    return statistics.median(times)


def copy_rate(turn: Turn) -> dict[str, float]:
    """Device to device, bytes read plus written per second; large, and larger than any cache."""
    place = turn.place
    source = torch.randn(1 << (10 if place.tiny else 30), device=place.device).bfloat16()
    target = torch.empty_like(source)
    target.copy_(source)
    require("values that a copy changes", float((target != source).sum()), 0)
    taken = seconds_of(lambda: target.copy_(source), place)
    return {"bytes_per_s": 4 * source.numel() / taken, "seconds": taken}


def matrix_rate(turn: Turn) -> dict[str, float]:
    """bf16 products of random matrices; a few rows are compared with float64 first."""
    place, n = turn.place, 64 if turn.place.tiny else 8192
    a, b = (torch.randn(n, n, device=place.device).bfloat16() for _ in range(2))
    truth = a[:8].double() @ b.double()
    error = float(((a @ b)[:8].double() - truth).norm() / truth.norm())
    require("relative error of the product", error, 1e-2)
    taken = seconds_of(lambda: a @ b, place)
    return {"flop_per_s": 2 * n**3 / taken, "seconds": taken, "error": error}


def cache_rate(turn: Turn) -> dict[str, float]:
    """Reads of a 16 MB buffer by every multiprocessor at once, past L1."""

    place, block = turn.place, 4096
    blocks, passes = (2, 1) if place.tiny else (1024, 2)
    programs = 2 if place.device.type == "cpu" else 8 * _multiprocessors(place)
    top = 1 << 17  # the interpreter adds few blocks without a carry
    x = torch.randint(-top, top, (block * blocks,), dtype=torch.int32, device=place.device)
    out = torch.zeros(programs, dtype=torch.int32, device=place.device)

    def read() -> None:
        sizes = dict(BLOCK=block, BLOCKS=blocks, PASSES=passes)
        read_kernel[(programs,)](x, out, **sizes, num_warps=8)

    read()
    truth = (int(x.long().sum()) * passes + (1 << 31)) % (1 << 32) - (1 << 31)
    require("sums that differ", float((out != truth).sum()), 0)
    taken = seconds_of(read, place, 10)
    return {"bytes_per_s": 4.0 * block * blocks * passes * programs / taken, "seconds": taken}


def _multiprocessors(place: Place) -> int:
    return int(torch.cuda.get_device_properties(place.device).multi_processor_count)


def launch_gap(turn: Turn) -> dict[str, float]:
    """Time per tiny kernel, one after the other: launched by the host, and as a graph."""
    place, count = turn.place, 10 if turn.place.tiny else 2000
    word = torch.zeros(1, dtype=torch.int32, device=place.device)

    def work() -> None:
        for _ in range(count):
            word.add_(1)

    replay = place.stream().capture(work)
    place.synchronize()
    before = int(word)
    replay()
    place.synchronize()
    require("launches missing", float(before + count - int(word)), 0)
    direct = seconds_of(work, place, 10) / count

    def wait() -> None:
        replay()
        place.synchronize()

    start = perf_counter()
    for _ in range(10):
        wait()
    return {"launched_s": direct, "in_graph_s": (perf_counter() - start) / 10 / count}


def convolutions(channels: int, side: int, turn: Turn) -> dict[str, Any]:
    """A 3x3 convolution in bf16, channels-last: cuDNN plain, with its ReLU and sum, and ours."""
    place = turn.place
    batch = 4 if place.tiny else BATCH
    x = torch.randn(batch, side, side, channels, device=place.device).bfloat16()
    z = torch.randn_like(x)
    weight = (torch.randn(3, 3, channels, channels, device=place.device) / 20).bfloat16()
    kernel = weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    bias = torch.randn(channels, device=place.device)
    image, half, geometry = x.permute(0, 3, 1, 2), bias.bfloat16(), ([1, 1], [1, 1], [1, 1], 1)
    aten, other = torch.ops.aten, z.permute(0, 3, 1, 2)
    plain = partial(torch.nn.functional.conv2d, image, kernel, None, 1, 1)
    calls: dict[str, Callable[[], torch.Tensor]] = {"cudnn": plain}
    if turn.passed(CUDNN):
        relu, add_relu = aten.cudnn_convolution_relu, aten.cudnn_convolution_add_relu
        calls["cudnn relu"] = partial(relu, image, kernel, half, *geometry)
        calls["cudnn add relu"] = partial(add_relu, image, kernel, other, 1.0, half, *geometry)
    if turn.passed(*KERNELS):
        calls["triton relu"] = partial(ops.conv, x, weight, bias)
        calls["triton add relu"] = partial(ops.conv, x, weight, bias, residual=z)
    truth = reference.conv(x[:2], weight, bias, relu=False) - bias
    flop, least = 18.0 * x.numel() * channels, 4.0 * x.numel()
    slow, fast = PREDICTED[channels, side]
    found: dict[str, Any] = {"predicted_s": {"bound by L2": slow, "bound by memory": fast}}
    for name, call in calls.items():
        with reproducible():
            if name == "cudnn":
                gap = (call()[:2].permute(0, 2, 3, 1).float() - truth).abs().max()
                require("relative error", float(gap / truth.abs().max()), 2.0**-7)
            taken = seconds_of(call, place)
        moved = least + (2.0 * x.numel() if "add" in name else 0.0)
        found[name] = {
            "seconds": taken,
            "flop_per_s": flop / taken,
            "bytes_per_s": moved / taken,
            "of the L2 prediction": slow / taken,
        }
    return found


def label(which: Stage) -> str:
    """A launch choice in few words."""
    return " ".join(f"{name} {value}" for name, value in asdict(which).items())


def stages(turn: Turn) -> dict[str, Any]:
    """The on-chip residual stage, eight blocks of two convolutions, by launch choice."""
    place, blocks, found = turn.place, 8, dict[str, Any]()
    shared = shared_memory(place.device)
    for which in (*STAGES, *VARIANTS):
        if which.shared > shared or turn.left() < 0:
            found[label(which)] = "not run: too little shared memory or time, or no CuPy"
            continue
        c = which.channels
        x = torch.randn(BATCH, which.size, which.size, c, device=place.device).bfloat16()
        weight = torch.randn(2 * blocks, 3, 3, c, c, device=place.device) / (6 * c**0.5)
        packed, bias = pack_weights(weight), torch.randn(2 * blocks, c, device=place.device) / 10
        taken = seconds_of(partial(residual_stage, x, packed, bias, which), place)
        flop = 2 * blocks * 18.0 * x.numel() * c
        found[label(which)] = {
            "seconds_per_convolution": taken / (2 * blocks),
            "flop_per_s": flop / taken,
        }
        turn.keep(found)
    return found


def items(place: Place) -> list[Item]:
    """Contests of variants, then dual smoothing, ceilings and convolutions: what was checked."""
    found = [Item("machine", machine, limit=10, beside=True), *gates(place)]
    if place.device.type == "cuda":
        found.append(Item("1x1 compiled", layers.fill, limit=65, beside=True))
        chip = partial(kernels.on_random_weights, kernels.on_chip_kernels)
        every = partial(kernels.on_random_weights, kernels.noise_and_layers)
        found.append(
            Item("ResNet-50's layers", layers.layer_by_layer, (POINTWISE, CUDNN), limit=30)
        )
        found.append(Item("on-chip times", chip, ON_CHIP, limit=25))
        found.append(Item("kernel times", every, KERNELS, limit=30))
        found.append(Item("on-chip choices", stages, (STAGES_CHECKED,), limit=20))
    found.append(Item("dual against fixed", compare_dual, limit=15))
    found.append(Item("ceiling: L2 reads", cache_rate, limit=8))
    found.append(Item("ceiling: launch gap", launch_gap, limit=8))
    for channels, side in PREDICTED:
        name = f"convolution {channels} channels, {side} pixels"
        work, uses = partial(convolutions, channels, side), (CUDNN, *KERNELS)
        if place.device.type == "cpu":
            uses = KERNELS
        found.append(Item(name, work, uses=uses, limit=6))
    return found


@triton.jit  # type: ignore[untyped-decorator]
def read_kernel(  # type: ignore[no-untyped-def]
    x,  # int32 [BLOCK * BLOCKS]
    out,  # int32 [programs]
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    PASSES: tl.constexpr,
):
    """Every program reads the whole buffer, past L1, PASSES times, and adds it up modulo 2^32."""
    start = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.int32)
    for step in range(BLOCKS * PASSES):
        block = (start + step) % BLOCKS
        at = block * BLOCK + tl.arange(0, BLOCK)
        total += tl.load(x + at, cache_modifier=".cg")
    tl.store(out + start, tl.sum(total, axis=0))
