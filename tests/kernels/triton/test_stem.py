"""Every stem design equals conv(x + sigma * noise) of the specification, borders included."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from dualsmooth.engine.noise.stream import counter_word3, standard_normal
from dualsmooth.kernels import ops
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.folding import FoldedStem, fold_stem
from dualsmooth.kernels.launch import StemLaunch, StemShape, modelled_slots, stem_candidates
from dualsmooth.kernels.rows import Rows, seed_key
from tests.kernels.conftest import Edit

SEED, SIGMAS, IMAGE_IDS, SAMPLES = (9 << 32) | 5, [0.25, 1.0, 0.0], [4, 1 << 31, 9], [0, 3, 77]
SLOTS, PHASES = [1, 0, 1], [2, 3 + 32, 3]
SHAPES = {
    "digits": StemShape(8, 8, 1, 16, 3, 1),
    "odd gray": StemShape(7, 5, 1, 16, 3, 1),
    "odd RGB": StemShape(6, 7, 3, 16, 3, 1),
    "RGBA": StemShape(4, 5, 4, 16, 3, 1),
    "one pixel": StemShape(1, 1, 3, 16, 3, 1),
    "7x7 stride 2": StemShape(11, 12, 3, 16, 7, 2),
    "7x7 smaller than the kernel": StemShape(3, 4, 3, 16, 7, 2),
    "7x7 gray": StemShape(9, 10, 1, 16, 7, 2),
}
PATCHES = {
    "patches": StemShape(12, 9, 3, 40, 4, 4, 0),
    "patches, a rest": StemShape(11, 10, 3, 24, 4, 4, 0),
    "gray patches": StemShape(7, 9, 1, 8, 3, 3, 0),
    "RGBA, smaller than the stride": StemShape(9, 7, 4, 16, 2, 3, 0),
    "overlapping": StemShape(9, 6, 3, 48, 7, 4, 3),
    "AlexNet's": StemShape(15, 11, 3, 16, 11, 4, 2),
    "8 by 8": StemShape(17, 25, 3, 48, 8, 8, 0),
    "valid": StemShape(6, 7, 3, 16, 3, 1, 0),
    "many outputs": StemShape(5, 4, 3, 128, 3, 1),
}
SHAPES |= PATCHES
DESIGNS = ["stored", "whole tile", "row tiles"]
SLOW = {
    "digits": ["row tiles"],
    "odd gray": ["row tiles"],
    "RGBA": ["row tiles"],
    "7x7 stride 2": ["whole tile"],
    "7x7 smaller than the kernel": ["row tiles"],
    "7x7 gray": ["row tiles"],
}
CASES = [
    pytest.param(name, design, marks=[pytest.mark.slow] if slow else [], id=f"{name}, {design}")
    for name in SHAPES
    for design in [*(["stored"] if name in PATCHES else DESIGNS), "reference"]
    for slow in [design in SLOW.get(name, ())]
]


def launch_of(design: str, shape: StemShape) -> StemLaunch:
    """Small programs, so that each image takes several with a partial last one."""
    if design == "whole tile":
        return StemLaunch.tile(shape, shape.out_height)
    if design == "row tiles":
        return StemLaunch.tile(shape, min(3, shape.out_height))
    outputs = 32 if shape.plain else 16 * (1 + shape.outputs // 100)
    return StemLaunch(design, 32, outputs=outputs)


def batch(shape: StemShape, device: torch.device) -> tuple[torch.Tensor, Rows]:
    generator = torch.Generator().manual_seed(shape.height)
    images = torch.rand(2, shape.height, shape.width, shape.channels, generator=generator)
    rows = Rows.pack(
        slot=SLOTS,
        sigma=SIGMAS,
        stream=[counter_word3(p) for p in PHASES],
        image=IMAGE_IDS,
        sample=SAMPLES,
        segment=[0, 0, 0],
        device=device,
    )
    return images.to(device), rows


def parameters(shape: StemShape) -> list[torch.Tensor]:
    """Weight, bias, mean and std, far from the identity so that a fold at fault shows."""
    generator = torch.Generator().manual_seed(shape.width)
    size = (shape.kernel, shape.kernel, shape.channels, shape.outputs)
    weight = torch.randn(size, generator=generator) / math.sqrt(shape.kernel**2 * shape.channels)
    bias = torch.randn(shape.outputs, generator=generator)
    mean = 0.3 + 0.4 * torch.rand(shape.channels, generator=generator)
    std = 0.2 + 0.3 * torch.rand(shape.channels, generator=generator)
    return [weight, bias, mean, std]


def specified(shape: StemShape, images: torch.Tensor, parts: list[torch.Tensor]) -> torch.Tensor:
    """float64 truth from `engine.noise` and torch's own convolution."""
    size = (shape.height, shape.width, shape.channels)
    noise = np.stack(
        [
            standard_normal(SEED, i, phase, [s], size)[0]
            for i, phase, s in zip(IMAGE_IDS, PHASES, SAMPLES, strict=True)
        ]
    )
    sigma = torch.tensor(SIGMAS, dtype=torch.float64)[:, None, None, None]
    noisy = images[SLOTS].cpu().double() + sigma * torch.from_numpy(noise).double()
    weight, bias, mean, std = (p.double() for p in parts)
    normal = ((noisy - mean) / std).permute(0, 3, 1, 2)
    kernel = weight.permute(3, 2, 0, 1)
    y = functional.conv2d(normal, kernel, bias, shape.stride, shape.pad)
    return y.permute(0, 2, 3, 1)


def run(
    shape: StemShape, folded: FoldedStem, design: str, device: torch.device, relu: bool = False
) -> torch.Tensor:
    images, rows = batch(shape, device)
    backend = "reference" if design == "reference" else "triton"
    launch = None if design == "reference" else launch_of(design, shape)
    key = seed_key(SEED, device)
    return ops.stem(
        images, rows, key, folded, stride=shape.stride, relu=relu, backend=backend, launch=launch
    ).cpu()


def fold(
    parts: list[torch.Tensor], dtype: torch.dtype, device: torch.device, padding: int | None = None
) -> FoldedStem:
    weight, bias, mean, std = (p.to(device) for p in parts)
    return fold_stem(weight, bias, mean, std, dtype=dtype, padding=padding)


@pytest.mark.parametrize(("name", "design"), CASES)
def test_stem_is_the_convolution_of_the_specified_noise(
    name: str, design: str, device: torch.device
) -> None:
    shape, parts = SHAPES[name], parameters(SHAPES[name])
    got = run(shape, fold(parts, torch.float32, device, shape.pad), design, device)
    expected = specified(shape, batch(shape, device)[0], parts)
    assert got.shape == (3, shape.out_height, shape.out_width, shape.outputs)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("design", DESIGNS)
def test_half_precision_and_relu(design: str, device: torch.device) -> None:
    """Within the rounding of fp16 operands; NaN never appears although the memory is poisoned."""
    shape, parts = SHAPES["odd RGB"], parameters(SHAPES["odd RGB"])
    got = run(shape, fold(parts, torch.float16, device), design, device, relu=True)
    expected = specified(shape, batch(shape, device)[0], parts).relu()
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=2e-2)
    assert (got == 0).any()


def patched(name: str, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Activations of the kernel and the specified ones."""
    shape, parts = SHAPES[name], parameters(SHAPES[name])
    got = run(shape, fold(parts, dtype, device, shape.pad), "stored", device)
    return got.double(), specified(shape, batch(shape, device)[0], parts)


def test_patches_in_half_precision(device: torch.device) -> None:
    got, expected = patched("patches, a rest", device, torch.float16)
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-2)


def test_a_patch_depends_on_its_pixels_and_its_row_only(device: torch.device) -> None:
    """NaN in a pixel reaches its own patch alone, all outputs of it; a row's bits do not depend on
    its place.
    """
    shape = SHAPES["patches, a rest"]
    folded = fold(parameters(shape), torch.float32, device, 0)
    images, rows = batch(shape, device)
    images[1, 5, 2, 1] = float("nan")

    def activations(order: list[int]) -> torch.Tensor:
        columns = (rows.slot, rows.sigma, rows.stream, rows.image, rows.sample, rows.segment)
        moved = Rows(*(column[order].contiguous() for column in columns))
        options = dict(stride=4, relu=True, backend="triton", launch=launch_of("stored", shape))
        return ops.stem(images, moved, seed_key(3, device), folded, **options)  # type: ignore[arg-type]

    y, backward = activations([0, 1, 2]), activations([2, 1, 0])
    assert torch.equal(y.nan_to_num(7), backward.flip(0).nan_to_num(7))
    spoilt = y.isnan()
    assert spoilt[[0, 2], 1, 0].all()
    assert spoilt.sum() == 2 * shape.outputs


BROKEN = {
    "padding": ("tap // KERNEL - PAD", "tap // KERNEL"),
    "stride": ("(pixel % OUT_WIDTH * STRIDE)[:, None]", "(pixel % OUT_WIDTH)[:, None]"),
    "outputs": ("tl.program_id(2) * OUTPUTS", "tl.program_id(2)"),
    "entries": ("k[:, None] * COUT + cout[None, :]", "k[:, None] * OUTPUTS + cout[None, :]"),
    "lanes": ("PAD, LANES, LANES", "PAD, LANES - 1, LANES"),
    "border": ("tl.maximum(-top, 0) * (PAD + 1)", "tl.maximum(-top, 0)"),
    "steps": ("(first + step) * CHUNK", "step * CHUNK"),
}


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("padding", "AlexNet's"),
        ("stride", "patches"),
        ("outputs", "patches"),
        ("entries", "patches, a rest"),
        ("lanes", "RGBA, smaller than the stride"),
        ("border", "overlapping"),
        ("steps", "8 by 8"),
    ],
)
def test_a_broken_stem_of_patches_is_noticed(
    fault: str, name: str, device: torch.device, edit: Edit
) -> None:
    from dualsmooth.kernels.triton import stem as right

    edit(right, *BROKEN[fault])
    got, expected = patched(name, device, torch.float32)
    assert not torch.allclose(got, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["odd RGB", "7x7 stride 2"])
def test_an_image_equal_to_the_mean_gives_the_bias_at_every_pixel(
    name: str, device: torch.device
) -> None:
    """The border table cancels the means exactly; a single bias would fail at the border."""
    shape, (weight, bias, mean, std) = SHAPES[name], parameters(SHAPES[name])
    mean = (mean * 64).round() / 64  # exact in fp16
    folded = fold([weight, bias, mean, std], torch.float16, device)
    images, rows = batch(shape, device)
    still = Rows(rows.slot, rows.sigma * 0, rows.stream, rows.image, rows.sample, rows.segment)
    flat = mean.to(device).expand_as(images).contiguous()
    y = ops.stem(
        flat, still, seed_key(1, device), folded, stride=shape.stride, relu=False, backend="triton"
    ).float()
    expected = bias.half().float().expand_as(y)
    torch.testing.assert_close(y.cpu(), expected, rtol=0, atol=2e-3)
    interior = folded.table[0, 0].cpu()
    assert (folded.table.cpu() - interior).abs().max() > 0.05


def test_wrong_counters_are_noticed(device: torch.device) -> None:
    """The comparison has power: a neighbouring sample index fails it."""
    shape, parts = SHAPES["digits"], parameters(SHAPES["digits"])
    images, rows = batch(shape, device)
    shifted = Rows(rows.slot, rows.sigma, rows.stream, rows.image, rows.sample + 1, rows.segment)
    folded = fold(parts, torch.float32, device)
    y = ops.stem(images, shifted, seed_key(SEED, device), folded, relu=False, backend="triton")
    assert (y.cpu().double() - specified(shape, images, parts)).abs().max() > 1


def test_selection_follows_the_model() -> None:
    for shape in (
        *SHAPES.values(),
        StemShape(32, 32, 3, 16, 3, 1),
        StemShape(224, 224, 3, 64, 7, 2),
    ):
        candidates = stem_candidates(shape)
        assert "stored" in {c.design for c in candidates}
        best = StemLaunch.choose(shape)
        assert all(modelled_slots(shape, best) <= modelled_slots(shape, c) for c in candidates)
        for c in candidates:
            assert c.design != "tile" or c.pixels >= c.tile_rows * shape.out_width
    assert StemLaunch.choose(StemShape(224, 224, 3, 64, 7, 2)).design == "stored"


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("images", dict(images=torch.rand(2, 6, 7, 1))),
        ("stride", dict(stride=0)),
        ("launch.design", dict(stride=3, launch=StemLaunch("tile", 32))),
        ("images", dict(images=torch.rand(2, 6, 0, 3))),
        (
            "images",
            dict(
                images=torch.zeros(2, 1, 1, 3).expand(2, 1100, 1000, 3).contiguous(),
                launch=StemLaunch("stored", 16),
            ),
        ),
        ("launch.design", dict(launch=StemLaunch("other", 32))),
        ("launch.pixels", dict(launch=StemLaunch("tile", 16, 16, 3))),
    ],
)
def test_bad_arguments_are_named(
    argument: str, change: dict[str, object], device: torch.device
) -> None:
    shape = SHAPES["odd RGB"]
    images, rows = batch(shape, device)
    folded = fold(parameters(shape), torch.float32, device)
    call: dict[str, object] = dict(
        images=images, rows=rows, key=seed_key(1, device), folded=folded, backend="triton"
    )
    call |= {n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in change.items()}
    with pytest.raises(KernelArgumentError, match=f"^{argument} "):
        ops.stem(**call)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("argument", "index", "value"),
    [
        ("weight", 0, torch.zeros(3, 3, 2, 16)),
        ("bias", 1, torch.zeros(8)),
        ("mean", 2, torch.zeros(1)),
        ("std", 3, torch.zeros(3)),
    ],
)
def test_bad_folds_are_named(argument: str, index: int, value: torch.Tensor) -> None:
    parts = parameters(SHAPES["odd RGB"])
    parts[index] = value
    with pytest.raises(KernelArgumentError, match=f"^{argument} "):
        fold(parts, torch.float32, torch.device("cpu"))
