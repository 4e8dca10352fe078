"""Reports: one run's `report.html` and `report.md`, or a comparison of several, made from run folders' files alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from openqwq.errors import UserError
from openqwq.log import write_text_atomic

from .comparison import read_runs
from .comparison_pages import comparison_html, comparison_markdown
from .html import render_html
from .markdown import render_markdown
from .run_folder import read_run_folder

__all__ = ["read_run_folder", "render_html", "render_markdown", "write_comparison", "write_report"]


def write_report(path: str | Path, folder: str | Path | None = None) -> tuple[Path, Path]:
    """The paths of the page and the Markdown file, written into the run's folder or another one.

    Raises UserError when `path` does not hold a run.
    """
    run = read_run_folder(path)
    return _write(Path(folder or run.path), "report", render_html(run), render_markdown(run))


def write_comparison(paths: Sequence[str | Path], folder: str | Path | None = None) -> tuple[Path, Path]:
    """The paths of the page and the Markdown file that compare these runs, written beside the first run's folder.

    folder: where they go instead. Raises UserError for a path that does not hold a run, or is given twice.
    """
    runs = read_runs(paths)
    folder = Path(folder or Path(paths[0]).resolve().parent)
    return _write(folder, "comparison", comparison_html(runs), comparison_markdown(runs))


def _write(folder: Path, name: str, page: str, text: str) -> tuple[Path, Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        good = os.access(folder, os.W_OK)
    except OSError:
        good = False
    if not good:
        raise UserError(f"{folder} is not a writable folder", hint="name another one with `--out`")
    files = folder / f"{name}.html", folder / f"{name}.md"
    for file, content in zip(files, (page, text), strict=True):
        write_text_atomic(file, content)
    return files
