"""Reads a compiled kernel back: resources and opcodes of a cubin, without a GPU or a driver."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_INSTRUCTION = re.compile(
    r"^\s*(?:\[[^\]]*\]\s*)?/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", re.M
)
_MMA = re.compile(r"^(HMMA|IMMA|HGMMA|IGMMA|QGMMA|UTC\w*MMA)$")
_LOCAL = ("LDL", "STL")


@dataclass(frozen=True, slots=True)
class Machine:
    """What one kernel needs on one architecture."""

    registers: int  # per thread
    stack: int  # frame bytes per thread; spills and indexed arrays live there
    shared: int  # bytes per block, dynamic part included
    opcodes: dict[str, int]  # opcode without modifiers -> static count

    @property
    def size(self) -> int:
        """Static instructions, alignment padding left out."""
        return sum(self.opcodes.values()) - self.opcodes.get("NOP", 0)

    @property
    def local(self) -> int:
        """Static loads from and stores to local memory."""
        return sum(self.opcodes.get(name, 0) for name in _LOCAL)

    @property
    def mma(self) -> dict[str, int]:
        """Tensor-core opcodes."""
        return {name: n for name, n in self.opcodes.items() if _MMA.match(name)}


def inspect_cubin(cubin: bytes, dynamic_shared: int = 0) -> Machine:
    """Disassemble a cubin that holds one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        text = _run("nvdisasm", "-c", "-ndf", file.name)  # no data flow: opcodes at half the time
    opcodes = Counter(_INSTRUCTION.findall(text))
    fields = dict(re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", usage))
    if "REG" not in fields or not opcodes:
        raise RuntimeError(f"cannot read the resource usage: {usage.strip() or 'empty output'}")
    return Machine(
        registers=int(fields["REG"]),
        stack=int(fields["STACK"]) + int(fields.get("LOCAL", 0)),
        shared=int(fields["SHARED"]) + dynamic_shared,
        opcodes=dict(opcodes),
    )


def _run(tool: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{tool} failed: {done.stderr.strip()}")
    return done.stdout
