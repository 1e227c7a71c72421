"""The documentation links to files that exist, and names source files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serve_app.cli.command_reference import markdown
from tests.documentation import DOCS, FENCE, PAGES, ROOT

LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[\w-]+)?\)")
SOURCE = re.compile(r"`((?:serve_app|deployments|cluster|tests)/[\w./-]*[\w/])[:`]")
EXAMPLES = {"deployments/engines/morse/engine.py", "tests/unit/test_morse.py"}
"""Files that a page asks its reader to write."""


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link, anchor in LINK.findall(page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor[1:] in anchors_of(target), f"{link}{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_are_fenced(page: Path) -> None:
    """An indented one would have no language, and no test would read it."""
    assert not re.search(r"^\S.*\n\n    \S", FENCE.sub("```", page.read_text()), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_source_files_that_are_named_exist(page: Path) -> None:
    named = {name for name in SOURCE.findall(page.read_text()) if "*" not in name} - EXAMPLES
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_readme_links_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    pages = [str(page.relative_to(ROOT)) for page in PAGES if page.is_relative_to(DOCS)]
    assert [page for page in pages if page not in readme] == []


def test_the_page_of_commands_is_current() -> None:
    assert markdown() == (DOCS / "commands.md").read_text()
