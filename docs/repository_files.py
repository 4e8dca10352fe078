"""Links of the pages to files of the repository, such as result files: the site holds copies of them under files/.

A hook of mkdocs (mkdocs.yml). Raises PluginError for a link to a file that does not exist.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)")


def on_files(files: Any, config: Any) -> Any:
    """The site's files, with a copy of every file outside docs/ that a page links to."""
    for page in list(files.documentation_pages()):
        for link in LINK.findall(page.content_string):
            target = _in_repository(page.src_uri, link)
            if target.startswith("docs/"):
                continue
            if not (ROOT / target).is_file():
                raise PluginError(f"docs/{page.src_uri} links to {target}, which is not a file of the repository")
            copy = f"files/{target}.txt" if target.endswith((".md", ".py")) else f"files/{target}"
            if files.get_file_from_path(copy) is None:
                files.append(File.generated(config, copy, content=(ROOT / target).read_bytes()))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The page's text with its links to files outside docs/ turned to the copies."""

    def turn(match: re.Match[str]) -> str:
        target = _in_repository(page.file.src_uri, match[0])
        if target.startswith("docs/"):
            return match[0]
        copy = f"files/{target}.txt" if target.endswith((".md", ".py")) else f"files/{target}"
        return posixpath.relpath(copy, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(turn, markdown)


def _in_repository(page: str, link: str) -> str:
    return posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
