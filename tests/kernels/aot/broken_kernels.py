"""Kernels with a fault each, compiled and reported as JSON; run by test_aot.py."""

import json
import tempfile

import triton
import triton.language as tl

from dualsmooth.kernels.aot.__main__ import Built, build_case, findings
from dualsmooth.kernels.aot.case import Case


@triton.jit  # type: ignore[untyped-decorator]
def spilling_kernel(x, out, N: tl.constexpr):  # type: ignore[no-untyped-def]
    """A 64 x 128 product of one warp keeps 256 float32 sums per thread."""
    i, j = tl.arange(0, 64), tl.arange(0, 128)
    k = tl.arange(0, 16)
    acc = tl.zeros([64, 128], tl.float32)
    for step in range(N):
        a = tl.load(x + step * 1024 + i[:, None] * 16 + k[None, :])
        b = tl.load(x + step * 2048 + k[:, None] * 128 + j[None, :])
        acc = tl.dot(a, b, acc, input_precision="ieee")
    tl.store(out + i[:, None] * 128 + j[None, :], acc)


@triton.jit  # type: ignore[untyped-decorator]
def plain_kernel(x, out, N: tl.constexpr):  # type: ignore[no-untyped-def]
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i))


def main() -> None:
    """Print the findings of both kernels as JSON."""
    types = {"x": "*bf16", "out": "*fp32"}
    shared = dict(programs=1, bytes=0, mma=True, types=types)
    cases = {
        "spills": Case("spills", spilling_kernel, {"N": 64}, 1, **shared),  # type: ignore[arg-type]
        "no matrix instruction": Case("plain", plain_kernel, {"N": 128}, 4, **shared),  # type: ignore[arg-type]
    }
    ample = [255, 1 << 30, 1 << 30]
    with tempfile.TemporaryDirectory() as cache, triton.knobs.cache.scope():
        triton.knobs.cache.dir = cache
        found = {
            k: findings(Built(k, 80, True, build_case(c, 80)), ample) for k, c in cases.items()
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
