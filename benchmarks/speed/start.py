"""Time to the first certificate: ``dualsmooth bench start``.

Every start is a process of its own, on a disk that has just been read, with the bytecode that an
installation leaves there: Python, all imports, the network with its trials and proofs, 64 votes,
one certificate. Registered networks come from bundle folders, ResNet-50 from a .pt2, and a
ResNet-20 from memory, as a module of which nothing is known.
``import torch`` takes its turn with them: it is part of every other figure.
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch

from dualsmooth.benchmarks.speed.cpu import CASES, CLASSES, SIGMA
from dualsmooth.benchmarks.speed.rounds import about_machine
from dualsmooth.engine import Bundle
from dualsmooth.engine.files import write_json
from dualsmooth.engine.models.bundle import CLASSIFIER
from dualsmooth.engine.models.network import network_from_module
from dualsmooth.engine.models.sources.folder import save_bundle
from dualsmooth.engine.report.markdown import table as markdown
from dualsmooth.engine.terminal.progress import passing_bar

VOTES, TORCH = 32, "import torch"
NETWORKS = ("small", "resnet20", "resnet110", "resnet50")
MODULE = f"""import torch
from dualsmooth.engine import Smooth
from dualsmooth.engine.models.registry import create
class Mine(torch.nn.Sequential): pass
network = Mine(create("cifar_resnet20", {{}})).eval()
Smooth(network, {CLASSES}, {SIGMA}).certify(torch.rand(3, 32, 32), {VOTES}, {VOTES}, 0.001, 64)
"""


def prepare(folder: Path) -> dict[str, list[str]]:
    """Files of every network, and what Python is given to certify one image with it."""
    commands = {TORCH: ["-c", TORCH], "resnet20, in memory": ["-c", MODULE]}
    for name in NETWORKS:
        case, place, images = CASES[name], folder / name, folder / f"{name}.npz"
        if name == "resnet50":
            place = folder / f"{name}.pt2"
            batch = torch.zeros(2, case.shape[2], *case.shape[:2])
            rows = ({0: torch.export.Dim("rows")},)
            program = torch.export.export(case.network(), (batch,), dynamic_shapes=rows)
            torch.export.save(program, place)
        else:
            network = network_from_module(case.network(), case.architecture, case.kwargs)
            bundle = Bundle.from_modules(
                {CLASSIFIER: network}, num_classes=CLASSES, input_shape=case.shape
            )
            save_bundle(bundle, place)
        np.savez(images, x=case.image[None], y=np.zeros(1, np.int64))
        commands[name] = (
            f"-m dualsmooth certify {place} --data npz:{images} --method fixed --sigma {SIGMA} "
            f"--n0 {VOTES} --n {VOTES} --out {folder / 'run'} --fresh --threads 1"
        ).split()
    return commands


def start(command: list[str], bytecode: str) -> dict[str, float]:
    """Seconds, and processor seconds, of one process with one thread for PyTorch.

    Its bytecode is read from a folder, and written there where it is missing.
    """
    before, begun = os.times(), perf_counter()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run(
        [sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment
    )
    after = os.times()
    busy = sum(after[2:4]) - sum(before[2:4])
    return {"processor seconds": busy, "seconds": perf_counter() - begun}


def table(rounds: list[dict[str, dict[str, float]]]) -> str:
    """Markdown: median, smallest and largest of the rounds, and the smallest beyond PyTorch's."""
    head = ("network", "processor seconds", "least beyond PyTorch's import", "seconds")
    lines = []
    least = {name: min(r[name]["processor seconds"] for r in rounds) for name in rounds[0]}
    for name in rounds[0]:
        busy, taken = (_range([r[name][key] for r in rounds]) for key in rounds[0][name])
        lines.append((name, busy, f"{least[name] - least[TORCH]:.2f}", taken))
    return markdown(head, *lines) + "\n"


def _range(values: list[float]) -> str:
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def run(rounds: int, out: Path) -> None:
    """Start every network once a round, print a table and write ``start.json`` and ``start.md``."""
    with TemporaryDirectory() as folder:
        commands = prepare(Path(folder))
        found: list[dict[str, Any]] = [
            {name: start(command, f"{folder}/bytecode") for name, command in commands.items()}
            for _ in passing_bar(iterable=range(rounds + 1), desc="start", unit="round")
        ][1:]  # the first round reads the disk and compiles what is imported
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "start.json", {"machine": about_machine(), "rounds": found})
    (out / "start.md").write_text(table(found))
    print(f"{table(found)}{out / 'start.json'}")
