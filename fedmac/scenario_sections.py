"""The tables of a scenario: their keys, what each accepts, and which go together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fedmac.scenario_errors import missing, refusal
from fedmac.scenario_merge import OF_CODES
from fedmac.scenario_parts import check_codec, check_link
from fedmac.scenario_table import (
    Count,
    Finite,
    Fraction,
    NonNegative,
    OpenSection,
    Positive,
    Ratio,
    Section,
    belongs,
    leaves_out,
    needs,
)
from strategies.names import check_strategy


class Data(Section):
    """Which examples there are and who holds them."""

    source: str = Field(description="mnist-5k, digits, or hf:owner/name (Hugging Face, online)")
    devices: Count = Field(description="number of devices")
    partition: Literal["iid", "dirichlet", "shards", "contiguous", "column"] = "iid"
    alpha: Positive | None = Field(None, description="concentration of dirichlet; small is uneven")
    shards: Count | None = Field(None, description="label shards a device")
    column: str | None = Field(None, description="name of the column that says who holds a row")
    samples_per_device: Count | None = Field(None, description="keep only this many rows a device")
    test_fraction: Fraction = Field(0.2, description="rows held out for testing")
    validation_fraction: Fraction = Field(0.0, description="training rows held out to choose hyperparameters")
    shuffle_seed: int = Field(0, ge=0, description="seed of the permutation that makes the split")

    @model_validator(mode="after")
    def _partition_has_its_parameter(self) -> Data:
        keys = {"dirichlet": "alpha", "shards": "shards", "column": "column"}
        belongs(self, {key: ("partition", (partition,)) for partition, key in keys.items()})
        needs(self, "partition", keys)
        return self


class Model(OpenSection):
    """Which model is trained; further keys are the model's own parameters."""

    name: str = Field("softmax", description="softmax, mlp, cnn, autoencoder, or package.module:factory")
    init: Literal["default", "zeros"] = Field("default", description="how parameters start")


class TrainingSection(Section):
    """What a device does in a round."""

    loss: Literal["cross-entropy", "reconstruction"] = Field(
        "cross-entropy", description="what is lowered; reconstruction: half the squared distance from output to input"
    )
    learning_rate: Positive | None = Field(None, description="needed by all strategies but second-order ones")
    full_batch: bool = Field(False, description="each step uses all of a device's rows")
    local_steps: Count | None = Field(None, description="full-batch steps a round (default 1)")
    local_epochs: Count | None = Field(None, description="passes over a device's rows a round (default 1)")
    local_batches: Count | None = Field(None, description="mini-batch steps a round, instead of local_epochs")
    batch_size: Count | None = Field(None, description="rows a mini-batch (default 32)")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="of a device's steps, anew in each round")
    warm_up: Annotated[int, Field(ge=0)] = Field(
        0, description="rounds over which the learning rate rises to its value, in equal steps"
    )
    l2: NonNegative = Field(0.0, description="weight of (l2/2) ||w||^2 in the objective")
    clip_norm: Positive | None = Field(None, description="devices scale updates of a larger norm down to this")
    dtype: Literal["float32", "float64"] = "float32"
    device: str = Field("auto", description="auto, cpu or cuda")
    threads: Count = Field(1, description="threads of one device's computation")

    @model_validator(mode="after")
    def _one_kind_of_step(self) -> TrainingSection:
        of_batches = ("local_epochs", "local_batches", "batch_size")
        wrong = of_batches if self.full_batch else ("local_steps",)
        for key in wrong:
            if (value := getattr(self, key)) is not None:
                reason = f"has no meaning with full_batch = {str(self.full_batch).lower()}"
                raise refusal(key, value, reason, "local_steps" if self.full_batch else ", ".join(of_batches))
        if self.local_batches is not None and self.local_epochs is not None:
            reason = f"local_epochs = {self.local_epochs} is given too"
            raise refusal("local_batches", self.local_batches, reason, "one of the two")
        return self

    @model_validator(mode="after")
    def _momentum_has_steps(self) -> TrainingSection:
        key, steps = (
            ("local_steps", self.local_steps or 1) if self.full_batch else ("local_batches", self.local_batches)
        )
        if self.momentum and steps == 1:
            reason = f"a device takes one step a round ({key} = 1), and momentum begins anew with each round"
            raise refusal("momentum", self.momentum, reason, f"0, more {key}, or the server's momentum")
        return self


WITHOUT_BOUND = ("staleness_bound", "largest_staleness", "concurrency")
"""Parameters of strategies that may be infinite: TOML's ``inf``."""


class StrategySection(OpenSection):
    """What the server decides; further keys are the strategy's own parameters."""

    name: str = Field("fedavg", description="a name that `fedmac list strategies` shows")

    @model_validator(mode="after")
    def _known(self) -> StrategySection:
        check_strategy(self.name, self.parameters)
        for key, value in self.parameters.items():
            if key == "fraction_train" and not 0 < value <= 1:
                raise refusal(key, value, "the share of the devices that train in a round", "a number > 0 and <= 1")
            unbounded = key in WITHOUT_BOUND and value == math.inf
            if isinstance(value, float) and not math.isfinite(value) and not unbounded:
                raise refusal(key, value, "a parameter of the strategy", "a finite number")
        return self


class UplinkSection(Section):
    """How updates get to the server."""

    kind: Literal["ideal", "over-the-air", "non-coherent", "digital"] = "over-the-air"
    code: Literal["uncoded", "random-linear", "random-mask", "sparse-amp", "majority-vote"] = "uncoded"
    ratio: Ratio | None = Field(None, description="channel uses per coordinate of the update")
    uses: Count | None = Field(None, description="channel uses of an exchange (instead of ratio)")
    decoder: Literal["unbiased", "lmmse", "projection", "amp"] = Field(
        "unbiased", description="amp is that of sparse-amp, which has no other"
    )
    error_feedback: bool = Field(False, description="default with sparse-amp: true")
    sparsity: Ratio | None = Field(None, description="of sparse-amp: entries kept per channel use (default 0.5)")
    step: Positive | None = Field(None, description="of majority-vote: by how much each entry moves in a round")
    chips: Count | None = Field(None, description="of non-coherent: channel uses of each sign of an entry (default 1)")
    chip_fading: Literal["exchange", "chip"] | None = Field(
        None, description="of non-coherent: fading holds over an exchange (default), or each use has Rayleigh fading"
    )
    erasure: Fraction = Field(0.0, description="fraction of channel uses wiped out by interference")
    trace: bool = Field(False, description="record every device's peak-to-average power and energy")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_its_code(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("code") == "sparse-amp":
            return {"decoder": "amp", "error_feedback": True} | dict(given)
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> UplinkSection:
        if self.ratio is not None and self.uses is not None:
            raise refusal("uses", self.uses, f"ratio = {self.ratio} is given too", "one of the two")
        belongs(self, {"chips": ("kind", ("non-coherent",)), "chip_fading": ("kind", ("non-coherent",))})
        others = {
            "digital": 'is of the air; kind = "digital" sends packets, see the tables codec and link',
            "non-coherent": 'is of codes; kind = "non-coherent" sends energies of chips',
        }
        if self.kind in others:
            leaves_out(self, sorted(OF_CODES), others[self.kind])
        elif self.kind == "over-the-air":
            self._code_has_its_keys()
        return self

    def _code_has_its_keys(self) -> None:
        belongs(self, {"sparsity": ("code", ("sparse-amp",)), "step": ("code", ("majority-vote",))})
        needs(self, "code", {"majority-vote": "step"})
        if self.code in ("uncoded", "majority-vote"):
            every = f'has no meaning with code = "{self.code}", which sends every coordinate'
            leaves_out(self, ("ratio", "uses", "decoder"), every, "another code, or {key} left out")
            if self.code == "uncoded":
                leaves_out(self, ("error_feedback",), every, "another code, or {key} left out")
            return
        if self.ratio is None and self.uses is None:
            raise missing("ratio", f"but code = {self.code!r} needs it", "a number > 0 and <= 1, or uses instead")
        if self.code == "sparse-amp":
            if self.decoder != "amp":
                raise refusal("decoder", self.decoder, 'code = "sparse-amp" has its own', '"amp", or decoder left out')
        elif self.decoder == "amp":
            accepted = '"unbiased", "lmmse", "projection"'
            raise refusal("decoder", self.decoder, f'does not go with code = "{self.code}"', accepted)
        elif self.error_feedback and self.decoder != "projection":
            raise refusal("decoder", self.decoder, "does not go with error_feedback = true", '"projection"')


class CodecSection(OpenSection):
    """How a digital uplink makes packets of updates; further keys are the codec's own parameters."""

    name: str = Field("dithered", description="a name that `fedmac list codecs` shows")
    packing: Literal["fixed", "entropy"] = Field("fixed", description="symbols at a fixed rate, or entropy coded")
    error_feedback: Ratio | None = Field(None, description="weight of error feedback on the devices; none if left out")

    @model_validator(mode="after")
    def _known(self) -> CodecSection:
        check_codec(self.name, self.parameters)
        return self


class LinkSection(OpenSection):
    """How a digital uplink carries packets; further keys are the link's own parameters."""

    name: str = Field("shannon", description="a name that `fedmac list links` shows")
    access: Literal["ofdma", "tdma"] = Field("ofdma", description="side by side, or one after the other")
    shares: Literal["minimum-latency", "equal"] | None = Field(None, description="of ofdma: how the band is shared")
    power: Literal["own-band", "equal-density", "full", "minimum-energy"] | None = Field(
        None, description="of ofdma: own-band or equal-density; of tdma: full or minimum-energy"
    )
    deadline_s: Positive | None = Field(None, description="packets that come later are lost (default: none are)")
    retransmissions: Annotated[int, Field(ge=0)] = Field(0, description="times that a lost block is sent again")
    amplifier_efficiency: Ratio = Field(1.0, description="share of the power drawn that is radiated")
    circuit_power: NonNegative = Field(0.0, description="drawn while sending, in the power limit's unit")
    packets: Literal["as-coded", "fit", "least-error"] = Field(
        "as-coded", description="codecs made coarser until packets fit the deadline, or a budget shared by worth"
    )
    mean_bits: Positive | None = Field(None, description="of least-error: the budget, bits an entry and device")
    fill: Ratio = Field(1.0, description="part of what fits by the deadline that packets may take")
    select: Count | None = Field(None, description="devices that may send, by benefit per joule (default: all)")
    csi: Literal["current", "previous"] = Field("current", description="whose channel the server knows: which exchange")
    outer_loop: bool = Field(False, description="believe a device's SNR less after each block that is lost")

    @model_validator(mode="after")
    def _known(self) -> LinkSection:
        check_link(self.name, self.parameters)
        self._adapts()
        accepted = {"ofdma": ("own-band", "equal-density"), "tdma": ("full", "minimum-energy")}[self.access]
        if self.power is not None and self.power not in accepted:
            raise refusal("power", self.power, f'access = "{self.access}"', " or ".join(map(repr, accepted)))
        if self.shares is not None and self.access != "ofdma":
            raise refusal("shares", self.shares, f'access = "{self.access}" shares no band', 'access = "ofdma"')
        if self.power == "minimum-energy":
            if self.deadline_s is None:
                raise missing("deadline_s", 'but power = "minimum-energy" stretches packets to it', "seconds > 0")
            if self.name not in ("shannon", "snr-gap"):
                reason = f'needs a rate for every power, which name = "{self.name}" does not have'
                raise refusal("power", self.power, reason, 'name = "shannon" or "snr-gap", or power = "full"')
        return self

    def _adapts(self) -> None:
        belongs(self, {"mean_bits": ("packets", ("least-error",))})
        needs(self, "packets", {"least-error": "mean_bits", "fit": "deadline_s"})
        if self.fill < 1 and (self.packets == "as-coded" or self.deadline_s is None):
            reason = "leaves a part of what fits by the deadline to retransmissions"
            raise refusal("fill", self.fill, reason, 'deadline_s with packets = "fit" or "least-error"')
        if self.outer_loop and (self.name == "fixed-rate" or "mcs" in self.parameters):
            why = f"mcs = {self.parameters['mcs']} is" if "mcs" in self.parameters else f'name = "{self.name}" has'
            raise refusal("outer_loop", True, f"{why} one rate for all", "outer_loop left out")


class EngineSection(Section):
    """Where the devices run."""

    kind: Literal["local", "flower", "deployment", "collective"] = "local"
    workers: Count | None = Field(None, description="worker processes (default: one for each core)")
    ray_address: str | None = Field(None, description="of a running Ray cluster, for the flower engine")
    superlink: str | None = Field(
        None, description="of the deployment engine: its server's folder, host:port, or http://host:port without TLS"
    )
    backend: Literal["gloo", "nccl"] | None = Field(
        None, description="of the collective engine (default: NCCL where each process has a GPU of its own, else gloo)"
    )
    memory_mb: Count = Field(100, description="of the local engine, for updates held until all norms are known")
    batched_devices: Count | None = Field(
        None, description="of the local engine: devices trained in one computation (default: on a GPU several, else 1)"
    )
    checkpoint_every: Annotated[int, Field(ge=0)] = Field(
        1, description="rounds from one checkpoint to the next, from which `fedmac run --resume` goes on; 0 for none"
    )
    checkpoint_arrivals: Count | None = Field(
        None, description="of systems with a server: a checkpoint after so many replies as well, within a round"
    )
    nodes_timeout_s: Positive = Field(60.0, description="seconds to wait until as many nodes as devices are connected")
    round_timeout_s: Positive = Field(3600.0, description="seconds to wait for replies; locally for a worker process")

    @model_validator(mode="after")
    def _keys_have_their_engine(self) -> EngineSection:
        engines = {
            "ray_address": "flower",
            "superlink": "deployment",
            "batched_devices": "local",
            "backend": "collective",
        }
        belongs(self, {key: ("kind", (kind,)) for key, kind in engines.items()})
        needs(self, "kind", {"deployment": "superlink"})
        return self


class Evaluation(Section):
    """When the server evaluates the model on the held-out rows."""

    every: Count = Field(1, description="rounds from one evaluation to the next; the last is always evaluated")
    test: bool = Field(True, description="look at the test rows; false while hyperparameters are chosen")
    objective: bool = Field(False, description="record the devices' mean objective and the norm of its gradient")
    optimum: Finite | None = Field(
        None, description="least value of that objective (`fedmac optimum`): the gap to it is recorded"
    )

    @model_validator(mode="after")
    def _gap_is_of_the_objective(self) -> Evaluation:
        if self.optimum is not None and not self.objective:
            raise refusal("optimum", self.optimum, "objective is not recorded", "objective = true with it")
        return self
