"""Work of one vote, and the matrix product that says what a processor can do at most."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils.flop_counter import FlopCounterMode

from dualsmooth.engine.runtime.torch_sampler import one_thread

SIZE, PRODUCTS = 512, 64


def flop_per_vote(network: torch.nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiplications and additions of the convolutions and linear layers for one image."""
    height, width, channels = shape
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(1, channels, height, width))
    return int(counter.get_total_flops())


class Products:
    """Float32 products of matrices that fit into the cache, by every thread for itself.

    No thread waits for another, as none does in a sampler: one product divided among threads is as
    slow as the slowest of them, which on a busy machine is far below what the processor can do.

    Parameters
    ----------
    threads : int
        Threads that multiply at once.
    """

    def __init__(self, threads: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.left, self.right = (torch.randn(SIZE, SIZE, generator=generator) for _ in range(2))
        self.outs = [torch.empty(SIZE, SIZE) for _ in range(threads)]
        self.flop = 2 * SIZE**3 * PRODUCTS * threads
        self._pool = ThreadPoolExecutor(threads, initializer=one_thread)

    def __call__(self) -> None:
        list(self._pool.map(self._multiply, self.outs))

    def _multiply(self, out: torch.Tensor) -> None:
        for _ in range(PRODUCTS):
            torch.mm(self.left, self.right, out=out)
