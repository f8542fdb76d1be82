"""Random affine copies of small images."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Affine:
    """Largest change of each kind; shifts in half image widths, rotation in radians.

    With `flip`, half of the images are mirrored left to right.
    """

    shift: float
    rotation: float
    scale: float
    shear: float
    flip: bool = False


def random_affine(images: Tensor, limits: Affine, generator: Generator) -> Tensor:
    """Move, turn, scale and shear each image at random, with zeros outside: [n, C, H, W]."""

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(len(images), generator=generator, device=images.device) - 1) * limit

    angle, scale, shear = uniform(limits.rotation), 1 + uniform(limits.scale), uniform(limits.shear)
    rows = [
        torch.stack([scale * angle.cos(), shear - scale * angle.sin(), uniform(limits.shift)], 1),
        torch.stack([scale * angle.sin(), scale * angle.cos(), uniform(limits.shift)], 1),
    ]
    matrix = torch.stack(rows, 1)
    if limits.flip:
        matrix[:, :, 0] *= torch.where(uniform(1.0) < 0, -1.0, 1.0)[:, None]
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)
