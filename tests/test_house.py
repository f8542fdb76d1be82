"""The plan of the house: rooms in order, small files, no circles. Read from the source alone."""

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = (  # a room may import rooms of earlier lines, and itself
    ("kernels/triton",),
    ("kernels",),
    ("kernels/cpu", "kernels/cuda"),
    ("kernels/aot",),
    ("engine",),  # nouns; its faces are told apart
    ("engine/models/digest", "engine/models/graph", "engine/terminal"),
    ("engine/noise", "engine/bounds", "engine/data", "engine/models", "engine/methods/regions"),
    ("engine/radius", "engine/models/architectures", "export/graph"),
    ("engine/models/sources", "engine/methods", "engine/samplers/fusion"),
    ("engine/samplers", "engine/train", "engine/quantize"),
    ("engine/runtime",),
    ("engine/cluster", "export"),
    ("engine/runs", "engine/adapters", "export/check", "export/examples"),
    ("engine/report",),
    ("engine/results",),
    ("engine/cli",),
    ("engine/face",),  # `import dualsmooth`
    ("benchmarks", "benchmarks/speed"),
    ("benchmarks/accuracy", "benchmarks/gpu"),
    ("benchmarks/soak/fuzz",),
    ("benchmarks/soak",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
FACES = {"engine/__init__.py", "engine/api.py", "engine/readers.py"}
FACES |= {f"engine/{room}/__init__.py" for room in ("bounds", "cli", "data", "noise", "radius")}
USERS = ("engine/adapters/", "engine/face/", "benchmarks/")
"""Who imports a face, as users do; the rest imports what is behind it."""
ALLOWED = {("engine/cli/app.py", "benchmarks/speed/suites.py")}
"""`dualsmooth bench` runs the suites that come with the package."""
MOST_FILES, MOST_LINES = 17, 250
MOST_HEART = 3000
HEART = tuple(
    f"engine/{name}.py"
    for name in """draws ledger certificate budget settings noise/stream bounds/binomial
    radius/gaussian methods/method methods/votes methods/fixed methods/routing methods/dual
    runtime/flight runtime/scheduler samplers/sampler samplers/eager samplers/inputs
    runtime/session runs/log runs/commit runs/certify api""".split()
)
"""The files one image passes, in the order of `docs/reading_the_code.md`."""
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for top in ("engine", "kernels", "export", "benchmarks")
    for path in (ROOT / top).rglob("*.py")
)


def lines(file: str) -> int:
    return len((ROOT / file).read_text("utf-8").splitlines())


def room(file: str) -> str:
    return file.rpartition("/")[0]


def as_file(module: str) -> str | None:
    """File of a dotted name; None if the name is not a module of ours."""
    stem = module.removeprefix("dualsmooth.").replace(".", "/")
    return next((f for f in (f"{stem}.py", f"{stem}/__init__.py") if f in FILES), None)


def imports(text: str) -> Iterator[str]:
    """Files that a source imports: lazily and for types only, too."""
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dualsmooth."):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if as_file(name) else str(node.module) for name in whole]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names if a.name.startswith("dualsmooth.")]
        yield from filter(None, map(as_file, names))


ARROWS = sorted(
    {(file, to) for file in FILES for to in imports((ROOT / file).read_text("utf-8")) if to != file}
)


def upward(arrow: tuple[str, str]) -> bool:
    """Whether an import leaves its room for one that is not on an earlier line, or for a face."""
    source, target = arrow
    if source in FACES or arrow in ALLOWED or room(source) == room(target):
        return target in FACES and source not in FACES and not source.startswith(USERS)
    if target in FACES:
        return not source.startswith(USERS)
    return FLOOR[room(target)] >= FLOOR[room(source)]


def circle(arrows: Iterable[tuple[str, str]]) -> list[str]:
    """Files that import each other in a circle, if there are any."""
    graph: dict[str, set[str]] = {}
    for source, target in arrows:
        graph.setdefault(source, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_file_has_a_room_and_is_short() -> None:
    assert {room(file) for file in FILES} <= FLOOR.keys()
    assert {file: lines(file) for file in FILES if lines(file) > MOST_LINES} == {}


def test_the_formatter_is_overruled_for_tables_of_arguments_alone() -> None:
    found = {file: (ROOT / file).read_text("utf-8").count("# fmt: ") for file in FILES}
    tables = {"benchmarks/soak/fuzz/inputs.py": 1, "kernels/triton/stem.py": 2}
    assert {file: count for file, count in found.items() if count} == tables


def test_rooms_hold_few_files() -> None:
    count = Counter(room(file) for file in FILES if not file.endswith("__init__.py"))
    assert {name: files for name, files in count.items() if files > MOST_FILES} == {}


def test_rooms_import_earlier_rooms_only() -> None:
    assert [arrow for arrow in ARROWS if upward(arrow)] == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(ARROWS) == []


def test_the_heart_is_small() -> None:
    assert sum(map(lines, HEART)) <= MOST_HEART


def test_the_page_for_readers_names_the_heart_in_order_and_its_lines() -> None:
    page = (ROOT / "docs/reading_the_code.md").read_text("utf-8")
    told = re.findall(r"`([\w/]+\.py)` \| (\d+) \|", page)
    assert told == [(file.removeprefix("engine/"), str(lines(file))) for file in HEART]
    assert f"together | {sum(map(lines, HEART))} |" in page


def test_an_arrow_upwards_and_a_circle_are_noticed() -> None:
    lazy = "def f():\n    from dualsmooth.engine.cli.app import main\n"
    assert list(imports(lazy)) == ["engine/cli/app.py"]
    assert upward(("engine/errors.py", "engine/cli/app.py"))
    assert upward(("engine/runs/log.py", "engine/api.py"))
    assert upward(("engine/radius/gaussian.py", "engine/bounds/__init__.py"))
    assert not upward(("engine/cli/app.py", "engine/errors.py"))
    assert circle([("a", "b"), ("b", "c"), ("c", "a")]) != []
