"""The last values of the curves, as a table under the plot and in words for who cannot see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from fedmac.axes import best_direction
from fedmac.report.over_seeds import mean_over_seeds
from fedmac.report.table import score

MAX_SPOKEN = 12  # variants that the words name

Written = Callable[[float], str]
"""How a value reads."""


@dataclass(frozen=True)
class FinalValue:
    """A variant's last mean over seeds and its best one, with the rounds they are of.

    `half_width` is that of the 95 % confidence interval; NaN for one seed.
    """

    variant: str
    round: int
    mean: float
    half_width: float
    best: float
    best_round: int


def final_values(rounds: pd.DataFrame, value: str) -> list[FinalValue]:
    """Return the last and best values of each variant that has any; see :func:`fedmac.axes.best_direction`."""
    finals = []
    for name, own in rounds.groupby("variant", sort=False):
        curve = mean_over_seeds(own, value)
        if len(curve):
            means, numbers = curve["mean"].to_numpy(), curve["round"].to_numpy()
            best = int(means.argmin() if best_direction(value) == "low" else means.argmax())
            width = float(curve["half_width"].to_numpy()[-1])
            last = (int(numbers[-1]), float(means[-1]), width)
            finals.append(FinalValue(str(name), *last, float(means[best]), int(numbers[best])))
    return finals


def final_values_text(finals: Sequence[FinalValue], what: str, written: Written = score) -> str:
    """Say the last values in a sentence, each as `written`; empty without any."""
    said = [f"{final.variant} {_estimate(final, written)}" for final in finals[:MAX_SPOKEN]]
    more = f", and {len(finals) - MAX_SPOKEN} more" if len(finals) > MAX_SPOKEN else ""
    return f"Last {what}: {', '.join(said)}{more}." if said else ""


def final_values_table(finals: Sequence[FinalValue], what: str, written: Written = score) -> str:
    """Return the values, each as `written`, as a table that opens on demand, in HTML."""
    if not finals:
        return ""
    title = escape(f"{what[0].upper()}{what[1:]} in numbers")
    heads = "".join(f'<th scope="col">{word}</th>' for word in ("variant", "round", "last", "best", "in round"))
    rows = "".join(
        f'<tr><th scope="row">{escape(final.variant)}</th><td>{final.round:,}</td><td>{_estimate(final, written)}</td>'
        f"<td>{written(final.best)}</td><td>{final.best_round:,}</td></tr>"
        for final in finals
    )
    return (
        f'<details><summary>{title}</summary><div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f'<table class="numbers"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _estimate(final: FinalValue, written: Written) -> str:
    if math.isfinite(final.half_width):
        return f"{written(final.mean)} ± {written(final.half_width)}"
    return written(final.mean)
