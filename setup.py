"""Editable installs let editors and type checkers follow `dualsmooth` into this checkout.

They do not follow the import hook by which such an install maps `dualsmooth.engine` to `engine/`.
So it also writes `typings/dualsmooth/...`: a stub for each module that names the file it stands
for. Pylance and pyright look there by themselves, mypy by `pyproject.toml`. After adding a module:
`python setup.py -q stubs` (`make lint` does). Everything else is in `pyproject.toml`.
"""

import ast
import shutil
import symtable
from pathlib import Path
from typing import ClassVar

from setuptools import Command, setup
from setuptools.command.editable_wheel import editable_wheel

STUBS, FACE = Path("typings"), Path("engine/face")
"""The face is what `import dualsmooth` gives; all other folders keep their names."""


def stub(file: Path) -> str:
    """What a module says and offers, as imports from itself; tests use private names, too."""
    module = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
    text = file.read_text("utf-8")
    names = symtable.symtable(text, str(file), "exec").get_symbols()
    private = [s.get_name() for s in names if s.is_assigned() and s.get_name().startswith("_")]
    private = [name for name in private if name not in ("__dir__", "__getattr__")]
    about = repr(ast.get_docstring(ast.parse(text)) or "")
    own = [f"from {module} import {name} as {name}" for name in private]
    return "\n".join([about, f"from {module} import *", *own]) + "\n"


def write_stubs() -> None:
    """Replace the stubs by those of the modules that are there now."""
    shutil.rmtree(STUBS, ignore_errors=True)
    for top in ("engine", "kernels", "export", "benchmarks"):
        for file in Path(top).rglob("*.py"):
            name = file.relative_to(FACE) if file.is_relative_to(FACE) else file
            place = STUBS / "dualsmooth" / name.with_suffix(".pyi")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(stub(file), "utf-8")


class EditableWheel(editable_wheel):
    """An editable installation that writes the stubs, too."""

    def run(self) -> None:
        super().run()
        write_stubs()


class Stubs(Command):
    """The command `stubs`."""

    description = "write typings/, by which editors and mypy follow dualsmooth.*"
    user_options: ClassVar[list[tuple[str, str, str]]] = []

    def initialize_options(self) -> None:
        """Nothing to set."""

    def finalize_options(self) -> None:
        """Nothing to check."""

    def run(self) -> None:
        write_stubs()


setup(cmdclass={"editable_wheel": EditableWheel, "stubs": Stubs})
