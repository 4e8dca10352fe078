"""The report of a run: `report.html` and `report.md`, made from the run folder's files alone."""

from __future__ import annotations

from pathlib import Path

from openqwq.eval.report.html import render_html
from openqwq.eval.report.markdown import render_markdown
from openqwq.eval.report.run_folder import read_run_folder
from openqwq.log import write_text_atomic

__all__ = ["read_run_folder", "render_html", "render_markdown", "write_report"]


def write_report(path: str | Path) -> tuple[Path, Path]:
    """The paths of the page and the Markdown file, written into the run's folder.

    Raises UserError when the folder does not hold a run.
    """
    run = read_run_folder(path)
    page, text = run.path / "report.html", run.path / "report.md"
    write_text_atomic(page, render_html(run))
    write_text_atomic(text, render_markdown(run))
    return page, text
