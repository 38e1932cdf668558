"""What is tuned: keys of a scenario, each with a range or a list of choices."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from fedmac.scenario_errors import ScenarioError, shown

Value = bool | int | float | str
Values = dict[str, Value]

SPEC = "a range LOW..HIGH or choices A,B,C, for example training.learning_rate=0.01..1"
LOGARITHMIC_FROM = 10.0
"""A range from low > 0 to at least this many times low is searched on a logarithmic scale."""
EDGE = 0.05
"""Part of a range, at either end, in which a best value counts as lying at the edge."""
STEPS = 1000
"""A range's values are rounded to steps no coarser than about a thousandth of it (logarithmic: three digits)."""

NOT_TUNED = {
    "name": "it names the run",
    "description": "it changes nothing",
    "seed": "a best seed is no result",
    "seeds": "--seeds says over how many seeds a trial is averaged",
    "variants": "each variant is tuned on its own",
    "engine": "results do not depend on it",
    "evaluation": "it is how trials are judged",
    "data.test_fraction": "it is how results are judged",
    "data.validation_fraction": "it is how trials are judged",
    "data.shuffle_seed": "a best split is no result",
}
"""Keys (or tables) that cannot be tuned, and why."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole numbers if both ends are.

    Parameters
    ----------
    low, high : int or float
        Ends, finite, ``low < high``.
    """

    low: int | float
    high: int | float

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def logarithmic(self) -> bool:
        """Whether it is searched on a logarithmic scale: ``low > 0`` and ``high / low >= 10``."""
        return self.low > 0 and self.high >= LOGARITHMIC_FROM * self.low

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (not self.whole or float(value).is_integer())

    def rounded(self, value: float) -> int | float:
        """A value with as many digits as matter, so that a tuned scenario is pleasant to read."""
        if self.whole:
            return round(value)
        if self.logarithmic:
            near = float(f"{value:.3g}")
        else:
            near = round(value, math.ceil(math.log10(STEPS) - math.log10(self.high - self.low)))
        return min(max(near, float(self.low)), float(self.high))

    def edge(self, value: Value) -> str | None:
        """``"low"`` or ``"high"`` if the value lies at that end, within :data:`EDGE` of the range, else None."""
        position = self._scale(float(value)) - self._scale(self.low)
        width = self._scale(self.high) - self._scale(self.low)
        margin = min(EDGE * width, 0.5) if self.whole and not self.logarithmic else EDGE * width
        if position <= margin:
            return "low"
        return "high" if width - position <= margin else None

    def beyond(self, end: str) -> int | float:
        """A number just outside an end."""
        step = 1 if self.whole else 1e-3 * (self.high - self.low)
        return self.low - step if end == "low" else self.high + step

    def corners(self) -> tuple[Value, ...]:
        """The values that a check of the whole range looks at."""
        return (self.low, self.high)

    def spec(self) -> str:
        """As it is written after ``--over KEY=``."""
        return f"{self.low!r}..{self.high!r}"

    def described(self) -> str:
        """In words."""
        kind = "whole numbers, " if self.whole else ""
        return f"{self.spec()} ({kind}{'logarithmic' if self.logarithmic else 'linear'})"

    def _scale(self, value: float) -> float:
        return math.log(value) if self.logarithmic else float(value)


@dataclass(frozen=True)
class Choices:
    """A few values, each tried as it stands.

    Parameters
    ----------
    values : tuple
        Two or more different numbers, texts or truth values.
    """

    values: tuple[Value, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.values

    def edge(self, value: Value) -> str | None:
        """``"low"`` or ``"high"`` if all are numbers and this is the least or the largest, else None."""
        if any(isinstance(v, bool | str) for v in self.values):
            return None
        return {min(self.values): "low", max(self.values): "high"}.get(value)

    def beyond(self, end: str) -> int | float:
        """A number just outside the least or the largest."""
        numbers = [v for v in self.values if isinstance(v, int | float)]
        whole = all(isinstance(v, int) for v in numbers)
        step = 1 if whole else 1e-3 * (max(numbers) - min(numbers))
        return min(numbers) - step if end == "low" else max(numbers) + step

    def corners(self) -> tuple[Value, ...]:
        """The values that a check of all choices looks at."""
        return self.values

    def spec(self) -> str:
        """As it is written after ``--over KEY=``."""
        return ",".join(written(value) for value in self.values)

    def described(self) -> str:
        """In words."""
        return f"{self.spec()} (choices)"


Space = dict[str, Range | Choices]


def read_space(over: Iterable[str] | Mapping[str, Any]) -> Space:
    """What is tuned, from the command line's words or from Python's.

    Parameters
    ----------
    over : iterable of str, or mapping
        ``["training.learning_rate=0.01..1"]``, or ``{"training.learning_rate": (0.01, 1.0)}``: a pair is a range, a
        list holds choices, a text is read as on the command line.

    Raises
    ------
    ScenarioError
        If a part is not understood, a key comes twice or cannot be tuned, or nothing is tuned.
    """
    space: Space = {}
    for key, spec in _pairs(over):
        if key in space:
            raise ScenarioError(f"--over {key}: given twice; accepted: one range or list of choices for a key")
        for part, reason in NOT_TUNED.items():
            if key == part or key.startswith(f"{part}."):
                raise ScenarioError(
                    f"--over {key}: {reason}; accepted: a key of the model, training, strategy, uplink …"
                )
        space[key] = _read(key, spec)
    if not space:
        raise ScenarioError(f"--over: missing; accepted: KEY={SPEC}")
    return space


def is_grid(space: Space) -> bool:
    """Whether there are choices only, so that every combination can be tried."""
    return all(isinstance(part, Choices) for part in space.values())


def corners(space: Space) -> Iterable[Values]:
    """All combinations of choices and of the ends of ranges."""
    return (dict(zip(space, values, strict=True)) for values in product(*(p.corners() for p in space.values())))


def written(value: Value) -> str:
    """A value as a person writes it: numbers short, texts bare."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def described(values: Mapping[str, Value]) -> str:
    """``KEY = VALUE, KEY = VALUE``."""
    return ", ".join(f"{key} = {written(value)}" for key, value in values.items())


def _pairs(over: Iterable[str] | Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    if isinstance(over, Mapping):
        yield from over.items()
        return
    for text in [over] if isinstance(over, str) else over:
        key, equals, spec = text.partition("=")
        if not equals or not key.strip() or not spec.strip():
            raise ScenarioError(f"--over {text!r}: accepted: KEY=SPEC with {SPEC}")
        yield key.strip(), spec.strip()


def _read(key: str, spec: Any) -> Range | Choices:
    if isinstance(spec, Range | Choices):
        return spec
    if isinstance(spec, str):
        low, dots, high = spec.partition("..")
        return _range(key, spec, _value(low), _value(high)) if dots else _choices(key, spec, _listed(spec))
    if isinstance(spec, tuple) and len(spec) == 2:
        return _range(key, spec, *spec)
    if isinstance(spec, Sequence):
        return _choices(key, spec, spec)
    raise ScenarioError(f"--over {key} = {shown(spec)}: accepted: {SPEC}")


def _range(key: str, spec: Any, low: Any, high: Any) -> Range:
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, int | float) or not math.isfinite(end):
            raise ScenarioError(f"--over {key} = {shown(spec)}: {shown(end)} is no number; accepted: {SPEC}")
    if low >= high:
        raise ScenarioError(f"--over {key} = {shown(spec)}: accepted: LOW..HIGH with LOW below HIGH")
    return Range(low, high)


def _choices(key: str, spec: Any, values: Sequence[Any]) -> Choices:
    for value in values:
        if not isinstance(value, bool | int | float | str) or (isinstance(value, float) and not math.isfinite(value)):
            raise ScenarioError(f"--over {key} = {shown(spec)}: {shown(value)} is no choice; accepted: {SPEC}")
    if len(values) < 2:
        raise ScenarioError(f"--over {key} = {shown(spec)}: one value is set with --set; accepted: {SPEC}")
    if len(set(values)) < len(values):
        raise ScenarioError(f"--over {key} = {shown(spec)}: a choice comes twice; accepted: different ones")
    return Choices(tuple(values))


def _listed(spec: str) -> list[Any]:
    """The parts between commas, read as TOML; what is not valid TOML is taken as a text."""
    try:
        return list(tomllib.loads(f"values = [{spec}]")["values"])
    except tomllib.TOMLDecodeError:
        return [_value(part) for part in spec.split(",")]


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
