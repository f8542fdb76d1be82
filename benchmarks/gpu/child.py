"""Runs the items of a device pass in a process of their own; started by `__main__.py`.

A broken device, a crash or a hang ends this process, and the pass goes on in another one. What is
reached is written line by line, as JSON.
"""

import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dualsmooth.benchmarks.gpu import ceilings as device_ceilings
from dualsmooth.benchmarks.gpu import checks as device_checks
from dualsmooth.benchmarks.gpu import cifar as device_cifar
from dualsmooth.benchmarks.gpu import table as device_table
from dualsmooth.benchmarks.gpu.items import DONE, FAILED, NOT_RUN, Item, Place, Turn, Unavailable
from dualsmooth.engine.errors import reason_of

BROKEN = 3
"""Exit code: the device answers no more, and a fresh process may help."""

SHARE = 0.8
"""Of an item's limit, after which it should stop by itself."""

STUCK = "stuck"
"""State of an item whose program did not end: whatever it left goes with this process group."""

PATIENCE = 4
"""Times the time of an item that a rehearsal has: processors are slow and shared."""

LONGEST = 300
"""Characters of a reason; the traceback has the rest."""

PARTS = (1, 2, 3, 4, 5)

Tell = Callable[..., None]


def run(
    items: Sequence[Item], place: Place, known: dict[str, Any], deadline: float, tell: Tell
) -> int:
    """Run the items that are not known yet; returns the exit code."""
    states = {name: entry["state"] for name, entry in known.items()}
    results = {name: entry.get("result") for name, entry in known.items()}
    for item in items:
        if item.name in states:
            continue
        why = item.refusal(states, deadline - time.monotonic())
        if why:
            states[item.name] = NOT_RUN
            tell(item.name, NOT_RUN, reason=why)
            continue
        states[item.name] = state = _one(item, place, states, results, deadline, tell)
        if state == STUCK or (state == FAILED and not _answers(place)):
            return BROKEN
    return 0


def _answers(place: Place) -> bool:
    try:
        place.synchronize()
    except Exception:  # whatever the driver says: this process is of no use any more
        return False
    return True


def _one(
    item: Item,
    place: Place,
    states: dict[str, str],
    results: dict[str, Any],
    deadline: float,
    tell: Tell,
) -> str:
    start = time.monotonic()
    until = min(start + SHARE * item.limit, deadline)
    tell(item.name, "begin", limit=item.limit)
    turn = Turn(place, until, lambda r: tell(item.name, "partly", result=r), states, results)
    try:
        result = item.work(turn)
        place.synchronize()
    except Unavailable as why:
        tell(item.name, NOT_RUN, reason=str(why))
        state = NOT_RUN
    except Exception as error:
        reason = reason_of(error)[:LONGEST]
        taken = time.monotonic() - start
        tell(item.name, FAILED, reason=reason, traceback=traceback.format_exc(), seconds=taken)
        state = STUCK if isinstance(error, TimeoutError) else FAILED
    else:
        results[item.name] = result
        tell(item.name, DONE, result=result, seconds=time.monotonic() - start)
        state = DONE
    if "torch._dynamo" in sys.modules:  # it compiles one function for few networks only
        torch._dynamo.reset()
    gc.collect()
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
    return state


def items_of(part: int, place: Place) -> list[Item]:
    """Items in the order in which they run: what everything else rests on comes first."""
    items = _only(_all(part, place), place.options.get("only", ""))
    return [replace(i, limit=PATIENCE * i.limit) for i in items] if place.tiny else items


def _only(items: list[Item], text: str) -> list[Item]:
    """Items whose names hold the text, and everything they need or use."""
    wanted = {item.name for item in items if text in item.name}
    for item in reversed(items):  # an item needs earlier ones only
        if item.name in wanted:
            wanted |= {*item.needs, *item.uses}
    return [item for item in items if item.name in wanted]


def _all(part: int, place: Place) -> list[Item]:
    if part == 1:
        return device_checks.items(place)
    if part == 2:
        return device_table.items(place)
    if part == 3:
        return device_ceilings.items(place)
    if part == 4:
        return device_table.rest(place)
    if part == 5:
        return device_cifar.items(place)
    raise ValueError(f"part must be one of {PARTS}; received {part}")


def main(arguments: list[str]) -> int:
    """Take the path of a plan, a JSON file; returns the exit code."""
    plan = json.loads(Path(arguments[0]).read_text())
    device = torch.device(plan["device"])
    place = Place(device, plan["tiny"], Path(plan["work"]), plan["options"])
    with Path(plan["events"]).open("a", encoding="utf-8") as file:

        def tell(name: str, event: str, **details: Any) -> None:
            line = json.dumps({"item": name, "event": event, **details}, default=str)
            file.write(line + "\n")
            file.flush()

        items, alone = items_of(plan["part"], place), plan["alone"]
        items = [item for item in items if alone in ("", item.name)]
        return run(items, place, plan["known"], plan["deadline"], tell)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
