"""From a scenario to the objects that run it: the one place where rooms are put together."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch

from channel.channel import Channel
from channel.codecs import CODECS, FACTOR_CODECS
from channel.codes import CODES, Code
from channel.impairments import ADC, Amplifier
from channel.layout import Layout
from channel.links import ACCESSES, LINKS, Retransmission
from channel.power import (
    COMBININGS,
    POWER_CONTROLS,
    BlockPlanner,
    Combining,
    Pilot,
    Planner,
    PowerControl,
    PowerLaw,
    RoundPlan,
)
from channel.uplinks import Adaptation, AnalogUplink, DigitalUplink, IdealUplink, NonCoherentUplink, Uplink
from clients.data import FederatedData
from clients.factors import check_gradients
from clients.losses import LOSSES
from clients.models import MODELS
from clients.parameters import model_arrays
from clients.training import Trainer, compute_device
from fedmac.build_channel import build_channel, check_pilots, power_limit
from fedmac.build_defences import build_norm_bound, build_privacy, defiant_devices
from fedmac.build_devices import build_data, build_model
from fedmac.build_peers import rehearse_peers
from fedmac.scenario import Scenario
from fedmac.scenario_air import PowerControlSection
from fedmac.scenario_errors import ScenarioError, below, refusal
from fedmac.scenario_sections import Data, UplinkSection
from strategies.names import STRATEGIES, strategy_parameters
from strategies.systems.coded_updates import CodedUpdates

if TYPE_CHECKING:
    from flwr.serverapp.strategy import Strategy


def rehearse(scenario: Scenario) -> None:
    """Build everything a scenario names, so that what cannot run is refused before anything starts.

    Raises
    ------
    ScenarioError
        Naming the variant, and what the part that refused says.
    DataUnavailable
        If the data set is not on this machine and cannot be fetched.
    """
    built: dict[tuple[Data, str], FederatedData] = {}
    for variant in scenario.resolve():
        chosen = variant.scenario
        where = f'variant "{variant.name}": ' if scenario.variants else ""
        wanted = (chosen.data, chosen.training.dtype)
        if wanted not in built:
            with _refusing("data", where):
                built = {wanted: build_data(chosen, chosen.seed)}
        _rehearse_one(chosen, built[wanted], where)


def _rehearse_one(scenario: Scenario, data: FederatedData, where: str) -> None:
    with _refusing("training", where):
        device = compute_device(scenario.training.device)
    with _refusing("model", where):
        trainer = Trainer(build_model(scenario, data, scenario.seed), device)
    _check_outputs(scenario, trainer, data, where)
    if scenario.sends_factors:
        _check_layers(scenario, trainer, data, where)
    needs_objective = {
        f'strategy.name = "{scenario.strategy.name}"': STRATEGIES[scenario.strategy.name].second_order,
        "evaluation.objective = true": scenario.evaluation.objective,
    }
    for who, needs in needs_objective.items():
        if needs and trainer.size != sum(p.numel() for p in trainer.parameters):
            raise ScenarioError(
                f"{where}model.name = {scenario.model.name!r}: has state that is not trained, so that its parameters "
                f"alone are no model, which {who} takes them for; accepted: a model without running averages or frozen "
                "layers"
            )
    with _refusing("strategy", where):
        if STRATEGIES[scenario.strategy.name].peers:
            rehearse_peers(scenario)
        else:
            build_strategy(scenario)
    with _refusing("", where):
        check_pilots(scenario, build_channel(scenario, scenario.seed), senders(scenario))
    with _refusing("codec" if scenario.uplink.kind == "digital" else "uplink", where):
        if scenario.uplink.kind == "over-the-air":
            build_code(scenario.uplink).uses(trainer.size)
    with _refusing("plan", where):
        check_plan(scenario, block_sizes(trainer))
    with _refusing("codec" if scenario.uplink.kind == "digital" else "uplink", where):
        uplink = build_uplink(scenario, scenario.seed, block_sizes(trainer))
        if isinstance(uplink, DigitalUplink):
            uplink.check(trainer.size)
    if isinstance(uplink, AnalogUplink):
        _check_blocks(scenario, uplink, trainer.size, where)


def _check_blocks(scenario: Scenario, uplink: AnalogUplink, size: int, where: str) -> None:
    """Refuse resource blocks that no symbol of an update is in."""
    uses, blocks = uplink.grant(size).uses, uplink.channel.grid.blocks
    most = (uses + 1) // 2
    if blocks > most and uplink.plan is None and not STRATEGIES[scenario.strategy.name].second_order:
        slots = uplink.channel.slots
        given = f"channel.subbands = {scenario.channel.subbands}" + (f" with slots = {slots}" if slots > 1 else "")
        raise ScenarioError(
            f"{where}{given}: {blocks} resource blocks for an exchange of {most} complex channel uses; accepted: at "
            f"most {most} in all"
        )


def _check_layers(scenario: Scenario, trainer: Trainer, data: FederatedData, where: str) -> None:
    """Refuse a model that is more than its dense layers, whose update has no factors."""
    loss, rows = LOSSES[scenario.training.loss], data.train.inputs[:2].to(trainer.device)
    targets = data.train.targets[:2].to(trainer.device) if loss.of_classes else rows
    try:
        check_gradients(trainer.model.train(), lambda: loss.mean(trainer.model(rows), targets))
    except ValueError as error:
        raise ScenarioError(
            f'{where}model.name = "{scenario.model.name}": {error}, and codec.name = "{scenario.codec.name}" sends '
            "nothing else; accepted: softmax, mlp, autoencoder, or a package.module:factory of nn.Linear layers alone"
        ) from error
    except (RuntimeError, TypeError, IndexError) as error:
        given = f'{where}model.name = "{scenario.model.name}"'
        raise ScenarioError(f"{given}: cannot take a row of the data: {error}") from error


def _check_outputs(scenario: Scenario, trainer: Trainer, data: FederatedData, where: str) -> None:
    """Refuse a model whose outputs are not what the loss compares."""
    name, loss = scenario.model.name, scenario.training.loss
    given, needs = f'{where}model.name = "{name}"', f'training.loss = "{loss}"'
    if LOSSES[loss].of_classes:
        if name == "autoencoder":
            others = ", ".join(f'"{other}"' for other in MODELS if other != name)
            raise ScenarioError(
                f"{given}: gives back its input, but {needs} needs scores of classes; "
                f'accepted: {others}, or training.loss = "reconstruction"'
            )
        return
    rows = data.train.inputs[:1].to(trainer.device)
    try:
        with torch.no_grad():
            outputs = trainer.model.eval()(rows)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ScenarioError(f"{given}: cannot take a row of the data: {error}") from error
    if outputs.numel() != rows.numel():
        raise ScenarioError(
            f"{given}: {outputs.numel()} outputs, but {needs} compares them with the {rows.numel()} inputs; "
            f'accepted: "autoencoder", or a package.module:factory with {rows.numel()} outputs'
        )


@contextmanager
def _refusing(table: str, where: str) -> Iterator[None]:
    """Turn what a part of the scenario says against its table into a ScenarioError that names the table."""
    try:
        yield
    except (ValueError, TypeError) as error:
        message = str(error)
        if message.startswith(f"{table} = "):  # the model's own name for model.name
            message = message.replace(table, "name", 1)
        raise ScenarioError(f"{where}{below(table, message)}") from error


def build_strategy(scenario: Scenario) -> Strategy:
    """The Flower strategy the scenario names, for its number of devices."""
    section = scenario.strategy
    if STRATEGIES[section.name].second_order:
        chosen: Strategy = STRATEGIES[section.name].load()(**section.parameters)
        return chosen
    if STRATEGIES[section.name].on_clock:
        system: Strategy = STRATEGIES[section.name].load()(devices=scenario.data.devices, **section.parameters)
        return system
    parameters = {"fraction_evaluate": 0.0} | section.parameters
    if "client_learning_rate" in strategy_parameters(section.name):  # of q-FedAvg: the devices' own
        parameters = {"client_learning_rate": scenario.training.learning_rate} | parameters
    strategy: Strategy = STRATEGIES[section.name].load()(
        min_train_nodes=senders(scenario),
        min_available_nodes=scenario.data.devices,
        **parameters,
    )
    return strategy


def senders(scenario: Scenario) -> int:
    """How many devices train in a round, by the strategy's ``fraction_train``."""
    fraction = float(scenario.strategy.parameters.get("fraction_train", 1.0))
    return max(1, int(scenario.data.devices * fraction))


def block_sizes(trainer: Trainer) -> tuple[int, ...]:
    """Entries of each array of an update, in their order."""
    return Layout.of_arrays(model_arrays(trainer.model)).sizes


def build_uplink(scenario: Scenario, seed: int, sizes: Sequence[int] = ()) -> Uplink:
    """The scenario's uplink with its code, power control and channel, for updates of arrays of these sizes.

    Without sizes there is no plan: every round is granted the same.
    """
    section, control = scenario.uplink, scenario.power_control
    power = power_limit(scenario)
    channel = build_channel(scenario, seed)
    if section.kind == "ideal":
        return IdealUplink(
            ratio=section.ratio or 1.0,
            uses=section.uses,
            power_limit=power,
            energy_per_round=control.energy_per_round,
            channel=channel,
        )
    if section.kind == "digital":
        return build_digital_uplink(scenario, channel, power)
    if section.kind == "non-coherent":
        return NonCoherentUplink(
            channel, power, control.energy_per_round, section.chips or 1, section.chip_fading or "exchange"
        )
    wrong = scenario.impairments
    return AnalogUplink(
        build_code(section),
        build_power_control(control),
        channel,
        power_limit=power,
        energy_per_round=control.energy_per_round,
        erasure=section.erasure,
        trace=section.trace,
        combining=build_combining(control),
        amplifier=None if wrong.clip_db is None else Amplifier(wrong.clip_db, wrong.subcarriers),
        adc=None if wrong.adc_bits is None else ADC(wrong.adc_bits),
        plan=build_plan(scenario, channel, power, sizes) if sizes else None,
        norm_bound=build_norm_bound(scenario),
        privacy=build_privacy(scenario),
        defiant=defiant_devices(scenario, seed),
        block_plan=BlockPlanner(sizes) if scenario.plan.blocks and sizes else None,
    )


def build_plan(scenario: Scenario, channel: Channel, power: float | None, sizes: Sequence[int]) -> Planner | None:
    """How the budget of all rounds is spread over them, for updates of arrays of these sizes; None where it is not.

    The budget is what as many equal rounds would take: the code's channel uses, and a device at its limit.
    """
    section, rounds = scenario.plan, scenario.rounds
    if section.name == "constant" or rounds == 0:
        return None
    size = sum(sizes)
    uses = build_code(scenario.uplink).uses(size)
    energy = scenario.power_control.energy_per_round
    if energy is None:
        energy = float(channel.energy(np.sqrt([1.0 if power is None else power]), uses)[0])
    limits = section.model_dump(include={"min_uses", "max_uses", "peak_energy"}, exclude_none=True)
    if section.blocks:
        limits.setdefault("min_uses", len(sizes))
    unit = 1.0 / (2.0 * channel.bandwidth) if channel.physical else 1.0
    noise = max(channel.mean_noise, sys.float_info.min) * unit
    plan = RoundPlan(rounds, size, rounds * uses, rounds * energy, section.decay, noise, **limits)
    if section.pilot is not None:
        return Planner(plan, Pilot.from_json(section.pilot), section.every or 10)
    return Planner(plan, PowerLaw(section.exponent if section.exponent is not None else 0.5), section.every or 10)


def check_plan(scenario: Scenario, sizes: Sequence[int]) -> None:
    """Refuse limits that a plan's budget does not hold, and pilot runs that are none, for updates of these arrays.

    Raises
    ------
    ValueError
        Naming the key, relative to the table, its value and what is accepted.
    """
    section, size = scenario.plan, sum(sizes)
    if section.name == "constant" and not section.blocks:
        return
    granted = build_code(scenario.uplink).uses(size)
    if section.blocks:
        _check_arrays(scenario, granted, len(sizes))
    for key in ("min_uses", "max_uses"):
        if (value := getattr(section, key)) is not None and value > size:
            raise refusal(key, value, "more than updates have entries", f"an integer from 1 to {size}")
    if section.min_uses is not None and section.min_uses > granted:
        reason = f"the budget is uplink.ratio or uses in every round, {granted} channel uses"
        raise refusal("min_uses", section.min_uses, reason, f"an integer from 1 to {granted}")
    if section.pilot is not None and scenario.rounds:
        try:
            Pilot.from_json(section.pilot).predict(scenario.rounds, ())
        except (OSError, ValueError, TypeError) as error:
            said = (error.strerror or str(error)) if isinstance(error, OSError) else str(error).split("; accepted")[0]
            why = said.removeprefix(f"{section.pilot} ")
            accepted = f"a JSON file of {{mean_norms, largest_energies}}, each of {scenario.rounds} numbers"
            raise refusal("pilot", section.pilot, why, accepted) from error


def _check_arrays(scenario: Scenario, granted: int, arrays: int) -> None:
    """Refuse rounds that may have fewer channel uses than the model has arrays."""
    section = scenario.plan
    for key, value in (("min_uses", section.min_uses), ("max_uses", section.max_uses)):
        if value is not None and value < arrays:
            reason = f"less than one for each of the model's {arrays} arrays, which blocks = true needs"
            raise refusal(key, value, reason, f"an integer from {arrays}")
    if granted < arrays:
        reason = f"a round has {granted} channel uses for the model's {arrays} arrays"
        raise refusal("blocks", True, reason, "false, or more by uplink.ratio or uses")


def build_digital_uplink(scenario: Scenario, channel: Channel, power: float | None) -> DigitalUplink:
    """The scenario's packets, links and access."""
    codec, link = scenario.codec, scenario.link
    ways = {key: value for key in ("shares", "power") if (value := getattr(link, key)) is not None}
    return DigitalUplink(
        (CODECS | FACTOR_CODECS)[codec.name](**codec.parameters),
        ACCESSES[link.access](**ways),
        LINKS[link.name](**link.parameters),
        channel,
        power_limit=1.0 if power is None else power,
        packing=codec.packing,
        error_feedback=codec.error_feedback,
        retransmission=Retransmission(link.retransmissions, link.deadline_s or math.inf),
        amplifier_efficiency=link.amplifier_efficiency,
        circuit_power=link.circuit_power,
        adaptation=Adaptation(link.packets, link.mean_bits, link.fill, link.select, link.csi, link.outer_loop),
    )


def build_coded_updates(scenario: Scenario, seed: int, number: Mapping[int, int]) -> CodedUpdates:
    """How the workers of a system send packets, for nodes of these device numbers."""
    codec = CODECS[scenario.codec.name](**scenario.codec.parameters)
    return CodedUpdates(codec, scenario.codec.packing, seed, number)


def build_code(section: UplinkSection) -> Code:
    """The code an uplink section names."""
    if section.code == "uncoded":
        return CODES["uncoded"]()
    if section.code == "majority-vote":
        return CODES["majority-vote"](step=section.step, error_feedback=section.error_feedback)
    given = section.model_dump(include={"ratio", "uses", "decoder", "error_feedback", "sparsity"}, exclude_none=True)
    return CODES[section.code](**given)


def build_combining(section: PowerControlSection) -> Combining:
    """The rule for several antennas a section names."""
    given = {} if section.combining_mse is None else {"mse": section.combining_mse}
    return COMBININGS[section.combining](**given)


def build_power_control(section: PowerControlSection) -> PowerControl:
    """The power control a section names."""
    own = {"total_power", "solver", "threshold", "receive", "mse", "infeasible", "peak_to_average"}
    return POWER_CONTROLS[section.name](**section.model_dump(include=own, exclude_none=True))
