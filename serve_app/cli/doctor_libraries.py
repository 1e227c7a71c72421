"""Python, the distributions that Motet requires, and its optional parts."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement

from serve_app.cli.findings import Finding

IN_PROJECT = "In the project's folder: "


def libraries() -> Iterator[Finding]:
    """Python, and every distribution that Motet requires, against the versions that it accepts."""
    yield Finding("libraries", "python", "ok", f"{platform.python_version()} at {sys.executable}")
    if version_of("motet") is None:
        yield Finding(
            "libraries", "motet", "broken", "runs from its source only", f"{IN_PROJECT}pip install --editable ."
        )
        return
    for requirement in _requirements():
        if _applies(requirement, ""):
            yield _library(requirement)


def _library(requirement: Requirement) -> Finding:
    version = version_of(requirement.name)
    fits = version is not None and requirement.specifier.contains(version, prereleases=True)
    wanted = f"{requirement.name}{requirement.specifier}"
    if fits:
        return Finding("libraries", requirement.name, "ok", f"{version} ({requirement.specifier})")
    detail = f"not installed; Motet needs {wanted}" if version is None else f"{version}; Motet needs {wanted}"
    return Finding("libraries", requirement.name, "broken", detail, f"pip install '{_wanted(requirement)}'")


def extras() -> Iterator[Finding]:
    """The optional parts of Motet."""
    if version_of("motet") is None:
        return
    requirements = _requirements()
    for extra in _extras():
        of_extra = [r for r in requirements if _applies(r, extra) and not _applies(r, "") and r.name != "motet"]
        missing = [r.name for r in of_extra if version_of(r.name) is None]
        versions = ", ".join(f"{r.name} {version_of(r.name)}" for r in of_extra if r.name not in missing)
        if missing:
            lacks = f"not installed: {', '.join(missing)}"
            yield Finding("extras", extra, "absent", lacks, install_extra(extra))
        else:
            yield Finding("extras", extra, "ok", versions or "nothing to install on this system")


def install_extra(extra: str) -> str:
    return f"{IN_PROJECT}pip install --constraint constraints.txt --editable '.[{extra}]'"


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in importlib.metadata.requires("motet") or []]


def _extras() -> list[str]:
    return importlib.metadata.metadata("motet").get_all("Provides-Extra") or []


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _wanted(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
