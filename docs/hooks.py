"""Pages made while the site is built: commands, the notebook, and ``export/README.md``."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
COMMANDS = """# Command line

Made from the commands themselves: `dualsmooth COMMAND --help` says the same. They exit with 0 when
done; 1 if an audit or the check of an export found something; 2 for bad usage or input, told in one
line; 3 if they stopped early or could not read a file; 4 if an audit found nothing but took part of
the run on trust; 130 when interrupted.
"""


def on_files(files: Any, config: Any) -> Any:
    """Add the pages."""
    readme = (ROOT / "export/README.md").read_text("utf-8").replace("](../docs/", "](")
    first = notebook(ROOT / "docs/first_certificates.ipynb")
    for name, text in (("deploy", readme), ("commands", commands()), ("first_certificates", first)):
        files.append(File.generated(config, f"{name}.md", content=text))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Keep the names of options in one line: browsers break them after a hyphen."""

    def kept(code: re.Match[str]) -> str:
        return re.sub(r"(?<![\w-])--[a-z][\w-]*", r'<span class="option">\g<0></span>', code[0])

    return re.sub(r"<code.*?</code>", kept, html, flags=re.DOTALL)


def notebook(path: Path) -> str:
    """The notebook run from top to bottom, with its outputs."""
    from nbconvert import MarkdownExporter
    from nbconvert.preprocessors import ExecutePreprocessor

    exporter = MarkdownExporter(preprocessors=[ExecutePreprocessor(timeout=300)])
    text: str = exporter.from_filename(str(path))[0]
    return f"{text}\n[The notebook itself]({path.name})\n"


def commands() -> str:
    """A section for each command, with a table for each group of its options."""
    from typer.main import get_command

    from dualsmooth.engine.cli.app import app

    group: Any = get_command(app)
    return "\n".join([COMMANDS, *(_command(name, found) for name, found in group.commands.items())])


def _command(name: str, command: Any) -> str:
    context = command.make_context(name, [], resilient_parsing=True)
    about, _, examples = command.help.partition("\n\nExamples:\n\n")
    usage = " ".join(["dualsmooth", name, *command.collect_usage_pieces(context)])
    parts = [f"## {name}", f"```text\n{usage}\n```", about]
    if examples:
        parts += ["```sh\n" + examples.replace("\n\n", "\n") + "\n```"]
    tables: dict[str, list[str]] = {}
    for parameter in command.params:
        title = "Arguments" if parameter.param_type_name == "argument" else "Options"
        names, help_ = parameter.get_help_record(context)
        row = f"| `{names}` | {_plain(help_)} |"
        tables.setdefault(parameter.rich_help_panel or title, []).append(row)
    for title, rows in tables.items():
        parts.append("\n".join([f"| {title} | |", "|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Text in a cell of a table, none of which Markdown takes for a sign."""
    return re.sub(r"([*_|\[])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")
