"""Links, anchors and paths in the documentation name what exists, without the tool that builds the site."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
ROOMS = sorted(path.name for path in (ROOT / "openqwq").iterdir() if (path / "__init__.py").exists())
FOLDERS = "|".join(["openqwq", "benchmarks", "recipes", "tests", "docs", *ROOMS])
NAMED = re.compile(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*\w")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def missing_links(page: Path, text: str) -> list[str]:
    return [link for link in LINK.findall(text) if not (page.parent / link.partition("#")[0]).exists()]


def missing_paths(text: str) -> list[str]:
    """Paths below the repository's folders, or a room's own as in `train/rl.py`, that do not exist."""
    named = [path for path in NAMED.findall(text) if re.search(r"\.(?:py|c|h|md|toml|jsonl?|html|ya?ml)$", path)]
    return [path for path in named if not (ROOT / path).exists() and not (ROOT / "openqwq" / path).exists()]


def anchors_of(text: str) -> set[str]:
    """The ids that GitHub and mkdocs give to a page's headings."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", head)).strip().lower() for head in heads]
    return {re.sub(r"\s", "-", head) for head in plain}


def missing_anchors(page: Path, text: str) -> list[str]:
    missing = []
    for link in LINK.findall(text):
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        if anchor and file.suffix == ".md" and file.exists() and anchor not in anchors_of(text_of(file)):
            missing.append(link)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_anchor_of_the_documentation_exists(page):
    assert missing_links(page, prose_of(page)) == []
    assert missing_anchors(page, prose_of(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_the_documentation_names_exists(page):
    assert missing_paths(text_of(page)) == []


def test_broken_links_anchors_and_paths_are_found():
    page = ROOT / "README.md"
    assert missing_links(page, "[a](docs/rl.md) [b](docs/absent.md#x) [c](https://absent.example)") == [
        "docs/absent.md#x"
    ]
    assert missing_anchors(page, "[a](docs/rl.md#speed) [b](docs/rl.md#absent)") == ["docs/rl.md#absent"]
    assert missing_paths("`train/rl.py`, `train/absent.py`, runs/tiny/a.py, benchmarks/absent.json") == [
        "train/absent.py",
        "benchmarks/absent.json",
    ]


def test_pages_of_the_navigation_exist():
    entries = re.findall(r"(?<=: )[\w/-]+\.md$", text_of(ROOT / "mkdocs.yml"), re.MULTILINE)
    assert entries and [name for name in entries if not (ROOT / "docs" / name).exists()] == []
