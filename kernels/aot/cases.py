"""Every kernel and launch choice that ships, as data for the ahead-of-time checks."""

import math
from collections.abc import Iterator
from typing import Any

from dualsmooth.kernels.aot.case import Case
from dualsmooth.kernels.launch import (
    PATCHES,
    AffineLaunch,
    ConvLaunch,
    NoiseLaunch,
    PointwiseLaunch,
    StemLaunch,
    StemShape,
    VoteLaunch,
    stem_candidates,
)
from dualsmooth.kernels.triton import affine, conv, noise, pointwise, stem, vote

CIFAR = StemShape(32, 32, 3, 16, 3, 1)
IMAGENET = StemShape(224, 224, 3, 64, 7, 2)
DIGITS = StemShape(8, 8, 1, 16, 3, 1)


def all_cases() -> list[Case]:
    """Every case, in the order of the network."""
    layers = *_conv_cases(), *_pointwise_cases(), *_affine_cases()
    return [*_noise_cases(), *_stem_cases(), *layers, *_vote_cases()]


def _noise_cases() -> Iterator[Case]:
    for label, shape, out, types in (
        ("rgb padded", CIFAR, 4, {}),
        ("gray fp32", DIGITS, 4, {"out": "*fp32"}),
    ):
        choice = NoiseLaunch.choose(shape.blocks)
        constants = dict(STEP=shape.step, OUT_STEP=out, BLOCK=choice.blocks)
        written = shape.blocks * 4 * (4 if types else 2)
        programs = math.ceil(shape.blocks / choice.blocks)
        yield Case(
            f"noise {label}",
            noise.noise_kernel,
            constants,
            choice.warps,
            programs,
            written,
            types=types,
        )
    choice = NoiseLaunch.choose(CIFAR.blocks)
    constants = dict(STEP=3, OUT_STEP=4, STEPS=12, BLOCK=choice.blocks)
    yield Case(
        "integer noise",
        noise.integer_noise_kernel,
        constants,
        choice.warps,
        math.ceil(CIFAR.blocks / choice.blocks),
        CIFAR.blocks * 8,
        types={"images": "*u8"},
    )


def _stem_cases() -> Iterator[Case]:
    plain = {"cifar": CIFAR, "imagenet": IMAGENET, "digits": DIGITS}
    for label, shape in (plain | PATCHES).items():
        for choice in stem_candidates(shape):
            yield _stem_case(label, shape, choice)


def _stem_case(label: str, shape: StemShape, choice: StemLaunch) -> Case:
    constants: dict[str, Any] = shape.constants | dict(
        RELU=True, PIXELS=choice.pixels, CHUNK=choice.chunk
    )
    outputs = shape.out_height * shape.out_width
    programs = math.ceil(outputs / choice.pixels)
    if choice.design == "stored":
        constants["OUTPUTS"] = min(choice.outputs, 1 << (shape.outputs - 1).bit_length())
        programs *= math.ceil(shape.outputs / constants["OUTPUTS"])
    if choice.design == "tile":
        blocks = choice.strip_blocks(shape)
        constants |= dict(TILE_ROWS=choice.tile_rows, BLOCKS=blocks)
        programs = math.ceil(shape.out_height / choice.tile_rows)
    read = shape.height * shape.width * shape.lanes * 2 if choice.design == "stored" else 0
    kernels = dict(tile=stem.stem_tile_kernel, stored=stem.stem_stored_kernel)
    suffix = f" {choice.tile_rows} rows" if choice.design == "tile" else ""
    return Case(
        f"stem {label} {choice.design}{suffix}",
        kernels[choice.design],
        constants,
        choice.warps,
        programs,
        outputs * shape.outputs * 2 + read,
        2 * outputs * shape.kernel**2 * shape.channels * shape.outputs,
        mma=True,
        straight=shape.kernel < 16,
    )


def _conv_cases() -> Iterator[Case]:
    """Size is of the input; kinds: plain, residual, or projection from the block's input."""
    for cin, cout, size, stride, kind in (
        (16, 16, 32, 1, "plain"),
        (16, 16, 32, 1, "residual"),
        (16, 32, 32, 2, "plain"),
        (32, 32, 16, 1, "residual"),
        (32, 32, 16, 1, "projection"),
        (32, 64, 16, 2, "plain"),
        (64, 64, 8, 1, "residual"),
        (64, 64, 8, 1, "projection"),
    ):
        source = cin // 2 if kind == "projection" else 0
        yield _conv_case(cin, cout, size, stride, 3, kind, source)
    yield _conv_case(32, 64, 16, 2, 1, "plain", 0)


def _conv_case(
    cin: int, cout: int, size: int, stride: int, kernel: int, kind: str, source: int
) -> Case:
    choice = ConvLaunch.choose(cout)
    outputs = (size // stride) ** 2
    constants = dict(
        HEIGHT=size,
        WIDTH=size,
        CIN=cin,
        COUT=cout,
        KERNEL=kernel,
        STRIDE=stride,
        RESIDUAL=kind == "residual",
        SOURCE=source,
        SOURCE_STRIDE=2 if source else 1,
        RELU=True,
        PIXELS=choice.pixels,
    )
    values = size * size * cin + outputs * cout * (2 if kind == "residual" else 1)
    return Case(
        f"conv {kernel}x{kernel} {cin}-{cout} {size}px s{stride} {kind}",
        conv.conv_kernel,
        constants,
        choice.warps,
        outputs / choice.pixels,
        2 * (values + outputs * source),
        2 * outputs * cout * (kernel**2 * cin + source),
        mma=True,
    )


POINTWISE = ((64, 256, 56, 1), (256, 64, 56, 1), (256, 512, 56, 2))
"""Inputs, outputs, image side and stride of 1x1 convolutions of ResNet-50."""


def _pointwise_cases() -> Iterator[Case]:
    for cin, cout, size, stride in POINTWISE:
        residual, outputs = cin < cout and stride == 1, (-(-size // stride)) ** 2
        for number, choice in enumerate(PointwiseLaunch.candidates(cin, cout)):
            constants = dict(HEIGHT=size, WIDTH=size, CIN=cin, COUT=cout, STRIDE=stride)
            constants |= dict(RESIDUAL=residual, RELU=True, PIXELS=choice.pixels)
            constants |= dict(OUTPUTS=choice.outputs, CHUNK=choice.chunk)
            yield Case(
                f"pointwise {cin}-{cout} {size}px s{stride} choice {number}",
                pointwise.pointwise_kernel,
                constants,
                choice.warps,
                outputs / choice.pixels * (cout / choice.outputs),
                2 * outputs * (cin + cout * (1 + residual)),
                2 * outputs * cin * cout,
                mma=True,
                straight=False,
                stages=choice.stages,
            )


def _affine_cases() -> Iterator[Case]:
    """Sums of WRN-28-10 with norm, a norm of DenseNet-121, and one with more than 2^31 values."""
    for name, channels, pixels, sums, values in (
        ("sum 160", 160, 1024, True, "i32"),
        ("sum 640", 640, 64, True, "i32"),
        ("norm 352", 352, 784, False, "i32"),
        ("sum 24", 24, 3136, True, "i32"),
        ("sum 160 huge", 160, 1024, True, "i64"),
    ):
        choice = AffineLaunch()
        constants = dict(CHANNELS=channels, SUM=sums, BIAS=sums, NORM=True, KEEP=sums, RELU=True)
        sizes = dict(WIDTH=choice.width, ROWS=choice.rows, PERIOD=choice.period(channels))
        yield Case(
            f"affine {name}",
            affine.affine_kernel,
            constants | sizes,
            choice.warps,
            channels * pixels / (choice.width * choice.rows),
            channels * pixels * 2 * (4 if sums else 2),
            types={"values": values},
            even=("values",),
            fusion=False,
        )


def _vote_cases() -> Iterator[Case]:
    for label, classes, spatial, channels, kind in (
        ("cifar", 10, 64, 64, "*bf16"),
        ("imagenet", 1000, 49, 2048, "*bf16"),
    ):
        choice = VoteLaunch.choose(classes, channels)
        sizes = choice.constants(classes)
        head = dict(SPATIAL=spatial, CHANNELS=channels, CHUNK=choice.chunk)
        programs = 1 / (choice.rows * choice.tiles)
        flop = channels * (spatial + 2 * classes)
        yield Case(
            f"vote {label}",
            vote.vote_kernel,
            sizes | head,
            choice.warps,
            programs,
            2 * spatial * channels,
            flop,
            mma=kind == "*bf16",
            straight=False,
            types={"weight": kind},
        )
        if label == "cifar":
            yield Case(
                f"vote logits {label}",
                vote.vote_logits_kernel,
                sizes,
                choice.warps,
                programs,
                4 * classes,
                straight=False,
            )
