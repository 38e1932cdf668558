"""What a scenario names outside itself: files to read, folders to write, and code to import."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from fedmac.scenario_errors import ScenarioError, shown

if TYPE_CHECKING:
    from fedmac.scenario import Scenario

FILE_KEYS = (("channel", "trace"), ("plan", "pilot"))
"""Tables and keys whose value is a file that is read: looked for beside the scenario, then in the working directory.

No key is a path that is written to: a run writes into its folder, and into folders in it that variants name.
"""

ALLOW_IMPORTS = "FEDMAC_ALLOW_IMPORTS"
"""Environment variable of Flower's processes: 1 where a scenario may name code to import."""

FOLDER_NAME = (
    'a text without slashes and : * ? " < > |, with no dot or space at an end, of at most 100 bytes, that no system '
    "reserves"
)
"""What may name a folder, in words."""

_LONGEST_NAME = 100  # most file systems hold 255 bytes a name; files get endings behind it


def found_from(folder: Path | None, content: Mapping[str, Any]) -> dict[str, Any]:
    """A scenario's content with the files it names in full, where they exist.

    A run folder keeps the scenario, which then means the same files wherever it is read again. What is not found stays
    as it is, to be refused when it is opened.

    Parameters
    ----------
    folder : Path or None
        Of the scenario file; None for a scenario that is none, whose files are looked for in the working directory.
    content : mapping
        As read; variants are looked through as well.
    """
    found = dict(content)
    for table, key in FILE_KEYS:
        section = found.get(table)
        if isinstance(section, Mapping) and isinstance(section.get(key), str):
            found[table] = dict(section) | {key: _in_full(section[key], folder)}
    variants = found.get("variants")
    if isinstance(variants, list):
        found["variants"] = [found_from(folder, v) if isinstance(v, Mapping) else v for v in variants]
    return found


def _in_full(name: str, folder: Path | None) -> str:
    for place in ([] if folder is None else [folder]) + [Path()]:
        if name and (place / name).is_file():
            return str((place / name).absolute())
    return name


def is_folder_name(name: str) -> bool:
    """Whether a name that a scenario gives can be that of a folder, on any system, and of one in the run's folder."""
    if not name.isprintable() or not 0 < len(name.encode(errors="surrogatepass")) <= _LONGEST_NAME:
        return False
    if name != name.strip() or name.startswith(".") or name.endswith(".") or set(name) & set('/\\:*?"<>|'):
        return False
    return not PureWindowsPath(name).is_reserved()


def refuse_imports(scenario: Scenario) -> None:
    """Refuse a scenario that names code to import, in a process of Flower's where that is not allowed.

    ``model.name = "package.module:factory"`` is the only such key. In this process's own runs the scenario is the
    user's; the apps of a deployment are sent theirs.

    Raises
    ------
    ScenarioError
        If there is such a name and ``FEDMAC_ALLOW_IMPORTS`` is not 1.
    """
    said = os.environ.get(ALLOW_IMPORTS, "0")
    if said not in ("0", "1"):
        raise ScenarioError(f"{ALLOW_IMPORTS} = {said!r}: accepted: 0, 1")
    for variant in scenario.resolve() if said == "0" else ():
        if ":" in (name := variant.scenario.model.name):
            raise ScenarioError(
                f"model.name = {shown(name)}: imports code, which this process allows no scenario that it is sent; "
                "accepted: a model that `fedmac list models` shows; or server and devices started with "
                f"--allow-imports (by hand: {ALLOW_IMPORTS}=1 in the environment of SuperLink and SuperNodes)"
            )
