"""Pages written beside the code they describe: shown where they exist."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]


def on_config(config: Any) -> Any:
    """Put the pages on scaling out and deployment into the navigation."""
    pages = []
    if (ROOT / "export/README.md").exists():
        pages.append({"Deploy": "deploy.md"})
    if (ROOT / "docs/scale_out.md").exists():
        pages.append({"Scale out": "scale_out.md"})
    if pages:
        config.nav.append({"Run elsewhere": pages})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Show ``export/README.md`` as a page."""
    readme = ROOT / "export/README.md"
    if readme.exists():
        text = readme.read_text("utf-8").replace("](../docs/", "](")
        files.append(File.generated(config, "deploy.md", content=text))
    return files
