"""The report of one or several runs: one self-contained HTML page.

:func:`write_report` reads what a run left in its folder and writes ``report.html``, which opens from disk,
offline, in any browser. The rooms: `folder` reads; `cards`, `table` and `final_values` say the figures; `figures`
(curves, on the axis that `value_axis` chooses), `air_figures`, `device_figures`, `system_figures`, `timeline_figure`
(of what `spans` chooses) and `clock_figures` draw; `run_sections`, `curve_section`, `device_section`, `system_section`
and `setting` put headings and sentences to them; `plot` and `page` make HTML.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fedmac.report.folder import join_runs, read_run
from fedmac.report.page import render_page

__all__ = ["write_report"]


def write_report(folders: Path | str | Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write the report of a run folder, or one report that compares several.

    Parameters
    ----------
    folders
        A run folder, or several. Of several, each variant is shown as ``run / variant``.
    out
        The file to write, or an existing folder to write ``report.html`` into. May be left out for a single
        run folder, whose report then lies in it.

    Returns
    -------
    Path
        The page. It is put in place in one step: a full disk leaves an older report as it was.

    Raises
    ------
    ValueError
        No folder given; several given without `out`; a folder that is no run; a broken record (the message
        names file and line).
    OSError
        The page cannot be written.
    """
    paths = [Path(folders)] if isinstance(folders, (str, Path)) else [Path(folder) for folder in folders]
    if not paths:
        raise ValueError("folders: got none, expected at least one run folder")
    if out is None and len(paths) > 1:
        raise ValueError(f"out: got None with {len(paths)} run folders, expected the file to write the comparison to")
    target = paths[0] if out is None else Path(out)
    if target.is_dir() or out is None:
        target = target / "report.html"
    html = render_page(join_runs([read_run(path) for path in paths]))
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        # A lone surrogate in a device's message must not cost the whole page.
        part.write_text(html, encoding="utf-8", errors="replace")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target
