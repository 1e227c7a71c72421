"""The documentation links to files that exist, and names source files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from serve_app.config import AppConfig

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docs/clients/README.md",
]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[\w-]+)?\)")
SOURCE = re.compile(r"`((?:serve_app|deployments|cluster|tests)/[\w./-]*[\w/])[:`]")
EXAMPLES = {"deployments/engines/morse/engine.py", "tests/unit/test_morse.py"}
"""Files that a page asks its reader to write."""


def anchors_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link, anchor in LINK.findall(page.read_text()):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not anchor or anchor[1:] in anchors_of(target), f"{link}{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_source_files_that_are_named_exist(page: Path) -> None:
    named = {name for name in SOURCE.findall(page.read_text()) if "*" not in name} - EXAMPLES
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_the_readme_links_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES[2:] if str(page.relative_to(ROOT)) not in readme] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_models_in_the_documentation_are_valid(page: Path) -> None:
    for example in re.findall(r"^```yaml\n(models:.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        assert AppConfig.model_validate(yaml.safe_load(example)).models
