"""Launch choices as data. Nothing is tuned at run time: a choice is part of what is certified."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NoiseLaunch:
    """Noise kernels: Philox blocks per program and warps."""

    blocks: int = 256
    warps: int = 4

    @classmethod
    def choose(cls, blocks: int) -> "NoiseLaunch":
        """One program per row for images of few Philox blocks, 256 blocks per program otherwise."""
        return cls(128, 4) if blocks <= 128 else cls()


@dataclass(frozen=True, slots=True)
class VoteLaunch:
    """Vote kernels: rows per tile, tiles per program, channels per dot, warps.

    One tile of few rows per program: 4,096 rows are 256 programs, two for each multiprocessor of an
    H100. With 128 rows per program they were 32, and 6 % of the device at work.
    """

    rows: int = 16
    tiles: int = 1
    chunk: int = 64
    warps: int = 4

    @classmethod
    def choose(cls, classes: int, channels: int) -> "VoteLaunch":
        """Few channels at a time once the logits of a tile fill the registers."""
        if classes > 128:
            return cls(chunk=16, warps=8)
        return cls(chunk=min(64, channels))

    def constants(self, classes: int) -> dict[str, int]:
        """Sizes as the device code names them; BINS has one for rows that do not vote."""
        padded, bins = _power_of_two(max(16, classes)), _power_of_two(classes + 2)
        return dict(CLASSES_PAD=padded, BINS=bins, ROWS=self.rows, TILES=self.tiles)


@dataclass(frozen=True, slots=True)
class StemShape:
    """Sizes of a first convolution: image, channels, outputs, kernel, stride and padding.

    Padding is that of "same", half the kernel, if it is not given.
    """

    height: int
    width: int
    channels: int
    outputs: int
    kernel: int
    stride: int
    padding: int = -1

    @property
    def pad(self) -> int:
        """Zeros on every side."""
        return self.kernel // 2 if self.padding < 0 else self.padding

    @property
    def same(self) -> bool:
        """Whether it is what most networks begin with; the rest is patches, mostly."""
        same = self.kernel % 2 == 1 and self.pad == self.kernel // 2
        return same and self.stride in (1, 2) and self.outputs & (self.outputs - 1) == 0

    @property
    def plain(self) -> bool:
        """Whether every design has it; `stored` has any kernel, stride, padding and outputs."""
        return self.same and 16 <= self.outputs <= 64

    @property
    def constants(self) -> dict[str, int]:
        """Sizes as the device code names them."""
        image = dict(HEIGHT=self.height, WIDTH=self.width, CHANNELS=self.channels, LANES=self.lanes)
        layer = dict(KERNEL=self.kernel, STRIDE=self.stride, PAD=self.pad)
        return image | layer | dict(COUT=self.outputs)

    @property
    def lanes(self) -> int:
        """Reduction entries per tap."""
        return 4 if self.channels == 3 else self.channels

    @property
    def out_height(self) -> int:
        """Output rows."""
        return (self.height + 2 * self.pad - self.kernel) // self.stride + 1

    @property
    def out_width(self) -> int:
        """Output columns."""
        return (self.width + 2 * self.pad - self.kernel) // self.stride + 1

    @property
    def blocks(self) -> int:
        """Philox blocks of one image."""
        return -(-self.height * self.width * self.channels // self.step)

    @property
    def step(self) -> int:
        """Image values per Philox block."""
        return self.channels if self.lanes == 4 else 4


PATCHES = {
    "convnext_tiny": StemShape(224, 224, 3, 96, 4, 4, 0),
    "vit_small_patch16": StemShape(224, 224, 3, 384, 16, 16, 0),
    "vit_base_patch16": StemShape(224, 224, 3, 768, 16, 16, 0),
    "vit_base_patch32": StemShape(224, 224, 3, 768, 32, 32, 0),
    "resnext26ts": StemShape(224, 224, 3, 24, 3, 2, 1),
}
"""First convolutions on ImageNet that the stored design alone has, checked and timed by name."""


@dataclass(frozen=True, slots=True)
class StemLaunch:
    """Stem kernels: ``tile``, or ``stored``: the noise kernel, then a convolution."""

    design: str
    pixels: int  # output pixels per program, a power of two; for tile they hold tile_rows rows
    chunk: int = 16  # reduction entries per dot, 16, 32 or 64
    tile_rows: int = 0  # output rows per program of tile
    warps: int = 4  # per program
    outputs: int = 64  # channels per program of stored at most

    @classmethod
    def tile(cls, shape: StemShape, rows: int) -> "StemLaunch":
        """The tile design with ``rows`` output rows per program."""
        pixels = _power_of_two(rows * shape.out_width)
        strip = cls("tile", pixels, 16, rows).strip_blocks(shape)
        return cls("tile", pixels, 16, rows, 8 if max(pixels, strip) >= 512 else 4)

    @classmethod
    def any(cls, shape: StemShape) -> "StemLaunch":
        """The stored design for a shape that only it has."""
        outputs = next(n for n in (64, 32, 16) if n == 16 or shape.outputs % n == 0)
        return cls("stored", 64, 64, outputs=outputs)

    @classmethod
    def choose(cls, shape: StemShape) -> "StemLaunch":
        """The candidate with the lowest modelled cost; `modelled_slots` says how."""
        return min(stem_candidates(shape), key=lambda c: modelled_slots(shape, c))

    def strip_blocks(self, shape: StemShape) -> int:
        """Philox blocks of the widest strip a program of ``tile`` needs, a power of two."""
        rows = min(shape.height, (self.tile_rows - 1) * shape.stride + shape.kernel)
        unaligned = 0 if shape.lanes == 4 or shape.width % 4 == 0 else 1
        return _power_of_two(-(-rows * shape.width * shape.channels // shape.step) + unaligned)


def stem_candidates(shape: StemShape) -> list[StemLaunch]:
    """Every launch choice considered: stored, and the tallest tile that registers hold."""
    if not shape.plain:
        return [StemLaunch.any(shape)]
    small = _power_of_two(shape.out_height * 16)
    found = [StemLaunch("stored", min(128 if shape.outputs <= 32 else 64, small))]
    limit = 16384 // shape.outputs  # output values per program: 64 registers of 256 threads
    tiles = (StemLaunch.tile(shape, rows) for rows in (shape.out_height, 4, 1))
    fitting = [t for t in tiles if t.pixels <= limit and t.strip_blocks(shape) <= 2048]
    found += fitting[:1]
    return found


def modelled_slots(shape: StemShape, launch: StemLaunch) -> float:
    """Modelled cost of one image in thread instructions; computed, not measured.

    Static SASS counts for sm_90: 190 per Philox block with its normals, 110 to load and store it,
    13 and 8 per reduction entry of `tile` and `stored`;
    a byte of device memory counts 7.7 (3.3e13 thread instructions against 4.3e12 bytes per
    second on an H200).
    """
    outputs = shape.out_height * shape.out_width
    entries = -(-(shape.kernel**2) * shape.lanes // launch.chunk) * launch.chunk
    if launch.design == "stored":
        memory = 7.7 * 4 * shape.height * shape.width * shape.lanes  # bf16, one write, one read
        return shape.blocks * 300 + outputs * entries * 8 + memory
    tiles = -(-shape.out_height // launch.tile_rows)
    return float(tiles * (launch.strip_blocks(shape) * 190 + launch.pixels * entries * 13))


def _power_of_two(value: int) -> int:
    return 1 << (max(value, 16) - 1).bit_length()


@dataclass(frozen=True, slots=True)
class ConvLaunch:
    """Convolution kernel: output pixels per program and warps (never above 4)."""

    pixels: int
    warps: int = 4

    @classmethod
    def choose(cls, outputs: int) -> "ConvLaunch":
        """128 pixels, or 64 where 64 outputs fill the registers of sm_80."""
        return cls(64 if outputs >= 64 else 128)


@dataclass(frozen=True, slots=True)
class PointwiseLaunch:
    """1x1 convolutions: pixels and outputs of a program, input channels of a step, and steps whose
    loads are under way at once.
    """

    pixels: int
    outputs: int
    chunk: int
    warps: int = 4
    stages: int = 3

    @classmethod
    def candidates(cls, inputs: int, outputs: int) -> "tuple[PointwiseLaunch, ...]":
        """Choices to be timed on a device; networks get the first."""
        most = next(n for n in (128, 64, 32, 16) if outputs % n == 0)
        chunk = next(n for n in (64, 32, 16) if inputs % n == 0)
        warps = 8 if most == 128 else 4
        wide, deep = cls(128, most, chunk, warps), cls(128, most, chunk, warps, 4)
        return wide, cls(64, most, chunk), deep


@dataclass(frozen=True, slots=True)
class AffineLaunch:
    """Elementwise kernel: values of a strip, a power of two, strips of a program, and warps.

    A warp reads a strip of 256 in one load of 16 bytes a thread.
    """

    width: int = 256
    rows: int = 8
    warps: int = 4

    def period(self, channels: int) -> int:
        """Strips until one begins at the same channel again."""
        return channels // min(channels & -channels, self.width)

    def programs(self, values: int, channels: int) -> int:
        """Programs that take all strips: each takes strips that begin at the same channel."""
        strips, period = -(-values // self.width), self.period(channels)
        return -(-strips // (self.rows * period)) * period
