"""The site of the documentation builds without a warning, has every page, and loads nothing from another host."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.documentation import DOCS, PAGES, ROOT

REMOTE = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")

pytestmark = pytest.mark.skipif(find_spec("mkdocs") is None, reason="the extra `docs` is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def address_of(page: Path) -> str:
    """Where the site has a page."""
    path = page.relative_to(DOCS).with_suffix("")
    return (
        "index.html" if path.name == "index" else str((path.parent if path.name == "README" else path) / "index.html")
    )


def test_every_page_is_there_and_in_the_navigation(site: Path) -> None:
    pages = [page for page in PAGES if page.is_relative_to(DOCS)]
    navigation = (site / "api" / "index.html").read_text()
    for page in pages:
        address = address_of(page)
        assert (site / address).is_file(), page
        assert f'href="../{address.removesuffix("index.html")}"' in navigation or page.name in ("index.md", "api.md"), (
            page
        )


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    found = [tag for page in site.rglob("*.html") for tag in REMOTE.findall(page.read_text())]
    assert found == []
    styles = "".join(file.read_text() for file in site.rglob("*.css"))
    assert not re.search(r"""(?:@import|url\()\s*["']?(?:https?:)?//""", styles)


def test_tables_and_examples_became_html(site: Path) -> None:
    """A table after a line of text without an empty line between would stay text."""
    for page in site.rglob("*.html"):
        text = re.sub(r"<(code|pre)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        assert not re.search(r"\|---|```|^\|[^<]*\|", text, re.MULTILINE), page
