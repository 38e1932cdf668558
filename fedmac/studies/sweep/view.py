"""What is printed of a sweep: its plan before it runs, its best cells and its failures afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from fedmac.report.table import UNITS
from fedmac.studies.sweep.folder import Sweep
from fedmac.studies.sweep.grid import value_text
from fedmac.studies.sweep.plan import Estimate, Share, rounds_of
from fedmac.studies.sweep.table import Outcome

SHOWN_OUTCOMES = 12
_LONGEST_REASON = 300


def plan_lines(sweep: Sweep, at_once: int) -> list[str]:
    """How much there is to run, and how much of it is done."""
    cells, seeds = len(sweep.cells), len(sweep.seeds)
    variants = len(sweep.variants(sweep.cells[0]))
    rounds = sum(rounds_of(sweep, cell) for cell, _ in sweep.jobs)
    done = [cell for cell, seed in sweep.jobs if sweep.state(cell, seed).status == "done"]
    factors = [_many(cells, "cell"), _many(seeds, "seed"), *([_many(variants, "variant")] if variants > 1 else [])]
    lines = [f"{sweep.name}: {' x '.join(factors)} = {_many(cells * seeds * variants, 'run')}"]
    lines += [f"  {key} = {', '.join(map(value_text, values))}" for key, values in sweep.grid.items()]
    lines.append(f"  {_many(rounds, 'round')} in {_many(len(sweep.jobs), 'job')}, {at_once} side by side")
    if done:
        left = rounds - sum(rounds_of(sweep, cell) for cell in done)
        lines.append(f"  {_many(len(done), 'job')} done already; {_many(left, 'round')} left")
    return lines


def budget_table(sweep: Sweep, shares: Sequence[Share]) -> Table:
    """What a run of each variant may spend, from the cell with the least to the one with the most, and all runs."""
    table = Table(title="a run may spend", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("variant", overflow="fold")
    table.add_column("channel uses", justify="right")
    table.add_column("energy per device", justify="right")
    seeds = len(sweep.seeds)
    for share in shares:
        uses = [float(budget.channel_uses) for budget in share.budgets if budget.channel_uses is not None]
        energies = [budget.energy for budget in share.budgets if budget.energy is not None]
        table.add_row(share.variant, _range(uses), _range(energies, share.units))
    everything = [budget for share in shares for budget in share.budgets]
    units = {unit for share in shares for unit in share.units}
    total = sum(budget.energy or 0.0 for budget in everything) * seeds
    table.add_section()
    table.add_row(
        "all runs",
        _amount(float(sum(budget.channel_uses or 0 for budget in everything) * seeds)),
        _range([total], units) if len(units) == 1 else "in two units",
    )
    return table


def estimate_line(estimate: Estimate) -> str:
    """The time left and what it rests on."""
    if estimate.seconds is None:
        return f"estimated time: unknown ({estimate.basis})"
    return f"estimated time: {_duration(estimate.seconds)} ({estimate.basis})"


def outcome_table(sweep: Sweep, outcomes: Sequence[Outcome]) -> Table:
    """The best cells: mean over seeds, the deviation beside it; a column for each key of the grid."""
    shown = outcomes[:SHOWN_OUTCOMES]
    merit = outcomes[0].merit
    more = f"; {len(outcomes) - len(shown)} more in the table" if len(outcomes) > len(shown) else ""
    what = "mean ± standard deviation over the seeds" if len(sweep.seeds) > 1 else "one seed"
    table = Table(
        title=f"{sweep.name}: best {merit.replace('_', ' ')}, {what}{more}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    settings = {cell.name: cell.settings for cell in sweep.cells}
    for label in column_labels(sweep).values():
        table.add_column(label, overflow="fold")
    with_variants = len({outcome.variant for outcome in outcomes}) > 1
    if with_variants:
        table.add_column("variant", overflow="fold")
    for heading in ("seeds", merit.rpartition("_")[2], "uses", "energy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for outcome in shown:
        table.add_row(
            *(value_text(value) for value in settings[outcome.cell].values()),
            *([outcome.variant] if with_variants else []),
            str(outcome.seeds),
            _with_deviation(outcome),
            _amount(outcome.figures.get("channel_uses", 0.0)),
            _amount(outcome.figures.get("energy_j_per_device_mean", 0.0)),
        )
    return table


def column_labels(sweep: Sweep) -> dict[str, str]:
    """A short word for each key of the grid: its last part where no other key has the same."""
    last = {key: key.rsplit(".", 1)[-1] for key in sweep.grid}
    return {key: word if list(last.values()).count(word) == 1 else key for key, word in last.items()}


def failure_lines(sweep: Sweep) -> list[str]:
    """A line for each job that failed, with its reason."""
    lines = []
    for cell, seed, reason in sweep.failures:
        words = " ".join(reason.split())
        words = words if len(words) <= _LONGEST_REASON else words[: _LONGEST_REASON - 1] + "…"
        lines.append(f"failed: {cell.name} seed {seed}: {words or 'no reason known'}")
    return lines


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _range(values: Sequence[float], units: set[str] | None = None) -> str:
    """From the least to the most, with units if it is about energy; nothing where it depends on how runs go."""
    if not values:
        return "depends on the run"
    low, high = min(values), max(values)
    text = _amount(low) if low == high else f"{_amount(low)} to {_amount(high)}"
    return f"{text} {' or '.join(sorted(UNITS[u] for u in units))}" if units else text


def _amount(value: float) -> str:
    whole = float(value).is_integer() and abs(value) < 1e15
    return f"{value:,.0f}" if whole or 1e3 <= value < 1e7 else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"about {seconds:.0f} s" if seconds >= 1 else "less than 1 s"
    minutes = seconds / 60
    return f"about {minutes:.0f} min" if minutes < 100 else f"about {minutes / 60:.1f} h"


def _with_deviation(outcome: Outcome) -> str:
    if outcome.mean is None:
        return "-"
    return f"{outcome.mean:.3f}" + (f" ± {outcome.deviation:.3f}" if outcome.deviation is not None else "")
