"""Device code that only benchmarks need."""

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def read_kernel(  # type: ignore[no-untyped-def]
    x,  # int32 [BLOCK * blocks]
    out,  # int32 [programs]
    blocks,
    passes,
    BLOCK: tl.constexpr,
):
    """Every program reads the whole buffer, past L1, `passes` times, and adds it up modulo 2^32."""
    start = tl.program_id(0)
    total = tl.zeros([BLOCK], tl.int32)
    for step in range(blocks * passes):
        block = (start + step) % blocks
        at = block * BLOCK + tl.arange(0, BLOCK)
        total += tl.load(x + at, cache_modifier=".cg")
    tl.store(out + start, tl.sum(total, axis=0))
