"""Fuzz every parser: ``python benchmarks/soak/fuzz --inputs 1000000``.

Each parser gets valid files, damaged at random. It may accept or raise its documented error. Any
other error, a dead process, more than 20 processor seconds on one input, or accepting what it must
not is a failure. What is accepted is checked again by the target itself. A parser runs in a process
of its own, watched by this one. Input i of a parser depends on seed, parser and i only, so
``--only PARSER --first I --inputs 1`` tries it again.
"""

import random
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from dualsmooth.benchmarks.soak.fuzz.inputs import spoiled
from dualsmooth.benchmarks.soak.fuzz.targets import Target, targets
from dualsmooth.benchmarks.soak.fuzz.tell import arguments, tell
from dualsmooth.benchmarks.soak.fuzz.watch import SECONDS_PER_INPUT, Tally, watched
from dualsmooth.engine.errors import FileError

_IN_MEMORY = Path("/dev/shm")
"""Where it is there, files are made in it: what is asked is what is read, not how fast."""


def outcome(target: Target, folder: Path, data: bytes, ran: Path) -> tuple[str, str]:
    """What a parser did with an input, and the error if it must not have done that."""
    kind, error = "accepted", ""
    try:
        target.parse(folder, data)
    except FileError:
        kind = "refused"
    except AssertionError as problem:
        kind, error = "wrong", repr(problem)
    except TimeoutError as problem:
        kind, error = "slow", repr(problem)
    except Exception as problem:
        kind, error = "escaped", repr(problem)
    if ran.exists():
        ran.unlink()
        return "wrong", "a pickle ran"
    return kind, error


def input_of(name: str, target: Target, seed: int, number: int) -> bytes:
    """Input ``number`` of a parser."""
    return spoiled(target.seeds, target.is_json, random.Random(f"{seed} {name} {number}"))


def fuzz(name: str, target: Target, numbers: range, seed: int, place: Path) -> Tally:
    """Try inputs in a process of their own."""
    folder = Path(tempfile.mkdtemp(dir=place))

    def attempt(number: int) -> tuple[str, str]:
        return outcome(target, folder, input_of(name, target, seed, number), place / "ran")

    return watched(attempt, numbers)


def main() -> None:
    """Fuzz all parsers and print a line for each; exit code 1 if one broke."""
    parser = arguments(__doc__, inputs=100_000, first=0)
    parser.add_argument("--only", action="append", help="a parser; may be given several times")
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process forked beside others would wait for them for good
    start, tallies = time.perf_counter(), {}
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as folder:
        known = targets(Path(folder))
        chosen = {name: known[name] for name in options.only or known}
        shares = sum(target.share for target in chosen.values())
        for name, target in chosen.items():
            last = options.first + -(-options.inputs * target.share // shares)
            tally = fuzz(name, target, range(options.first, last), options.seed, Path(folder))
            tallies[name] = tally
            print(f"{name:<20}{tally.line()}", flush=True)
    total: Counter[str] = sum((tally.outcomes for tally in tallies.values()), Counter())
    broken = sum(len(tally.failures) for tally in tallies.values())
    print(f"{total.total()} inputs: {dict(total)}; {broken} broken")
    result = {
        "inputs": total.total(),
        "outcomes": dict(total),
        "broken": broken,
        "seed": options.seed,
        "seconds_per_input_allowed": SECONDS_PER_INPUT,
        "parsers": {name: vars(tally) for name, tally in tallies.items()},
    }
    tell(result, options.out, start)
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
