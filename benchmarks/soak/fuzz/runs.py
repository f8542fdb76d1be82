"""What reads a whole run, one of its files damaged: for the parsers of this room."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

from dualsmooth.engine.certificate import Certificate
from dualsmooth.engine.errors import FileError
from dualsmooth.engine.report.markdown import markdown
from dualsmooth.engine.report.page import page
from dualsmooth.engine.report.reading import default_radii, read_runs
from dualsmooth.engine.report.text import text_table
from dualsmooth.engine.runs.audit import audit
from dualsmooth.engine.runs.log import read_log
from dualsmooth.engine.runs.record import read_configuration
from dualsmooth.engine.runs.summary import summarize


def audit_log(folder: Path, data: bytes, run: Path) -> None:
    """The log of an unfinished run; only image, label and time are not bound without the data."""
    if not (folder / "run.json").exists():
        (folder / "run.json").write_bytes((run / "run.json").read_bytes())
    (folder / "certificates.jsonl").write_bytes(data)
    seen = audit(folder)
    if seen.findings:
        raise FileError(folder, seen.findings[0])
    honest = [_statement(certificate) for certificate in read_log(run)]
    for certificate in seen.certificates.values():
        assert _statement(certificate) in honest, "a forged certificate was accepted"


def audit_run(folder: Path, data: bytes, run: Path) -> None:
    """A run whose configuration was altered; options may be written in more ways than one."""
    shutil.copytree(run, folder, dirs_exist_ok=True)
    (folder / "run.json").write_bytes(data)
    seen = audit(folder)
    if seen.findings:
        raise FileError(folder, seen.findings[0])
    stored, honest = read_configuration(folder), read_configuration(run)
    for name in {*honest} - {"bundle", "data", "data_digest", "options"}:
        assert stored[name] == honest[name], f"another {name} was accepted"


def report(folder: Path, data: bytes, run: Path, name: str) -> None:
    """Everything a report makes of a run but its plots."""
    for other in ("run.json", "certificates.jsonl"):
        (folder / other).write_bytes((run / other).read_bytes())
    (folder / name).write_bytes(data)
    runs = read_runs([folder, run])
    summaries = [summarize(each.name, each.rows, default_radii(runs)) for each in runs]
    marked, html = markdown(runs, summaries, []), page(runs, summaries, [])
    for text in (text_table(summaries), marked, html):
        assert all(c == "\n" or c.isprintable() for c in text), "a control character"
    assert "<script>alert" not in html.replace("\\", ""), "a script"
    assert not re.search(r"(?<!\\)<script", marked), "a script in Markdown"


def _statement(certificate: Certificate) -> Certificate:
    return replace(certificate, image_id=0, label=None, seconds=0.0)
