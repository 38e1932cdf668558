"""Versions: Python's, FedMAC's, and those of what it needs."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from fedmac.doctor.finding import Finding

SHOWN = ("flwr", "torch", "numpy", "scipy", "cvxpy")


def installation(distribution: str = "fedmac") -> Iterator[Finding]:
    """Whether Python and every package are of a version that FedMAC accepts, and which extras are there.

    Parameters
    ----------
    distribution : str
        Whose requirements are looked at.
    """
    facts = metadata.metadata(distribution)
    accepted, python = SpecifierSet(facts["Requires-Python"] or ""), platform.python_version()
    right = accepted.contains(python, prereleases=True)
    yield Finding("ok" if right else "problem", "Python", python, "" if right else f"accepted: {accepted}")
    needed = [Requirement(line) for line in metadata.requires(distribution) or []]
    missing = [problem for need in needed if need.marker is None and (problem := lacking(need))]
    for problem in missing:
        yield Finding("problem", "package", problem, "install FedMAC again: pip install -e . in its repository")
    if not missing:
        versions = ", ".join(f"{name} {version}" for name in SHOWN if (version := version_of(name)))
        yield Finding("ok", "packages", f"{distribution} {facts['Version']}, {versions}")
    yield _extras(facts.get_all("Provides-Extra") or [], needed)


def _extras(names: list[str], needed: list[Requirement]) -> Finding:
    absent = []
    for extra in names:
        its = [need for need in needed if need.marker is not None and need.marker.evaluate({"extra": extra})]
        if any(lacking(need) for need in its):
            absent.append(extra)
    there = [extra for extra in names if extra not in absent]
    advice = f"not installed: {', '.join(absent)} (pip install -e '.[NAME]' in the repository)" if absent else ""
    return Finding("ok", "extras", ", ".join(there) or "none", advice)


def lacking(need: Requirement) -> str:
    """What is wrong with a required package: not there, or of another version; empty if nothing is."""
    version = version_of(need.name)
    if version is None:
        return f"{need.name} is not installed"
    if not need.specifier.contains(version, prereleases=True):
        return f"{need.name} {version}, but {need.specifier} is needed"
    return ""


def version_of(package: str) -> str | None:
    """The version that is installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
