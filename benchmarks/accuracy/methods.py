"""Every method on one bundle and the same images: certified accuracy, ACR, votes and seconds.

    python benchmarks/accuracy/methods.py BUNDLE --data SPEC --anchors SPEC [--skip 1] [--max M]
        [--n 10000] [--runs DIR] [--out FILE.md]

BUNDLE has one classifier for all its levels and a real-valued selector (`dualsmooth train
variational`), so that every method can certify it. Equal draws give equal votes; they are drawn
again for every method, so that its time is its own. Anchors and reference images come from another
SPEC than the images certified. Run folders resume.

The last column is the mean radius with sigma frozen at sigma(x0) on the same votes, for comparison
with published tables: it is not a certificate, and larger than what holds.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dualsmooth.engine import Budget, Bundle, Certificate, MemorySmoothing, load_bundle
from dualsmooth.engine.data.image_set import ImageSet
from dualsmooth.engine.data.spec import chosen_ids, load_images
from dualsmooth.engine.methods.insta import AnchorSmoothing, frozen_radius_unsound
from dualsmooth.engine.methods.method import Method
from dualsmooth.engine.methods.regions.anchors import Anchors, read_anchors
from dualsmooth.engine.methods.regions.memory import Memory
from dualsmooth.engine.methods.registry import choose_method
from dualsmooth.engine.methods.search import make_search
from dualsmooth.engine.runs.certify import certify_run
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.runs.search import search_anchors
from dualsmooth.engine.runs.summary import rows_of, summarize
from dualsmooth.engine.settings import Settings

RATE = 0.01
Line = tuple[str, list[Certificate]]


def methods(bundle: Bundle, anchors: Anchors, references: str) -> Iterator[tuple[str, Method]]:
    """All methods by name of their run folder."""
    sigmas = bundle.sigmas
    for sigma in sigmas:
        yield f"fixed-{sigma:g}", choose_method(bundle, sigma=sigma)
        yield f"runner-up-{sigma:g}", choose_method(bundle, sigma=sigma, runner_up=True)
    yield "plurality", choose_method(bundle, selector_rule="plurality")
    yield "point", choose_method(bundle, routing="point")
    yield "interval", choose_method(bundle)
    for target in sigmas:
        yield (
            f"variational-{target:g}",
            choose_method(bundle, method="variational", target_sigma=target),
        )
    yield "continuous", choose_method(bundle, method="variational", routing="continuous")
    yield "anchor", AnchorSmoothing(bundle, anchors)
    for search in ("multi-start", "quasiconcave", "grid"):
        yield f"memory-{search}", MemorySmoothing(bundle, make_search(bundle, search), Memory())
    for threshold in (0.5, 0.7, 0.9):
        yield f"cascade-{threshold:g}", choose_method(bundle, method="cascade", threshold=threshold)
    middle = sigmas[len(sigmas) // 2]
    yield (
        "semielastic",
        choose_method(bundle, method="semielastic", sigma=middle, rate=RATE, references=references),
    )


def compare(
    bundle: Bundle, data: ImageSet, ids: list[int], references: str, budget: Budget, runs: Path
) -> list[Line]:
    """Certify with every method, or read what an earlier call certified."""
    runs.mkdir(parents=True, exist_ok=True)
    file = runs / "anchors.npz"
    if not file.exists():
        images = load_images(references).images
        search_anchors(bundle, images[:1000], make_search(bundle, None), Settings(), file)
    lines = []
    for folder, method in methods(bundle, read_anchors(file), references):
        slots = 1 if method.serial else 16
        settings = Settings(budget, precision="fp32", slots=slots)
        certify_run(method, data, ids, settings, runs / folder, resume=True)
        lines.append((method.name, read_log(runs / folder)))
    return lines


def table(lines: list[Line], radii: tuple[float, ...]) -> str:
    """Markdown."""
    heads = [f"r = {radius:g}" for radius in radii]
    rows = [["method", *heads, "ACR", "votes", "ms", "frozen ACR (not a certificate)"]]
    for name, certificates in lines:
        summary = summarize(name, rows_of(certificates), radii)
        seconds = float(np.mean([c.seconds for c in certificates]))
        frozen = np.mean([frozen_radius_unsound(c) * _right(c) for c in certificates])
        unsound = "" if name.startswith("fixed") else f"{frozen:.3f}"
        shares = [f"{100 * share:.1f}" for share in map(summary.accuracy, radii)]
        cells = (f"{summary.acr:.3f}", f"{summary.draws:,.0f}", f"{1000 * seconds:.1f}", unsound)
        rows.append([name, *shares, *cells])
    rows.insert(1, ["---"] + ["---:"] * (len(rows[0]) - 1))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _right(certificate: Certificate) -> bool:
    """Whether the class that was bounded is the true one, certified or not."""
    named = [int(b.event[2:]) for b in certificate.bounds if b.stage == "classifier"]
    return bool(named) and named[0] == certificate.label


def main() -> None:
    """Certify with every method and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--anchors", default="digits:train", help="SPEC of anchors and references")
    parser.add_argument("--skip", type=int, default=1)
    parser.add_argument("--max", type=int)
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--radii", type=_radii, default=(0.0, 0.25, 0.5, 0.75, 1.0))
    parser.add_argument("--runs", type=Path, required=True, help="folder of the run folders")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    options = parser.parse_args()
    bundle, data = load_bundle(options.bundle), load_images(options.data)
    ids = chosen_ids(data, options.skip, options.max)
    lines = compare(bundle, data, ids, options.anchors, Budget.fixed(100, options.n), options.runs)
    about = (
        f"`{bundle.name}` on {len(ids)} images of `{options.data}`, n0 = 100, n = {options.n:,}, "
        "alpha = 0.001, float32. Certified accuracy in %, strictly above r; votes and milliseconds "
        "per image.\n\n"
    )
    text = about + table(lines, options.radii)
    print(text)
    if options.out:
        options.out.write_text(text)


def _radii(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


if __name__ == "__main__":
    main()
