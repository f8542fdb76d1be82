"""Text of the ahead-of-time checks."""

from collections.abc import Mapping

from dualsmooth.kernels.aot.case import Case
from dualsmooth.kernels.aot.cases import all_cases
from dualsmooth.kernels.aot.sass import Machine

DRAWS = 100_000
COPY_BYTES = 4.3e12  # bytes per second read + written, measured on an H200
MATRIX_FLOP = 790e12  # bf16 operations per second, measured on an H200
ISSUE_SLOTS = 132 * 4 * 1.98e9  # warp instructions per second: 4 per clock and multiprocessor


def resource_line(name: str, sm: int, machine: Machine) -> str:
    """Registers, local memory, shared memory, instructions and tensor-core opcodes of a build."""
    matrix = " ".join(f"{op} {n}" for op, n in sorted(machine.mma.items())) or "-"
    return (
        f"{name:36} sm_{sm:<4} {machine.registers:4} reg {machine.stack:3} stack "
        f"{machine.local:3} local {machine.shared:6} B shared {machine.size:5} SASS  {matrix}"
    )


def work_table(machines: Mapping[str, Machine]) -> str:
    """Markdown table: work per draw and computed floors per 100,000 draws on an H200."""
    head = (
        "| kernel | bytes/draw | MFLOP/draw | DRAM floor, ms | matrix floor, ms "
        "| warp instructions/draw | issue floor, ms | regs | SASS |\n" + "|---" * 9 + "|\n"
    )
    rows = [_row(case, machines[case.name]) for case in all_cases() if case.name in machines]
    return head + "\n".join(rows)


def _row(case: Case, machine: Machine) -> str:
    memory = case.bytes * DRAWS / COPY_BYTES * 1e3
    matrix = case.flop * DRAWS / MATRIX_FLOP * 1e3
    slots = machine.size * case.warps * case.programs
    issue = f"{slots * DRAWS / ISSUE_SLOTS * 1e3:.2f}" if case.straight else "loops"
    count = f"{slots:.0f}" if case.straight else "loops"
    return (
        f"| {case.name} | {case.bytes} | {case.flop / 1e6:.3f} | {memory:.2f} | {matrix:.3f} "
        f"| {count} | {issue} | {machine.registers} | {machine.size} |"
    )
