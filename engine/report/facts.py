"""What ``run.json`` says of a run, in the words of the top of a report."""

from collections.abc import Mapping, Sequence
from typing import Any

from dualsmooth.engine.printable import printable
from dualsmooth.engine.report.reading import Run
from dualsmooth.engine.runs.record import joint_alpha

Facts = dict[str, str]
SHOWN = 16
"""Hexadecimal digits of a digest that are shown; ``run.json`` has them all."""


def shared_facts(runs: Sequence[Run]) -> tuple[Facts, list[Facts]]:
    """Facts that all recorded runs share, and for each run those that tell it from the others."""
    found = [_facts(run) for run in runs]
    recorded = [facts for facts, run in zip(found, runs, strict=True) if run.configuration]
    common = {
        name: text
        for name, text in (recorded[0] if recorded else {}).items()
        if all(facts.get(name) == text for facts in recorded)
    }
    return common, [{k: v for k, v in facts.items() if common.get(k) != v} for facts in found]


def bundles(runs: Sequence[Run]) -> list[str]:
    """Names of the models that were certified, each once."""
    names = [run.configuration.get("bundle") for run in runs]
    return list(dict.fromkeys(printable(name) for name in names if name))


def _facts(run: Run) -> Facts:
    """A fact a line, empty ones left out; every text of the record is made printable."""
    c = run.configuration
    if not c:
        return {"date": run.written, "votes": run.conditions}
    found = {
        "model": c["bundle"],
        "digest": f"sha256 {c['bundle_digest'][:SHOWN]}",
        "data": f"{c['data']}, {c['images']:,} images, sha256 {c['data_digest'][:SHOWN]}",
        "images": run.prepared,
        "method": _options(c["options"]),
        "votes": run.votes,
        "alpha": f"{joint_alpha(c):g} for each image",
        "noise": f"{c['noise']}, seed {c['seed']}"
        + f", attempt {c['attempt']}" * (c["attempt"] > 0),
        "arithmetic": f"{c['precision']} on {c['sampler']}, batches of {c['batch_size']:,}",
        **_machine(run.machine),
        "date": run.written,
    }
    return {name: printable(text) for name, text in found.items() if text}


def _options(options: Mapping[str, Any]) -> str:
    """Options of a method that say something."""
    said = {name.replace("_", " "): value for name, value in options.items()}
    chosen = [(name, value) for name, value in said.items() if value not in (None, False, "", [])]
    return ", ".join(
        str(value) if name == "method" else name if value is True else f"{name} {value}"
        for name, value in chosen
    )


def _machine(about: Mapping[str, Any]) -> Facts:
    """Hardware and software of a ``machine``, which may be damaged."""
    devices, versions = about.get("devices"), about.get("versions")
    named = [*devices] if isinstance(devices, list) else []
    parts = [about.get("processor"), *named, about.get("system")]
    if about.get("cores"):
        parts.insert(1, f"{about['cores']} cores")
    known = dict(versions) if isinstance(versions, dict) else {}
    known |= {"Python": about["python"]} if "python" in about else {}
    return {
        "machine": ", ".join(str(part) for part in parts if part),
        "software": ", ".join(f"{name} {version}" for name, version in known.items() if version),
    }
