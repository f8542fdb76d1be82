"""Noise, first convolution and max pooling with the noisy pixels of a tile in shared memory."""

from dataclasses import dataclass

import torch

from dualsmooth.kernels.checks import expect
from dualsmooth.kernels.cuda.residual_stage import pack_weights
from dualsmooth.kernels.cuda.stages import Program, launch
from dualsmooth.kernels.errors import KernelArgumentError
from dualsmooth.kernels.folding import FoldedStem
from dualsmooth.kernels.launch import StemShape
from dualsmooth.kernels.rows import Rows, expect_batch

TILED = Program("tiled_stem", "tiled stem", ("instructions", "normals", "tiled_stem"))


@dataclass(frozen=True, slots=True)
class TiledStem:
    """A launch choice: a thread block of ``warps`` makes ``tile`` rows of outputs, a warp ``tiles``
    of 8 channels at once; ``resident`` thread blocks share a multiprocessor. Outputs are those of a
    max pooling of stride 2, if ``pool`` is 2 or 3 (with padding 1), and not 0.
    """

    height: int
    width: int
    outputs: int
    kernel: int
    stride: int
    pool: int
    tile: int
    tiles: int
    warps: int = 8
    resident: int = 2

    @classmethod
    def choose(cls, shape: StemShape, shared: int, pool: int = 0) -> "TiledStem | None":
        """The choice for a shape, if there is one that fits ``shared`` bytes per thread block.

        16 rows of the convolution of a large image keep what two tiles both make to a seventh of
        it; tall kernels leave registers for two tiles of channels, small ones for four.
        """
        tiles = 2 if shape.kernel > 3 or shape.outputs == 16 else 4
        fits = shape.same and shape.lanes == 4 and 8 * tiles <= shape.outputs <= 64 * tiles
        sizes = shape.height, shape.width, shape.outputs, shape.kernel, shape.stride, pool
        rows = (16 if shape.height > 32 else 32) // (2 if pool else 1)
        made = cls(*sizes, min(rows, cls(*sizes, 1, tiles).size[0]), tiles)
        fits = fits and made.size[0] * made.size[1] * shape.outputs < 1 << 31
        return made if fits and shape.kernel <= 7 and made.shared <= shared else None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the outputs."""
        high, wide = ((n - 1) // self.stride + 1 for n in (self.height, self.width))
        if self.pool:
            high, wide = ((n + self.pool // 3 * 2 - self.pool) // 2 + 1 for n in (high, wide))
        return high, wide

    @property
    def label(self) -> str:
        """Its sizes, for the ahead-of-time checks."""
        image = f"{self.height}x{self.width} {self.kernel}x{self.kernel}"
        pool = f" pool {self.pool}" if self.pool else ""
        return f"{image} s{self.stride} to {self.outputs}{pool}"

    @property
    def shared(self) -> int:
        """Bytes of shared memory: pixels of four bf16, with all a strip of 16 may read."""
        edge, strip = self.pool // 3, (16, 0, 8, 7)[self.pool]
        rows = 2 * self.tile + edge if self.pool else self.tile
        advance = 2 * strip if self.pool else strip
        last = (-(-self.size[1] // strip) - 1) * advance + 15
        reach = last * self.stride + -(-self.kernel // 4) * 4
        pitch = max(reach, self.width + self.kernel // 2 * 2 + edge * self.stride)
        return ((rows - 1) * self.stride + self.kernel) * pitch * 8


SHAPES = (
    (StemShape(224, 224, 3, 64, 7, 2), 3),
    (StemShape(224, 224, 3, 64, 7, 2), 0),
    (StemShape(224, 224, 3, 64, 3, 1), 2),
    (StemShape(224, 224, 3, 32, 3, 2), 0),
    (StemShape(32, 32, 3, 64, 3, 1), 0),
    (StemShape(32, 32, 3, 16, 3, 1), 0),
)
"""First convolutions, and their pooling, that are compiled ahead of time: ResNets and DenseNets on
ImageNet, VGG, EfficientNets and RegNets; ResNets and WRN on CIFAR."""


def pack_stem(folded: FoldedStem) -> torch.Tensor:
    """Fragments of a stem's weights, bf16: rows of the kernel padded to a multiple of four taps."""
    size, outputs = folded.weight.shape[0], folded.weight.shape[3]
    taps = folded.packed[: size * size * folded.lanes].view(size, size, folded.lanes, outputs)
    wide = taps.new_zeros(size, -(-size // 4) * 4, 4, outputs)
    wide[:, :size, : folded.lanes] = taps
    return pack_weights(wide.reshape(1, -1, 1, 16, outputs))


def tiled_stem(
    images: torch.Tensor,
    rows: Rows,
    key: torch.Tensor,
    folded: FoldedStem,
    packed: torch.Tensor,
    choice: TiledStem,
    *,
    relu: bool = True,
) -> torch.Tensor:
    """What `dualsmooth.kernels.stem.stem` does, and the pooling of ``choice`` behind it.

    For 3 or 4 channels in bfloat16; CUDA only.

    ``packed`` are the `pack_stem` of the weights. The noise has the bits of the Triton kernels';
    sums are float32, over the rows of the kernel, in them the taps, in them the channels.
    """
    expect_batch(images, rows, key, torch.float32)
    colors, outputs = folded.weight.shape[2:]
    expect("images", images, (None, choice.height, choice.width, colors), (torch.float32,))
    expect("folded.packed", folded.packed, (None, choice.outputs), (torch.bfloat16,))
    if folded.lanes != 4 or folded.weight.shape[0] != choice.kernel:
        rule = f"must be of 3 or 4 channels and {choice.kernel} taps a side"
        raise KernelArgumentError("folded", rule, tuple(folded.weight.shape))
    out = images.new_empty(len(rows), *choice.size, outputs, dtype=torch.bfloat16)
    columns = key, rows.slot, rows.sigma, rows.stream, rows.image, rows.sample
    blocks = len(rows) * -(-choice.size[0] // choice.tile)
    weights = packed, folded.table
    launch(TILED, choice, blocks, images, *columns, *weights, out, colors, int(relu))
    return out
