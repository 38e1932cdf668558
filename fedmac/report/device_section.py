"""The section about the devices: their figure, and how unequal they are in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import pandas as pd

from fedmac.report.device_figures import MAX_DEVICES, device_figures, device_tables
from fedmac.report.folder import Record
from fedmac.report.over_seeds import finite
from fedmac.report.plot import figure_section
from fedmac.report.table import ABSENT, energy_unit, number


def device_section(record: Record) -> str:
    """Return what each device got: rounds heard, gain, energy, weight, and their spread over the devices."""
    totals = {str(v["name"]): int(n) for v in record.variants if (n := number(v, "devices")) is not None}
    tables = device_tables(record.rounds, totals)
    most = max((len(table) for table in tables.values()), default=0)
    thinned = f" {MAX_DEVICES} devices of {most:,} are drawn, evenly spaced; all are in the run folder."
    return figure_section(
        "devices",
        "Devices",
        "How often each device was heard, how good its channel was, what it spent and how much its data weighs, over"
        " all rounds of the first seed. A column is a device; where channels differ, the best comes first."
        + thinned
        * (most > MAX_DEVICES),
        device_figures(tables, energy_unit(record.variants)),
        summary=" ".join(_devices_in_words(name, table) for name, table in list(tables.items())[:6]),
        below=_devices_in_numbers(tables),
    )


def _devices_in_words(name: str, table: pd.DataFrame) -> str:
    """Say how unequal the devices are, such as: the busiest spent 1.40 times the mean energy."""
    said = [f"heard in {values} of the rounds" if (values := _range(table["heard"], "{:.0%}")) else ""]
    said.append(f"the busiest spent {ratio} times the mean energy" if (ratio := _top(table["energy"])) else "")
    said.append(f"the largest data share is {ratio} times the mean" if (ratio := _top(table["weight"])) else "")
    return f"{name}: {'; '.join(part for part in said if part)}."


def _devices_in_numbers(tables: Mapping[str, pd.DataFrame]) -> str:
    """Return how unequal the devices of each variant are as a table that opens on demand, in HTML."""
    if not tables:
        return ""
    words = ("variant", "rounds heard", "mean gain (dB)", "highest energy / mean", "largest data share / mean")
    heads = "".join(f'<th scope="col">{word}</th>' for word in words)
    rows = ""
    for name, table in tables.items():
        cells = (
            _range(table["heard"], "{:.0%}"),
            _range(table["gain_db"], "{:.1f}"),
            _top(table["energy"]),
            _top(table["weight"]),
        )
        figures = "".join(f"<td>{text or ABSENT}</td>" for text in cells)
        rows += f'<tr><th scope="row">{escape(name)}</th>{figures}</tr>'
    return (
        '<details><summary>Devices in numbers</summary><div class="scroll" tabindex="0" role="region"'
        f' aria-label="Devices in numbers"><table class="numbers"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _range(values: pd.Series[float], form: str) -> str:
    """Write the lowest and highest finite value; empty without any."""
    known = finite(values)
    low, high = (form.format(value) for value in (known.min(), known.max())) if len(known) else ("", "")
    return low if low == high else f"{low} to {high}"


def _top(values: pd.Series[float]) -> str:
    """Write the highest value over the mean, which is one where all are equal; empty if there is no mean."""
    known = finite(values)
    return f"{known.max() / known.mean():.2f}" if len(known) and known.mean() > 0 else ""
