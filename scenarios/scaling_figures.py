"""Tables and pictures of scenarios/scaling.py."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scaling_cells import SYSTEMS, WITH_BARRIER

from fedmac.studies.compare.paper import STYLE

COLOURS = ("#000000", "#999999", "#D55E00", "#E69F00", "#CC79A7", "#0072B2", "#009E73", "#56B4E9", "#F0E442")
LOOKS = {
    system: {"color": colour, "marker": marker, "linestyle": "-" if system in WITH_BARRIER else "--"}
    for system, colour, marker in zip(SYSTEMS, COLOURS, "oPsDv^<>X", strict=False)
}
SETTING = ["scaling", "network", "stragglers"]
SHOWN_AT = 32
"""Workers of whom the histogram of staleness is drawn."""


def tables(rows: pd.DataFrame, target: float) -> Iterator[str]:
    """All of table.md."""
    for figure, words in (("time_s", "Seconds"), ("joules", "Joules of all workers")):
        for setting, own in _groups(rows, SETTING):
            yield f"\n### {words} to a test loss of {target:g}: {', '.join(map(str, setting))}\n"
            yield from _by_workers(own, figure)
    reached = rows.assign(rounds=rows["rounds"].where(rows["time_s"].notna()))
    for setting, own in _groups(reached, SETTING):
        yield f"\n### Rounds to a test loss of {target:g}: {', '.join(map(str, setting))}\n"
        yield from _by_workers(own, "rounds")
    yield "\n### Fastest with a barrier and without one, and where they cross\n"
    yield from fastest(rows)
    yield "\n### Learning rates\n"
    yield from _rates(rows)
    yield "\n### How far apart: mean staleness, share of updates rejected, consensus distance; and utilisation\n"
    yield from _apart(rows)


def _groups(rows: pd.DataFrame, keys: list[str]) -> Iterator[tuple[tuple[object, ...], pd.DataFrame]]:
    for key, own in rows.groupby(keys, sort=False):
        yield (key if isinstance(key, tuple) else (key,)), own


def _by_workers(rows: pd.DataFrame, figure: str) -> Iterator[str]:
    workers = sorted(rows["workers"].unique())
    yield "| system | " + " | ".join(f"p = {p}" for p in workers) + " |"
    yield "|---" * (1 + len(workers)) + "|"
    for system in rows["system"].unique():
        cells = [told(rows[(rows["system"] == system) & (rows["workers"] == p)][figure]) for p in workers]
        yield f"| {system} | {' | '.join(cells)} |"


def told(values: pd.Series) -> str:
    """Mean over the seeds, least to largest; how many reached the target if not all did."""
    there = values.dropna()
    if there.empty:
        return "-" if len(values) else ""
    spread = f" ({there.min():.3g} to {there.max():.3g})" if len(there) > 1 else ""
    return f"{there.mean():.3g}{spread}" + ("" if len(there) == len(values) else f", {len(there)} of {len(values)}")


def means(rows: pd.DataFrame, figure: str = "time_s") -> pd.DataFrame:
    """A figure's mean over the seeds, systems by workers; NaN where not all seeds reached the target."""
    return (
        rows.groupby(["system", "workers"], sort=False)[figure].agg(lambda v: v.mean(skipna=False)).unstack("workers")
    )


def fastest(rows: pd.DataFrame) -> Iterator[str]:
    """The least time with and without a barrier for each setting and p, and the p at which the order changes."""
    workers = sorted(rows["workers"].unique())
    yield "| setting | " + " | ".join(f"p = {p}" for p in workers) + " | order changes at p |"
    yield "|---" * (2 + len(workers)) + "|"
    for setting, own in _groups(rows, SETTING):
        times = means(own)
        barrier = times[times.index.isin(WITH_BARRIER)]
        free = times[~times.index.isin(WITH_BARRIER)]
        cells = [f"{_least(barrier, p)} / {_least(free, p)}" for p in workers]
        crossings = [f"{p:.0f}" for p in crossing(barrier.min(), free.min())]
        yield f"| {', '.join(map(str, setting))} | {' | '.join(cells)} | {', '.join(crossings) or '-'} |"


def _least(times: pd.DataFrame, p: int) -> str:
    if p not in times or times[p].isna().all():
        return "-"
    return f"{times[p].idxmin()} {times[p].min():.3g}"


def crossing(one: pd.Series, other: pd.Series) -> list[float]:
    """Numbers of workers at which two curves cross, log time linear in log p between those that ran."""
    apart = np.log(one / other).dropna().sort_index()
    places = []
    for (p, before), (q, after) in zip(apart.items(), list(apart.items())[1:], strict=False):
        if before * after < 0:
            share = before / (before - after)
            places.append(math.exp((1 - share) * math.log(p) + share * math.log(q)))
    return places


def _rates(rows: pd.DataFrame) -> Iterator[str]:
    own = rows[rows["network"] == rows["network"].iloc[0]]
    workers = sorted(own["workers"].unique())
    yield "| system | scaling | " + " | ".join(f"p = {p}" for p in workers) + " |"
    yield "|---" * (2 + len(workers)) + "|"
    for (system, scaling), those in own.groupby(["system", "scaling"], sort=False):
        rates = those.groupby("workers")["rate"].first()
        cells = [f"{rates[p]:g}" if p in rates else "" for p in workers]
        yield f"| {system} | {scaling} | {' | '.join(cells)} |"


def _apart(rows: pd.DataFrame) -> Iterator[str]:
    yield "| setting | p | system | staleness | rejected | consensus distance | utilisation |"
    yield "|---" * 7 + "|"
    for (*setting, p, system), own in _groups(rows, [*SETTING, "workers", "system"]):
        if "time_s" not in own or own["time_s"].isna().all():
            continue
        cells = [f"{mean_staleness(own):.1f}" if histogram(own).any() else ""] + [
            "" if key not in own or own[key].isna().all() else f"{own[key].mean():.3g}"
            for key in ("rejected", "consensus_distance", "utilisation")
        ]
        yield f"| {', '.join(map(str, setting))} | {p} | {system} | {' | '.join(cells)} |"


def histogram(rows: pd.DataFrame) -> np.ndarray:
    """Share of the updates of each staleness, all seeds together."""
    counts = [one for one in rows.get("staleness", pd.Series(dtype=object)) if isinstance(one, list)]
    total = np.zeros(max(map(len, counts), default=1))
    for one in counts:
        total[: len(one)] += one
    return total / max(1.0, total.sum())


def mean_staleness(rows: pd.DataFrame) -> float:
    """Over all updates."""
    shares = histogram(rows)
    return float(shares @ np.arange(len(shares)))


@contextmanager
def _figure(height: float) -> Iterator[Figure]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        figure = Figure(figsize=(7.16, height))
        FigureCanvasAgg(figure)
        yield figure


def draw_speed_up(rows: pd.DataFrame, path: Path) -> None:
    """Times as fast as two synchronous workers, over p: weak scaling by network and stragglers, then strong scaling."""
    settings = [setting for setting, _ in _groups(rows, SETTING)]
    across = [*dict.fromkeys(stragglers for _, _, stragglers in settings)]
    down = [*dict.fromkeys((scaling, network) for scaling, network, _ in settings)]
    with _figure(1.75 * len(down) + 0.6) as figure:
        panels = figure.subplots(len(down), len(across), sharex=True, sharey="row", squeeze=False)
        for setting, own in _groups(rows, SETTING):
            axes = panels[down.index(setting[:2])][across.index(setting[2])]
            _speed_up_curves(axes, means(own))
            axes.set_title(f"{setting[0]}, {setting[1]}, stragglers: {setting[2]}")
        for axes in panels.flat:
            axes.set(xlabel="workers p")
        for row in panels:
            row[0].set(ylabel="speed-up")
        handles: dict[str, Artist] = {}
        for axes in panels.flat:
            axes.set_visible(axes.has_data())
            lines, labels = axes.get_legend_handles_labels()
            handles |= dict(zip(labels, lines, strict=True))
        look = {"handlelength": 2.0, "columnspacing": 1.0}
        figure.legend([*handles.values()], [*handles], loc="outside upper center", ncols=5, **look)
        figure.savefig(path, metadata={"Date": None})


def _speed_up_curves(axes: Axes, times: pd.DataFrame) -> None:
    if "synchronous" not in times.index:
        return
    first = min(times.columns)
    base = times.loc["synchronous", first]
    for system, own in times.iterrows():
        own = own.dropna().sort_index()
        axes.plot(own.index, base / own, label=system, markersize=3, **LOOKS[str(system)])
    ideal = sorted(times.columns)
    axes.plot(ideal, [p / first for p in ideal], color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_ylim(top=2 ** math.ceil(math.log2(max(4.0, float((base / times).max().max()))) + 0.5))


def draw_replicas(rows: pd.DataFrame, path: Path) -> None:
    """Histograms of staleness at 32 workers by kind of stragglers, and consensus distance over p where there is one."""
    own = rows[(rows["scaling"] == "weak") & (rows["network"] == rows["network"].iloc[0])]
    p = SHOWN_AT if (own["workers"] == SHOWN_AT).any() else own["workers"].max()
    kinds = [*own["stragglers"].unique()]
    with _figure(2.4) as figure:
        panels = figure.subplots(1, len(kinds) + 1)
        for axes, stragglers in zip(panels, kinds, strict=False):
            for system, those in own[(own["stragglers"] == stragglers) & (own["workers"] == p)].groupby("system"):
                shares = histogram(those)
                if system in WITH_BARRIER or not shares.any():
                    continue
                look = {"color": LOOKS[str(system)]["color"], "label": system, "linewidth": 1.0}
                axes.stairs(shares, np.arange(len(shares) + 1) - 0.5, **look)
            axes.set(xlabel=f"staleness, p = {p}", yscale="log", title=f"stragglers: {stragglers}", ylim=(1e-4, 1.5))
        panels[0].set(ylabel="share of updates")
        if "consensus_distance" in own:
            _distances(panels[-1], own[own["stragglers"] == "mild"])
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5)
        figure.savefig(path, metadata={"Date": None})


def _distances(axes: Axes, rows: pd.DataFrame) -> None:
    for system, own in means(rows, "consensus_distance").dropna(how="all").iterrows():
        axes.plot(own.index, own, markersize=3, **LOOKS[str(system)])
    axes.set(xlabel="workers p", ylabel="consensus distance", title="stragglers: mild")
    axes.set_xscale("log", base=2)
