"""A report page of made-up runs, and reading pages back: the text without plotly.js, and the plots' data."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

import fedmac.report
from fedmac.report import write_report
from tests.fedmac.synthetic_runs import NASTY, run_rows, write_run

REPORT = Path(fedmac.report.__file__).parent
PLOTLY = (REPORT / "plotly-cartesian.min.js").read_text(encoding="utf-8")


def write_page(folder: Path, *, name: str, rounds: int, devices: int) -> Path:
    """Write the report of three variants: an ideal link, a fading one, and one of two rounds and a nasty name."""
    variants = [
        run_rows("ideal", seeds=range(3), rounds=rounds, devices=devices, fading=False),
        run_rows("rlc", seeds=range(3), rounds=rounds, devices=devices, silent=True),
        run_rows(NASTY, seeds=[0], rounds=2, devices=devices),
    ]
    return write_report(write_run(folder, variants, name=name))


def body(page: Path) -> str:
    """The page without plotly.js."""
    return page.read_text(encoding="utf-8").replace(PLOTLY, "")


def views(html: str, identifier: str) -> list[dict[str, Any]]:
    """The views of one plot, as the page's script reads them."""
    found = re.search(rf'id="{identifier}".*?<script type="application/json">(.*?)</script>', html, re.S)
    assert found is not None, f"the page has no plot {identifier}"
    parsed: list[dict[str, Any]] = json.loads(found.group(1))
    for trace in (trace for view in parsed for trace in view["data"]):
        for key, value in trace.items():
            if isinstance(value, dict) and "same" in value:
                view, index, name = value["same"]
                trace[key] = parsed[view]["data"][index][name]
    return parsed


def decoded(value: Any) -> np.ndarray[Any, Any]:
    """An array of a plotly figure written as JSON."""
    if isinstance(value, dict):
        array = np.frombuffer(base64.b64decode(value["bdata"]), dtype=value["dtype"])
        return array.reshape([int(length) for length in value.get("shape", "-1").split(",")])
    return np.asarray(value)
