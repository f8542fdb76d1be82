"""Where a network's time goes, layer by layer: ours beside OpenVINO's, in one process.

    python benchmarks/speed/layers.py [--network resnet50] [--rounds 9] [--out benchmarks/results]

One thread, float32, one batch of the size that ours gives a thread, without noise. In each round
OpenVINO runs the batch and counts the time of each of its layers (``PERF_COUNT``), then every call
of ours is timed; figures are the least over the rounds, the peak the highest. Layers are grouped by
kind and by the side of the maps they make; ReLUs and sums belong to the convolution that they are
fused into. The peak is of a float32 matrix product in each round; Winograd's convolutions, which
multiply less than their definition does, may exceed it.
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import fx, nn

from dualsmooth.benchmarks.speed.cpu import CASES, Case, own_batch
from dualsmooth.benchmarks.speed.networks import Products
from dualsmooth.benchmarks.speed.rounds import about_machine
from dualsmooth.engine.checks import one_of, positive_integer
from dualsmooth.engine.files import write_json
from dualsmooth.engine.machine import keep_freed_memory
from dualsmooth.engine.models.rows import noisy
from dualsmooth.engine.report.markdown import table as markdown
from dualsmooth.engine.samplers.fusion.fold import folded_network
from dualsmooth.engine.samplers.fusion.onednn import fuse_for_cpu
from dualsmooth.engine.samplers.openvino import exported_network
from dualsmooth.kernels.cpu.direct_conv import DirectConv
from dualsmooth.kernels.cpu.winograd_conv import WinogradChain, WinogradConv

Seconds = dict[str, float]
"""By kind of layer."""

POOLING, REST, ALL = "max pooling", "mean, linear", "all"

OPENVINO_OPTIONS = {
    "INFERENCE_PRECISION_HINT": "f32",
    "NUM_STREAMS": 1,
    "INFERENCE_NUM_THREADS": 1,
    "ENABLE_CPU_PINNING": False,  # it would stay on a core that another process uses
    "PERF_COUNT": True,
}


class Timed(fx.Interpreter):
    """Runs a fused network and adds the seconds of every call to those of its kind."""

    def __init__(self, network: fx.GraphModule, seconds: Seconds) -> None:
        super().__init__(network)
        self.seconds = seconds

    def run_node(self, n: fx.Node) -> Any:
        start = perf_counter()
        result = super().run_node(n)
        seconds = perf_counter() - start
        if n.op.startswith("call"):
            self.seconds[self.kind(n, result)] += seconds
        return result

    def kind(self, node: fx.Node, made: torch.Tensor) -> str:
        """Kind of a call, by what it was given."""
        layer = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, DirectConv):
            return kind_of(layer.kernel[0], layer.stride, made)
        if isinstance(layer, WinogradConv | WinogradChain):
            return kind_of(3, 1, made)
        if "convolution" in str(node.target):
            weight = next(arg for arg in node.all_input_nodes if arg.op == "get_attr")
            _, stride, *_ = (arg for arg in node.args if isinstance(arg, list | tuple))
            size = self.fetch_attr(str(weight.target)).shape[-1]
            return kind_of(size, int(str(stride[0])), made)
        return POOLING if "max" in str(node.target) else REST


def kind_of(size: int, stride: int, made: torch.Tensor) -> str:
    """Kind of a convolution."""
    return f"{size}x{size}{' strided' if stride > 1 else ''}, {made.shape[3]} pixels"


def convolutions(case: Case) -> list[tuple[str, int]]:
    """Kind and FLOP per image of a network's convolutions, as they are called."""
    network, found = case.network(), list[tuple[str, int]]()

    def note(layer: nn.Conv2d, _: Any, made: torch.Tensor) -> None:
        flop = 2 * made[0].numel() * layer.weight[0].numel()
        found.append((kind_of(layer.kernel_size[0], layer.stride[0], made), flop))

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(note)
    with torch.no_grad():
        network(torch.from_numpy(case.image).permute(2, 0, 1)[None])
    return found


def measure(case: Case, rounds: int) -> tuple[list[Seconds], list[Seconds], float]:
    """Seconds of OpenVINO's layers and of ours for a batch, each round's; peak FLOP per second."""
    import openvino

    shape = (own_batch(case), *case.shape)
    batch, products = noisy(shape[0], case.shape), Products(1)
    folded = folded_network(case.network(), torch.float32, shape)
    compiled = openvino.compile_model(exported_network(folded, batch), "CPU", OPENVINO_OPTIONS)
    fused = fuse_for_cpu(folded, batch)
    assert isinstance(fused, fx.GraphModule), "networks of benchmarks can be captured"
    request, pixels = compiled.create_infer_request(), batch.permute(0, 2, 3, 1).numpy()
    kinds = [kind for kind, _ in convolutions(case)]
    theirs, ours, peak = list[Seconds](), list[Seconds](), list[float]()
    for _ in range(rounds):
        request.infer(pixels, share_inputs=True)
        theirs.append(profile(request, kinds))
        ours.append(defaultdict(float))
        with torch.inference_mode():
            Timed(fused, ours[-1]).run(batch)
        start = perf_counter()
        products()
        peak.append(products.flop / (perf_counter() - start))
    return theirs, ours, max(peak)


def profile(request: Any, kinds: list[str]) -> Seconds:
    """Seconds of the kinds of layers in OpenVINO's last run, which numbers convolutions."""
    found: Seconds = defaultdict(float)
    for layer in request.get_profiling_info():
        number = re.match(r"convolution(?:_(\d+))?/", layer.node_name)
        kind = kinds[int(number[1] or 0)] if number else REST
        kind = POOLING if layer.node_type == "MaxPool" else kind
        found[kind] += layer.real_time.total_seconds()
    return found


def grouped(
    case: Case, theirs: list[Seconds], ours: list[Seconds], peak: float
) -> dict[str, dict[str, Any]]:
    """Milliseconds of a batch for the layers of each kind, and of the whole."""
    known = convolutions(case)
    rows: dict[str, dict[str, Any]] = {}
    for kind in [*dict.fromkeys(kind for kind, _ in known), POOLING, REST, ALL]:
        flops = [flop * own_batch(case) for name, flop in known if kind in (name, ALL)]
        rows[kind] = {"convolutions": len(flops)}
        for who, rounds in (("our", ours), ("their", theirs)):
            spent = [sum(now.values()) if kind == ALL else now[kind] for now in rounds]
            seconds = min(spent)
            rows[kind][f"{who}_ms"] = 1000 * seconds
            rows[kind][f"{who}_share_of_peak"] = sum(flops) / max(seconds, 1e-9) / peak
    return rows


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: a line per kind of layer."""
    head = ("layers", "convolutions", "ours, ms", "OpenVINO, ms", "OpenVINO over ours")
    lines = []
    for kind, row in rows.items():
        shares = [f"{100 * row[f'{who}_share_of_peak']:.0f} %" for who in ("our", "their")]
        faster = f"{row['their_ms'] / row['our_ms']:.2f}" if row["our_ms"] else ""
        taken = (f"{row[f'{who}_ms']:.1f}" for who in ("our", "their"))
        known = shares if row["convolutions"] else ["", ""]
        lines.append([kind, row["convolutions"], *taken, faster, *known])
    return markdown([*head, "ours, share of peak", "OpenVINO's"], *lines) + "\n"


def main() -> None:
    """Measure, print the table, and write its JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    chosen = parser.parse_args()
    case = CASES[one_of("network", chosen.network, tuple(CASES))]
    rounds = positive_integer("rounds", chosen.rounds)
    keep_freed_memory()
    torch.set_num_threads(1)
    rows = grouped(case, *measure(case, rounds))
    about = {"machine": about_machine(), "rounds": rounds, "batch": own_batch(case)}
    write_json(chosen.out / f"layers_{chosen.network}.json", about | {"layers": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
