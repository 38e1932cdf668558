"""Scenarios: what to run, read from TOML and validated before anything starts."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from fedmac.scenario_air import ChannelSection, ImpairmentsSection, PlanSection, PowerControlSection, check_air
from fedmac.scenario_attackers import AttackersSection
from fedmac.scenario_clock import DevicesSection, FaultsSection, NetworkSection, check_clock, in_joules
from fedmac.scenario_errors import ScenarioError, below, explain, missing, refusal, shown
from fedmac.scenario_factors import FACTOR_CODEC_NAMES, check_factors
from fedmac.scenario_merge import NOT_IN_VARIANTS, STEP_KEYS, hold_in_variant, merge, nest, variant_of
from fedmac.scenario_paths import FOLDER_NAME, found_from, is_folder_name
from fedmac.scenario_privacy import PrivacySection, check_bounds
from fedmac.scenario_sections import (
    CodecSection,
    Data,
    EngineSection,
    Evaluation,
    LinkSection,
    Model,
    StrategySection,
    TrainingSection,
    UplinkSection,
)
from fedmac.scenario_table import Count, Section
from fedmac.scenario_toml import check_depth, parsed
from fedmac.scenario_trust import TrustSection
from strategies.names import SEPARATELY_CODED, STRATEGIES
from strategies.robust_limits import check_robust

RUN_FILES = frozenset(
    {
        "scenario.toml", "rounds.jsonl", "summary.json", "environment.json", "model.safetensors", "report.html",
        "checkpoint.safetensors", "flower.log", "collective.log", "tensorboard", "mlflow.db", "metrics.prom",
    }
)  # fmt: skip
"""What lies in a run folder beside the variants' folders."""


class Scenario(Section):
    """A validated scenario.

    Read one with :meth:`load`; :meth:`resolve` gives its variants, each a scenario of its own.
    """

    name: str = Field(min_length=1, description="of the run and its folder")
    description: str = ""
    seed: int = Field(0, ge=0, description="everything random follows from it")
    seeds: Count = Field(1, description="runs of each variant, with seed, seed + 1, ...")
    rounds: int = Field(ge=0, description="rounds of training")
    data: Data
    model: Model = Model()
    training: TrainingSection
    strategy: StrategySection = StrategySection()
    uplink: UplinkSection = UplinkSection()
    codec: CodecSection = CodecSection()
    link: LinkSection = LinkSection()
    power_control: PowerControlSection = PowerControlSection()
    plan: PlanSection = PlanSection()
    channel: ChannelSection = ChannelSection()
    impairments: ImpairmentsSection = ImpairmentsSection()
    attackers: AttackersSection = AttackersSection()
    privacy: PrivacySection = PrivacySection()
    trust: TrustSection = TrustSection()
    engine: EngineSection = EngineSection()
    evaluation: Evaluation = Evaluation()
    devices: DevicesSection | None = None
    network: NetworkSection | None = None
    faults: FaultsSection | None = None
    variants: list[dict[str, Any]] = Field(default_factory=list, description="each overrides any of the above")

    @model_validator(mode="before")
    @classmethod
    def _units_of_its_strategy(cls, given: Any) -> Any:
        return in_joules(given)

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if not is_folder_name(name):
            raise ValueError(f"= {shown(name)}: names the run's folder; accepted: {FOLDER_NAME}")
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        strategy = STRATEGIES.get(self.strategy.name)
        if strategy is not None and strategy.individual and self.uplink.kind != "digital":
            reason = f"needs each device's own update, but uplink.kind = {self.uplink.kind!r} delivers only their mean"
            accepted = ", ".join(name for name, s in STRATEGIES.items() if not s.individual)
            raise refusal("strategy.name", self.strategy.name, reason, f'{accepted}; or uplink.kind = "digital"')
        self._packets_fit_together()
        self._trains_as_its_strategy_does()
        check_air(self.channel, self.power_control)
        self._plans_what_it_can()
        self._withstands_attackers()
        check_bounds(self)
        check_clock(self)
        return self

    @property
    def sends_factors(self) -> bool:
        """Whether devices send the factors of their gradients in place of updates."""
        return self.uplink.kind == "digital" and self.codec.name in FACTOR_CODEC_NAMES

    def _packets_fit_together(self) -> None:
        if self.uplink.kind != "digital":
            return
        if self.strategy.name in STRATEGIES and STRATEGIES[self.strategy.name].second_order:
            reason = f'strategy.name = "{self.strategy.name}" sends vectors that are no updates'
            raise refusal("uplink.kind", self.uplink.kind, reason, '"ideal", "over-the-air"')
        if self.sends_factors:
            check_factors(self.codec, self.training, self.link)
        control = self.power_control
        if control.energy_per_round is not None:
            reason = "a packet's air time follows from its bits, and its energy from that"
            accepted = "power_control.power, channel.tx_power_dbm or channel.snr_db"
            raise refusal("power_control.energy_per_round", control.energy_per_round, reason, accepted)
        if self.link.packets == "fit" and self.channel.noise_power == 0:
            reason = "channel.noise_power is 0, and any packet fits without noise"
            raise refusal("link.packets", "fit", reason, '"as-coded", "least-error", or a noise_power > 0')

    def _withstands_attackers(self) -> None:
        section, strategy = self.attackers, self.strategy
        section.check(self.data.devices, self.uplink.kind, self.training.loss == "cross-entropy")
        if section.present and STRATEGIES[strategy.name].second_order:
            reason = f'strategy.name = "{strategy.name}" sends vectors that are no updates'
            raise refusal("attackers.kind", section.kind, reason, "no attackers, or another strategy")
        if section.present and section.kind != "label-flip" and self.sends_factors:
            reason = f'codec.name = "{self.codec.name}" sends factors of a gradient'
            raise refusal("attackers.kind", section.kind, reason, '"label-flip", or another codec')
        share = float(strategy.parameters.get("fraction_train", 1.0))
        try:
            check_robust(strategy.name, strategy.parameters, max(1, int(self.data.devices * share)))
        except ValueError as error:
            raise ValueError(below("strategy", str(error))) from error

    def _plans_what_it_can(self) -> None:
        if self.plan.blocks:
            self._plans_blocks()
        if self.plan.name == "constant":
            return
        given = self.plan.name
        codes = ("random-linear", "random-mask", "sparse-amp")
        if self.uplink.kind != "over-the-air" or self.uplink.code not in codes:
            reason = "spreads the channel uses of a code with a ratio or uses"
            accepted = '"constant", or uplink.code = ' + ", ".join(f'"{code}"' for code in codes)
            raise refusal("plan.name", given, reason, accepted)
        if STRATEGIES[self.strategy.name].second_order:
            reason = f'strategy.name = "{self.strategy.name}" makes several exchanges a round'
            raise refusal("plan.name", given, reason, '"constant"')

    def _plans_blocks(self) -> None:
        section = self.uplink
        if section.kind != "over-the-air" or section.code != "random-linear" or section.decoder != "unbiased":
            reason = "shares out the channel uses of unbiased random linear codes"
            accepted = 'false, or uplink.code = "random-linear" with decoder = "unbiased"'
            raise refusal("plan.blocks", True, reason, accepted)
        if STRATEGIES[self.strategy.name].second_order:
            reason = f'strategy.name = "{self.strategy.name}" sends vectors that are no updates'
            raise refusal("plan.blocks", True, reason, "false")

    def _trains_as_its_strategy_does(self) -> None:
        name = self.strategy.name
        if name not in STRATEGIES or not STRATEGIES[name].second_order:
            if self.training.learning_rate is None:
                raise missing("training.learning_rate", f'but strategy.name = "{name}" needs it', "a number > 0")
            return
        for key in STEP_KEYS:
            if (value := getattr(self.training, key)) not in (None, 0.0):
                reason = f'has no meaning with strategy.name = "{name}", which takes no steps on the devices'
                raise refusal(f"training.{key}", value, reason, f"{key} left out")
        if self.uplink.kind != "ideal":
            self._bears_noise(name)

    def _bears_noise(self, name: str) -> None:
        if not STRATEGIES[name].noise_safe:
            reason = f'strategy.name = "{name}" is not there over the air yet'
            raise refusal("uplink.kind", self.uplink.kind, reason, '"ideal"')
        chosen = self.strategy.parameters
        mode = chosen.get("over_the_air", "auto")
        if mode == "no":
            reason = f'uplink.kind = "{self.uplink.kind}" has noise'
            raise refusal("strategy.over_the_air", mode, reason, '"auto", "safe" or "as-published"')
        if self.uplink.kind == "non-coherent":
            reason = f'the error of energies is not to be heard, and strategy.name = "{name}" goes by it'
            raise refusal("uplink.kind", self.uplink.kind, reason, '"ideal", "over-the-air"')
        if self.uplink.code == "majority-vote":
            reason = f'steps of one size, but strategy.name = "{name}" sends vectors that are no updates'
            raise refusal("uplink.code", self.uplink.code, reason, '"uncoded"')
        if self.uplink.code != "uncoded" and mode != "as-published" and not chosen.get("coded_exchanges"):
            accepted = '"uncoded"' + (", or strategy.coded_exchanges = true" if name == "dingo" else "")
            raise refusal("uplink.code", self.uplink.code, SEPARATELY_CODED, accepted)

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
            Keys to set in the scenario; dotted (``{"data.devices": 5}``) or nested. A variant that sets the same
            key itself gives way.

        Raises
        ------
        ScenarioError
            If the file cannot be read or a key is unknown, of the wrong type or impossible in combination; the
            message names the key's path, the value and what is accepted.
        """
        content = _read(source)
        overrides = nest(overrides or {})
        check_depth(overrides, "overrides")
        overrides = found_from(None, overrides)
        content = merge(found_from(None, content), overrides)
        variants = content.get("variants", [])
        if isinstance(variants, list) and all(isinstance(v, dict) for v in variants):
            content["variants"] = [hold_in_variant(v, overrides) for v in variants]
        try:
            scenario = cls.model_validate(content)
        except ValidationError as error:
            raise ScenarioError(explain(error, cls)) from None
        scenario.resolve()
        return scenario

    @property
    def run_seeds(self) -> range:
        """The seeds that it runs under, one after the other."""
        return range(self.seed, self.seed + self.seeds)

    def resolve(self, only: Iterable[str] = ()) -> list[Variant]:
        """The variants that run side by side, each a scenario without variants; one of the same name if it has none.

        Parameters
        ----------
        only : iterable of str
            Names of those wanted; all if empty.

        Raises
        ------
        ScenarioError
            If a variant is invalid, two have the same name, or `only` names one that is not there.
        """
        variants = self._all_variants()
        names = [variant.name for variant in variants]
        wanted = list(only) or names
        for name in wanted:
            if name not in names:
                raise ScenarioError(f"only = {name!r}: no such variant; accepted: {', '.join(names)}")
        return [variant for variant in variants if variant.name in wanted]

    def _all_variants(self) -> list[Variant]:
        base = self.content()
        declared = base.pop("variants", [])
        if not declared:
            return [Variant(self.name, self)]
        variants: list[Variant] = []
        for number, changes in enumerate(declared):
            name = _variant_name(changes, f"variants[{number}]", [v.name for v in variants])
            content = variant_of(base, {k: v for k, v in changes.items() if k != "name"})
            try:
                variants.append(Variant(name, Scenario.model_validate(content)))
            except ValidationError as error:
                raise ScenarioError(explain(error, Scenario, where=f'variant "{name}": ')) from None
        arrivals = self.engine.checkpoint_arrivals
        if arrivals is not None and all(one.scenario.engine.checkpoint_arrivals is None for one in variants):
            reason = "no variant has a server that takes replies one by one"
            raise ScenarioError(str(refusal("engine.checkpoint_arrivals", arrivals, reason, "the key left out")))
        return variants

    def content(self) -> dict[str, Any]:
        """The scenario as plain data, without keys that hold no value: what TOML can write."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True)
class Variant:
    """One of the runs of a scenario."""

    name: str
    scenario: Scenario


def _variant_name(changes: Mapping[str, Any], where: str, taken: list[str]) -> str:
    """The name of a variant, once it is clear that it can have it and says nothing that it may not."""
    name = changes.get("name")
    if not isinstance(name, str) or not is_folder_name(name) or name.casefold() in RUN_FILES:
        given = f"{where}.name = {shown(name)}" if "name" in changes else f"{where}.name: missing"
        raise ScenarioError(f"{given}; accepted: {FOLDER_NAME}, which names its folder")
    if name.casefold() in (other.casefold() for other in taken):
        raise ScenarioError(f"{where}.name = {shown(name)}: another variant has this name; accepted: a new one")
    for key in NOT_IN_VARIANTS:
        if key in changes:
            given = f"{where}.{key} = {shown(changes[key])}: the same for all variants"
            raise ScenarioError(f"{given}; accepted: {key} at the top of the scenario")
    return name


def _read(source: str | Path | Mapping[str, Any] | Scenario) -> dict[str, Any]:
    if isinstance(source, Scenario):
        return source.content()
    if isinstance(source, Mapping):
        check_depth(source, "scenario")
        return copy.deepcopy(dict(source))
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ScenarioError(f"{path}: no such scenario file; `fedmac new` writes one to start from") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ScenarioError(f"{path}: cannot be read: {reason}; accepted: a TOML file") from None
    return found_from(path.parent, parsed(text, str(path)))
