"""Compile every kernel without a GPU and hold it to recorded limits.

    python -m dualsmooth.kernels.aot --check     exits with 1 on any finding
    python -m dualsmooth.kernels.aot --check --quick   sm_90, elsewhere what is near a spill
    python -m dualsmooth.kernels.aot --record    writes the limits of this Triton release
    python -m dualsmooth.kernels.aot --table     work, floors and issue slots in Markdown

A finding is a stack frame, an access to local memory (so a spill), a tensor-core instruction that
is missing, a tap load that bypasses L1, shared memory above what the architecture has, or growth
past the recorded registers, instructions or shared memory. The CUDA C++ kernels are held to the
same gates where CuPy is installed, compiled as it does: by NVRTC, which needs no GPU. nvcc makes
other code of the same sources, with fewer registers.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dualsmooth.kernels.aot.sass import Machine, inspect_cubin
from dualsmooth.kernels.cuda import tiled_conv, tiled_stem
from dualsmooth.kernels.cuda.stages import PROGRAMS, Choice, Program, definitions

ARCHITECTURES = (80, 90, 100)
"""That Triton's kernels are compiled for."""

SHARED_LIMIT = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
"""Bytes a thread block may have, of every architecture that CUDA C++ kernels are compiled for."""

CEILINGS = Path(__file__).with_name("ceilings.json")
CUDA = "cuda"
"""Name under which the limits of the CUDA C++ kernels are recorded."""

CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")
"""What CuPy adds to the options of a program."""

NEAR_SPILL = 200
"""Recorded registers, of 255, from which ``--quick`` builds a kernel on every architecture."""

Limits = dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Built:
    """One kernel for one architecture; ``mma``: has tensor cores, ``taps``: loads through L1."""

    name: str
    sm: int
    mma: bool
    machine: Machine
    taps: bool = True

    @property
    def key(self) -> str:
        """Key of the recorded limits."""
        return f"{self.name} sm_{self.sm}"


def build(name: str, sm: int) -> Machine:
    """Compile a case by name and read it back."""
    from dualsmooth.kernels.aot.cases import all_cases

    return build_case({c.name: c for c in all_cases()}[name], sm)


def build_case(case, sm: int) -> Machine:
    """Compile a `Case` for an architecture (80, 90, ..) and read it back."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    source = ASTSource(
        fn=case.kernel, signature=case.signature, constexprs=case.constants, attrs=case.aligned
    )
    options = dict(num_warps=case.warps, num_stages=case.stages, enable_fp_fusion=case.fusion)
    built = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=options)
    return inspect_cubin(built.asm["cubin"], built.metadata.shared)


def build_stage(program: Program, choice: Choice, sm: int) -> Machine:
    """Compile a CUDA C++ kernel for an architecture as CuPy does, and read it back."""
    from cupy.cuda import nvrtc

    made = nvrtc.createProgram(program.source, f"{program.kernel}.cu", (), ())
    try:
        nvrtc.compileProgram(made, (*definitions(choice), *CUPY_OPTIONS, f"-arch=sm_{sm}"))
    except nvrtc.NVRTCError as error:
        raise RuntimeError(f"NVRTC failed: {nvrtc.getProgramLog(made).strip()}") from error
    whole = nvrtc.getCUBIN(made) + b"\0"  # CuPy takes its last byte for the end of a string
    nvrtc.destroyProgram(made)
    return inspect_cubin(whole, choice.shared)


def findings(built: Built, limits: Sequence[int] | None) -> list[str]:
    """What is wrong with one build, in words; limits are registers, instructions, shared."""
    machine, found = built.machine, []
    if machine.stack:
        found.append(f"stack frame of {machine.stack} bytes")
    if machine.local:
        found.append(f"{machine.local} local-memory instructions")
    if built.mma and not machine.mma:
        found.append("no tensor-core instruction")
    if built.mma and built.taps and machine.opcodes.get("LDGSTS"):
        found.append("asynchronous copies bypass L1")
    if machine.shared > SHARED_LIMIT[built.sm]:
        found.append(f"{machine.shared} bytes of shared memory, limit {SHARED_LIMIT[built.sm]}")
    if limits is None:
        return [*found, "no recorded limits (run --record)"]
    used = machine.registers, machine.size, machine.shared
    for what, value, limit in zip(
        ("registers", "instructions", "shared bytes"), used, limits, strict=True
    ):
        if value > limit:
            found.append(f"{value} {what}, recorded limit {limit}")
    return found


def recorded(version: str) -> Limits:
    """Limits of a Triton release; a release never recorded gets the largest of the others."""
    every: dict[str, Limits] = json.loads(CEILINGS.read_text()) if CEILINGS.exists() else {}
    if version in every:
        return every[version]
    merged: Limits = {}
    for limits in every.values():
        for key, values in limits.items():
            old = merged.get(key, values)
            merged[key] = [max(pair) for pair in zip(old, values, strict=True)]
    return merged


def record(version: str, builds: Sequence[Built]) -> None:
    """Write limits with a little headroom: 4 registers, 5 % instructions, shared memory exact."""
    every = json.loads(CEILINGS.read_text()) if CEILINGS.exists() else {}
    every.setdefault(version, {}).update(
        (b.key, [min(255, b.machine.registers + 4), b.machine.size * 21 // 20, b.machine.shared])
        for b in builds
    )
    lines = [
        f'  "{release}": {{\n'
        + ",\n".join(f'    "{key}": {values}' for key, values in sorted(limits.items()))
        + "\n  }"
        for release, limits in sorted(every.items())
    ]
    CEILINGS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="dualsmooth.kernels.aot")
    action = parser.add_mutually_exclusive_group(required=True)
    for name in ("check", "record", "table"):
        action.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    near = "sm_90, and on the others only cases without limits or near a spill"
    parser.add_argument("--quick", action="store_true", help=near)
    every = list(SHARED_LIMIT)
    parser.add_argument("--sm", type=int, nargs="+", choices=every, default=every)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    os.environ["TRITON_INTERPRET"] = "0"
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        failed = _run(options)
    print(f"{time.monotonic() - start:.0f} s")
    return int(failed)


def _run(options: argparse.Namespace) -> bool:
    import triton

    from dualsmooth.kernels.aot.report import resource_line, work_table

    version = ".".join(triton.__version__.split(".")[:2])
    failed, total = False, []
    for release, builds in ((version, _triton_builds), (CUDA, _cuda_builds)):
        done = []
        for built in builds(options, recorded(release)):
            print(resource_line(built.name, built.sm, built.machine), flush=True)
            done.append(built)
        if options.record and done:
            record(release, done)
        limits = recorded(release)
        for built in done:
            for line in findings(built, limits.get(built.key)):
                failed = True
                print(f"FINDING {built.key}: {line}")
        total += done
    if options.table:
        print(work_table({b.name: b.machine for b in total if b.sm == 90}))
    print(f"triton {triton.__version__}: {len(total)} builds, {'FINDINGS' if failed else 'clean'}")
    return failed


def chosen(name: str, sm: int, options: argparse.Namespace, limits: Limits) -> bool:
    """Whether the options ask for this build."""
    if options.only not in name or sm not in options.sm:
        return False
    registers = limits.get(f"{name} sm_{sm}", [255])[0]
    return not options.quick or sm == 90 or registers >= NEAR_SPILL


def _triton_builds(options: argparse.Namespace, limits: Limits) -> Iterator[Built]:
    from dualsmooth.kernels.aot.cases import all_cases

    every = [(case, sm) for case in all_cases() for sm in ARCHITECTURES]
    jobs = [(case, sm) for case, sm in every if chosen(case.name, sm, options, limits)]
    with ProcessPoolExecutor(options.jobs) as pool:
        machines = pool.map(build, [case.name for case, _ in jobs], [sm for _, sm in jobs])
        for (case, sm), machine in zip(jobs, machines, strict=True):
            yield Built(case.name, sm, case.mma, machine, case.stages == 1)


def _cuda_builds(options: argparse.Namespace, limits: Limits) -> Iterator[Built]:
    if find_spec("cupy") is None:
        print("CUDA C++ kernels skipped: CuPy is not installed")
        return
    for program, choice, sm in stage_builds():
        name = program.name(choice)
        if chosen(name, sm, options, limits):
            taps = program is not tiled_conv.CONV  # they are in shared memory there
            yield Built(name, sm, True, build_stage(program, choice, sm), taps)


def stage_builds() -> list[tuple[Program, Choice, int]]:
    """CUDA C++ kernels, on the architectures whose shared memory holds them."""
    found: list[tuple[Program, Choice, int]] = []
    for sm, shared in SHARED_LIMIT.items():
        stems = [tiled_stem.TiledStem.choose(s, shared, pool) for s, pool in tiled_stem.SHAPES]
        every: list[tuple[Program, Choice]] = [*PROGRAMS]
        every += [(tiled_stem.TILED, stem) for stem in stems if stem is not None]
        for size, adds in tiled_conv.SHAPES:
            choices = tiled_conv.TiledConv.candidates(size, shared, adds=adds)
            every += [(tiled_conv.CONV, choice) for choice in choices]
        found += [(*pair, sm) for pair in every if pair[1].shared <= shared]
    return found


if __name__ == "__main__":
    sys.exit(main())
