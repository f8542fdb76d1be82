"""Work of one vote, and the matrix product that says what a processor can do at most."""

import torch
from torch.utils.flop_counter import FlopCounterMode

SIZE, PRODUCTS = 512, 8


def flop_per_vote(network: torch.nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiplications and additions of the convolutions and linear layers for one image."""
    height, width, channels = shape
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, channels, height, width))
    return int(counter.get_total_flops())


class Products:
    """Float32 products of matrices that fit into the cache, on PyTorch's threads."""

    flop = 2 * SIZE**3 * PRODUCTS

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.left, self.right = (torch.randn(SIZE, SIZE, generator=generator) for _ in range(2))
        self.out = torch.empty(SIZE, SIZE)

    def __call__(self) -> None:
        for _ in range(PRODUCTS):
            torch.mm(self.left, self.right, out=self.out)
