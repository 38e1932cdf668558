"""Scenarios: what to run, read from TOML and validated before anything starts."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fedmac.scenario_errors import ScenarioError, explain
from strategies.names import STRATEGIES, check_strategy

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Ratio = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """A table of a scenario: unknown keys and wrong types are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OpenSection(BaseModel):
    """A table whose further keys are parameters of what it names."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    @property
    def parameters(self) -> dict[str, Any]:
        """The further keys."""
        return dict(self.model_extra or {})


class Data(Section):
    """Which examples there are and who holds them."""

    source: str = Field(description="mnist-5k, digits, or hf:owner/name (Hugging Face, online)")
    devices: Count = Field(description="number of devices")
    partition: Literal["iid", "dirichlet", "shards", "contiguous", "column"] = "iid"
    alpha: Positive | None = Field(None, description="concentration of partition = dirichlet")
    shards: Count | None = Field(None, description="label shards a device, of partition = shards")
    column: str | None = Field(None, description="column that says who holds a row, of partition = column")
    samples_per_device: Count | None = Field(None, description="keep only this many rows a device")
    test_fraction: Fraction = Field(0.2, description="rows held out for testing")
    validation_fraction: Fraction = Field(0.0, description="training rows held out to choose hyperparameters")
    shuffle_seed: int = Field(0, ge=0, description="seed of the permutation that makes the split")

    @model_validator(mode="after")
    def _partition_has_its_parameter(self) -> Data:
        needs = {"dirichlet": "alpha", "shards": "shards", "column": "column"}
        for partition, key in needs.items():
            given = getattr(self, key) is not None
            if self.partition == partition and not given:
                raise ValueError(f'partition = "{partition}" needs {key}')
            if self.partition != partition and given:
                raise ValueError(f'{key} belongs to partition = "{partition}", not "{self.partition}"')
        return self


class Model(OpenSection):
    """Which model is trained; further keys are the model's own parameters."""

    name: str = Field("softmax", description="softmax, mlp, cnn, or package.module:factory")
    init: Literal["default", "zeros"] = Field("default", description="how parameters start")


class TrainingSection(Section):
    """What a device does in a round."""

    learning_rate: Positive
    full_batch: bool = Field(False, description="each step uses all of a device's rows")
    local_steps: Count | None = Field(None, description="full-batch steps a round (default 1)")
    local_epochs: Count | None = Field(None, description="passes over a device's rows a round (default 1)")
    batch_size: Count | None = Field(None, description="rows a mini-batch (default 32)")
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    l2: NonNegative = Field(0.0, description="weight of (l2/2) ||w||^2 in the objective")
    dtype: Literal["float32", "float64"] = "float32"
    device: str = Field("auto", description="auto, cpu or cuda")
    threads: Count = Field(1, description="threads of one device's computation")

    @model_validator(mode="after")
    def _one_kind_of_step(self) -> TrainingSection:
        wrong = ("local_epochs", "batch_size") if self.full_batch else ("local_steps",)
        for key in wrong:
            if getattr(self, key) is not None:
                raise ValueError(f"{key} has no meaning with full_batch = {str(self.full_batch).lower()}")
        return self


class StrategySection(OpenSection):
    """What the server decides; further keys are the strategy's own parameters."""

    name: str = Field("fedavg", description="a name that `fedmac list strategies` shows")

    @model_validator(mode="after")
    def _known(self) -> StrategySection:
        check_strategy(self.name, self.parameters)
        return self


class UplinkSection(Section):
    """How updates get to the server."""

    kind: Literal["ideal", "over-the-air"] = "over-the-air"
    code: Literal["uncoded", "random-linear", "random-mask"] = "uncoded"
    ratio: Ratio | None = Field(None, description="channel uses per coordinate of the update, in (0, 1]")
    uses: Count | None = Field(None, description="channel uses of an exchange (instead of ratio)")
    decoder: Literal["unbiased", "lmmse", "projection"] = "unbiased"
    error_feedback: bool = False
    erasure: Fraction = Field(0.0, description="fraction of channel uses wiped out by interference")
    trace: bool = Field(False, description="record every device's peak-to-average power and energy")

    @model_validator(mode="after")
    def _code_has_its_length(self) -> UplinkSection:
        if self.ratio is not None and self.uses is not None:
            raise ValueError("give ratio or uses, not both")
        if self.kind == "ideal":
            return self
        if self.code == "uncoded":
            for key, value in (("ratio", self.ratio), ("uses", self.uses)):
                if value is not None:
                    raise ValueError(f'{key} has no meaning with code = "uncoded", which sends every coordinate')
            if self.decoder != "unbiased" or self.error_feedback:
                raise ValueError('decoder and error_feedback have no meaning with code = "uncoded"')
        elif self.ratio is None and self.uses is None:
            raise ValueError(f'code = "{self.code}" needs ratio (in (0, 1]) or uses')
        if self.error_feedback and self.decoder != "projection":
            raise ValueError('error_feedback needs decoder = "projection"')
        return self


class PowerControlSection(Section):
    """Transmit powers and their limit."""

    name: Literal["minimum-mse", "channel-inversion", "truncated-inversion", "full-power"] = "minimum-mse"
    power: NonNegative | None = Field(None, description="limit on a device's power (W, or normalised)")
    power_dbm: Finite | None = Field(None, description="the same in dBm (physical units only)")
    energy_per_round: NonNegative | None = Field(None, description="limit on a device's energy a round")
    solver: Literal["auto", "cvxpy", "closed-form"] | None = Field(None, description="of minimum-mse")
    threshold: NonNegative | None = Field(
        None, description="of truncated-inversion: least |h|^2 that sends (default: best)"
    )
    receive: Literal["lmmse", "unbiased"] | None = Field(None, description="of full-power: receive scale")

    @model_validator(mode="after")
    def _fits_its_policy(self) -> PowerControlSection:
        limits = [k for k in ("power", "power_dbm", "energy_per_round") if getattr(self, k) is not None]
        if len(limits) > 1:
            raise ValueError(f"give one of power, power_dbm, energy_per_round, not {' and '.join(limits)}")
        owner = {"solver": "minimum-mse", "threshold": "truncated-inversion", "receive": "full-power"}
        for key, policy in owner.items():
            if getattr(self, key) is not None and self.name != policy:
                raise ValueError(f'{key} belongs to name = "{policy}", not "{self.name}"')
        return self


class ChannelSection(Section):
    """The air. Normalised units: noise variance per real channel use. Physical units: W, Hz, m."""

    units: Literal["normalised", "physical"] = "normalised"
    fading: Literal["none", "rayleigh", "rician", "gauss-markov"] = "none"
    k_factor_db: Finite | None = Field(None, description="of rician")
    correlation: Annotated[float, Field(ge=0, le=1)] | None = Field(None, description="of gauss-markov")
    noise_power: NonNegative | None = Field(None, description="default 1 (normalised) or thermal (physical)")
    noise_figure_db: Finite | None = Field(None, description="of the receiver (physical units)")
    bandwidth_hz: Positive = Field(1e6, description="two real channel uses take 1/bandwidth seconds")
    path_loss: Literal["none", "log-distance", "free-space"] = "none"
    radius: Positive | None = Field(None, description="devices lie in a disc of this radius (m)")
    minimum_distance: Positive = Field(1.0, description="and at least this far from the server (m)")
    exponent: Positive | None = Field(None, description="of log-distance (default 3)")
    reference_loss_db: Finite | None = Field(None, description="of log-distance: loss at 1 m")
    shadowing_db: NonNegative = Field(0.0, description="standard deviation of log-normal shadowing")
    carrier_hz: Positive | None = Field(None, description="of free-space")

    @model_validator(mode="after")
    def _fits_together(self) -> ChannelSection:
        owner = {
            "k_factor_db": ("fading", "rician"),
            "correlation": ("fading", "gauss-markov"),
            "exponent": ("path_loss", "log-distance"),
            "reference_loss_db": ("path_loss", "log-distance"),
            "carrier_hz": ("path_loss", "free-space"),
            "noise_figure_db": ("units", "physical"),
        }
        for key, (selector, wanted) in owner.items():
            chosen = getattr(self, selector)
            if getattr(self, key) is not None and chosen != wanted:
                raise ValueError(f'{key} belongs to {selector} = "{wanted}", not "{chosen}"')
        needs = {"rician": "k_factor_db", "gauss-markov": "correlation"}
        if (key := needs.get(self.fading)) and getattr(self, key) is None:
            raise ValueError(f'fading = "{self.fading}" needs {key}')
        if self.path_loss != "none" and self.radius is None:
            raise ValueError(f'path_loss = "{self.path_loss}" needs radius')
        if self.path_loss == "none" and self.radius is not None:
            raise ValueError('radius needs path_loss = "log-distance" or "free-space"')
        if self.path_loss == "free-space" and self.carrier_hz is None:
            raise ValueError('path_loss = "free-space" needs carrier_hz')
        if self.radius is not None and self.radius <= self.minimum_distance:
            raise ValueError(f"radius must be greater than minimum_distance = {self.minimum_distance}")
        if self.noise_power is not None and self.noise_figure_db is not None:
            raise ValueError("give noise_power or noise_figure_db, not both")
        return self


class EngineSection(Section):
    """Where the devices run."""

    kind: Literal["local", "flower"] = "local"
    workers: Count | None = Field(None, description="worker processes (default: one for each core)")


class Evaluation(Section):
    """When the server evaluates the model on the held-out rows."""

    every: Count = Field(1, description="rounds from one evaluation to the next; the last is always evaluated")


class Scenario(Section):
    """A validated scenario.

    Read one with :meth:`load`; :meth:`resolve` gives its variants, each a scenario of its own.
    """

    name: str = Field(min_length=1)
    description: str = ""
    seed: int = Field(0, ge=0)
    seeds: Count = Field(1, description="runs of each variant, with seed, seed + 1, ...")
    rounds: int = Field(ge=0)
    data: Data
    model: Model = Model()
    training: TrainingSection
    strategy: StrategySection = StrategySection()
    uplink: UplinkSection = UplinkSection()
    power_control: PowerControlSection = PowerControlSection()
    channel: ChannelSection = ChannelSection()
    engine: EngineSection = EngineSection()
    evaluation: Evaluation = Evaluation()
    variants: list[dict[str, Any]] = Field(default_factory=list, description="each overrides any of the above")

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        strategy = STRATEGIES.get(self.strategy.name)
        if strategy is not None and strategy.individual:
            raise ValueError(
                f'strategy.name = "{self.strategy.name}" needs each device\'s own update, but uplink.kind = '
                f'"{self.uplink.kind}" delivers only their sum; accepted: '
                f"{', '.join(name for name, s in STRATEGIES.items() if not s.individual)}"
            )
        if self.power_control.power_dbm is not None and self.channel.units != "physical":
            raise ValueError('power_control.power_dbm needs channel.units = "physical"')
        return self

    @classmethod
    def load(
        cls, source: str | Path | Mapping[str, Any] | Scenario, overrides: Mapping[str, Any] | None = None
    ) -> Scenario:
        """Read and validate a scenario.

        Parameters
        ----------
        source : path, mapping or Scenario
            A TOML file, its content as a dict, or a scenario.
        overrides : mapping, optional
            Keys to set in the scenario and in all its variants; dotted (``{"data.devices": 5}``) or nested.

        Raises
        ------
        ScenarioError
            If the file cannot be read or a key is unknown, of the wrong type or impossible in combination; the
            message names the key's path, the value and what is accepted.
        """
        content = _read(source)
        overrides = nest(overrides or {})
        content = merge(content, overrides)
        variants = content.get("variants", [])
        if isinstance(variants, list) and all(isinstance(v, dict) for v in variants):
            # What is set from outside holds in every variant, whatever the variant says.
            everywhere = {k: v for k, v in overrides.items() if k not in NOT_IN_VARIANTS and k != "name"}
            content["variants"] = [merge(v, everywhere) for v in variants]
        try:
            scenario = cls.model_validate(content)
        except ValidationError as error:
            raise ScenarioError(explain(error, cls, content)) from None
        scenario.resolve()
        return scenario

    def resolve(self) -> list[Variant]:
        """The variants that run side by side, each a scenario without variants; one of the same name if it has none.

        Raises
        ------
        ScenarioError
            If a variant is invalid or two have the same name.
        """
        base = self.content()
        declared = base.pop("variants", [])
        if not declared:
            return [Variant(self.name, self)]
        variants: list[Variant] = []
        for number, changes in enumerate(declared):
            changes = dict(changes)
            where = f"variants[{number}]"
            name = changes.pop("name", None)
            if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
                raise ScenarioError(
                    f"{where}.name = {name!r}: accepted: a name to tell the variant by, without a slash"
                )
            if name in {v.name for v in variants}:
                raise ScenarioError(f"{where}.name = {name!r}: another variant has this name; accepted: a new one")
            for key in NOT_IN_VARIANTS:
                if key in changes:
                    raise ScenarioError(f"{where}.{key}: not accepted in a variant")
            content = merge(base, changes)
            try:
                variants.append(Variant(name, Scenario.model_validate(content)))
            except ValidationError as error:
                raise ScenarioError(explain(error, Scenario, content, where=f'variant "{name}": ')) from None
        return variants

    def content(self) -> dict[str, Any]:
        """The scenario as plain data, without keys that hold no value: what TOML can write."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True)
class Variant:
    """One of the runs of a scenario."""

    name: str
    scenario: Scenario


NOT_IN_VARIANTS = ("variants", "engine", "seed", "seeds")
"""Keys that are the same for all variants: they run side by side, under the same seeds."""

SELECTORS: dict[str, tuple[str, frozenset[str]]] = {
    "model": ("name", frozenset({"init"})),
    "strategy": ("name", frozenset({"fraction_train"})),
    "power_control": ("name", frozenset({"power", "power_dbm", "energy_per_round"})),
    "uplink": ("code", frozenset({"kind", "ratio", "uses", "erasure", "trace"})),
}
"""Tables in which one key chooses what the others mean, with the keys that keep their meaning when it changes."""


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` put over it, table by table.

    A change of what a table names (a power control, a code, a strategy, a model) drops the parameters of the old one.
    """
    merged: dict[str, Any] = copy.deepcopy(dict(base))
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict):
            selector, kept = SELECTORS.get(key, ("", frozenset()))
            if selector in value and value[selector] != old.get(selector):
                if value[selector] == "uncoded":
                    kept = kept - {"ratio", "uses"}
                old = {k: v for k, v in old.items() if k in kept}
            merged[key] = _drop_rivals(key, old, value) | {
                k: merge(old[k], v) if isinstance(v, Mapping) and isinstance(old.get(k), dict) else copy.deepcopy(v)
                for k, v in value.items()
            }
        else:
            merged[key] = copy.deepcopy(value)
    return merged


RIVALS: dict[str, tuple[str, ...]] = {
    "power_control": ("power", "power_dbm", "energy_per_round"),
    "uplink": ("ratio", "uses"),
}
"""Keys of which a table takes one: setting one of them lets go of the others."""


def _drop_rivals(table: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    rivals = RIVALS.get(table, ())
    if not any(key in new for key in rivals):
        return dict(old)
    return {k: v for k, v in old.items() if k not in rivals}


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` as ``{"a": {"b": 1}}``."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *tables, key = path.split(".")
        place = nested
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                raise ScenarioError(f"{path} = {value!r}: {table} is set to a value as well; accepted: one of the two")
        place[key] = nest(value) if isinstance(value, Mapping) else value
    return nested


def _read(source: str | Path | Mapping[str, Any] | Scenario) -> dict[str, Any]:
    if isinstance(source, Scenario):
        return source.content()
    if isinstance(source, Mapping):
        return copy.deepcopy(dict(source))
    path = Path(source)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScenarioError(f"{path}: no such scenario file; `fedmac new` writes one to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{path}: not valid TOML: {error}") from None
