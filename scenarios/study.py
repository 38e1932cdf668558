"""What scripts of studies share: the command line that chooses cells, and the table that grows cell by cell."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path


def study_arguments(description: str | None, names: Sequence[str], *, seeds: int, out: str) -> argparse.Namespace:
    """The command line of a study: `cells` (the names chosen by ``--only``), `seeds`, `jobs` and `out`.

    Parameters
    ----------
    description : str
        For ``--help``: the script's docstring.
    names : sequence of str
        Of all its cells.
    seeds, out
        Defaults.

    Raises
    ------
    SystemExit
        If no cell's name holds the text.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help=f"cells whose names hold this text, e.g. {names[0]!r}")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--jobs", type=int, help="processes (default: one for each core)")
    parser.add_argument("--out", type=Path, default=Path(out))
    arguments = parser.parse_args()
    arguments.cells = [name for name in names if arguments.only in name]
    if not arguments.cells:
        parser.error(f"--only {arguments.only}: accepted: part of a name such as {names[0]!r}")
    return arguments


def write_table(out: Path, sections: Iterable[str]) -> None:
    """Print each section as it comes, and write those that are there to OUT/table.md."""
    written: list[str] = []
    for section in sections:
        written.append(section)
        print(section, flush=True)
        (out / "table.md").write_text("\n".join(written), encoding="utf-8")
