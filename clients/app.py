"""The device's Flower app: trains and evaluates when asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from torch import Tensor

from channel.layout import Layout
from channel.order import FACTORS_KEY
from channel.records import records_in
from clients.attack import Attack
from clients.batched_training import BatchedTrainer
from clients.clipping import clip_to_norm
from clients.data import FederatedData, Split
from clients.device_profile import within_profile
from clients.dingo_over_the_air import add_dingo_over_the_air
from clients.factored_update import factors_record
from clients.factors import DenseFactors
from clients.mean_objective import MeanObjective
from clients.objective import Objective
from clients.second_order import add_second_order
from clients.training import Trainer, Training
from clients.transmit import transmit


@dataclass
class Workplace:
    """What a device has at hand: a model to train, its data, and how it trains.

    Parameters
    ----------
    trainer : Trainer
        Model and compute device, shared by all devices of a process.
    data : FederatedData
        The data of all devices; each uses its own part only.
    training : Training
        Steps of a round.
    seed : int
        Seed of the run.
    attack : Attack, optional
        What some of the devices do in place of that.
    """

    trainer: Trainer
    data: FederatedData
    training: Training
    seed: int
    attack: Attack | None = None
    _objectives: dict[int, Objective] = field(default_factory=dict, repr=False)

    def objective(self, device: int) -> Objective:
        """What `device` minimises, for second-order methods; made once in a process."""
        if device not in self._objectives:
            self._objectives[device] = Objective(
                self.trainer.model,
                self.data.device(device),
                l2=self.training.l2,
                loss=self.trainer.loss.mean,
                device=self.trainer.device,
            )
        return self._objectives[device]

    def mean_objective(self) -> MeanObjective:
        """What all devices minimise together, for whoever has all their data at hand."""
        return MeanObjective([self.objective(device) for device in range(len(self.data.parts))])

    def check_size(self, size: int) -> None:
        """Refuse a received model of `size` numbers that is not the one for this device's data."""
        if size != self.trainer.size:
            raise ValueError(
                f"model: {size} numbers received, but that of this device has {self.trainer.size}, for inputs of shape "
                f"{self.data.input_shape} and {self.data.num_classes} classes; accepted: data of the shape and classes "
                "that the server's model is for"
            )

    def steps_of(self, config: Mapping[str, Any]) -> Training:
        """The steps of a round, as the server's configuration of it has them."""
        training, warm_up = self.training, self.training.warm_up
        if warm_up:
            rise = min(1.0, int(config.get("server-round", warm_up)) / warm_up)
            training = replace(training, learning_rate=rise * training.learning_rate)
        if "proximal-mu" in config:
            training = replace(training, proximal_mu=float(config["proximal-mu"]))
        return training

    def train(
        self,
        received: Tensor,
        device: int,
        config: Mapping[str, Any],
        factors: dict[str, DenseFactors] | None = None,
    ) -> tuple[Tensor, int, float]:
        """Train `device` from the received flat state.

        Parameters
        ----------
        received : Tensor of shape (d,)
            Received model.
        device : int
            Number of the device, its part of the data.
        config : mapping
            The server's configuration: ``server-round``, and ``proximal-mu`` from FedProx.
        factors : dict, optional
            Filled as by :meth:`clients.training.Trainer.train`.

        Returns
        -------
        state : Tensor of shape (d,)
            Trained model, overwritten by the next call.
        examples : int
            Number of the device's examples.
        loss : float
            Mean training loss.
        """
        training, round = self.steps_of(config), int(config.get("server-round", 0))
        split = self._examples(device)
        state, loss = self.trainer.train(
            received,
            split,
            training,
            seed=self.seed,
            round=round,
            device=device,
            factors=factors,
        )
        return self._sent(state, received.to(state.device), device, round), len(split.targets), loss

    def train_together(
        self, received: Tensor, devices: Sequence[int], config: Mapping[str, Any]
    ) -> list[tuple[Tensor, int, float]]:
        """Train `devices` from the received flat state in one computation; for each what :meth:`train` gives.

        States are on the CPU and stay. Raises what :meth:`clients.batched_training.BatchedTrainer.train` raises.
        """
        training, round = self.steps_of(config), int(config.get("server-round", 0))
        splits = [self._examples(device) for device in devices]
        trained, losses = BatchedTrainer(self.trainer).train(
            received, splits, training, seed=self.seed, round=round, devices=devices
        )
        return [
            (self._sent(state, received, device, round), len(split.targets), loss)
            for state, device, split, loss in zip(trained, devices, splits, losses, strict=True)
        ]

    def _examples(self, device: int) -> Split:
        """What `device` trains on."""
        split = self.data.device(device)
        return split if self.attack is None else self.attack.data(split, device, self.data.num_classes)

    def _sent(self, state: Tensor, received: Tensor, device: int, round: int) -> Tensor:
        """The trained state, moved so that its difference to the received one is what the device sends.

        Every engine takes that difference, so that all of them send the same.
        """
        limit, attack = self.training.clip_norm, self.attack
        attacks = attack is not None and device in attack.devices
        if limit is None and not attacks:
            return state
        trained = state - received
        update = trained if limit is None else clip_to_norm(trained, limit)
        if attack is not None:
            update = attack.update(update, device, round)
        return state if update is trained else received + update


def client_app(workplace: Callable[[Context, Mapping[str, Any]], Workplace], between: Sequence[Mod] = ()) -> ClientApp:
    """A Flower ClientApp, with the mods ``within_profile`` and ``transmit``; `workplace` says where devices work.

    Parameters
    ----------
    workplace : callable
        Called with the node's context and the server's configuration for each message; cache what it builds.
    between : sequence of mods
        Called between the two.
    """
    app = ClientApp(mods=[within_profile, *between, transmit])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays, config = _model_and_config(message)
        work = workplace(context, config)
        layout = Layout.of_arrays(arrays)
        work.check_size(layout.size)
        received = torch.from_numpy(layout.flatten(arrays))
        factors: dict[str, DenseFactors] = {}
        asked = {"factors": factors} if FACTORS_KEY in records_in(message.content, ConfigRecord) else {}
        state, examples, loss = work.train(received, device_number(context), config, **asked)
        trained = arrays | layout.unflatten(state.cpu().numpy())
        metrics = MetricRecord({"num-examples": examples, "train_loss": loss})
        reply = _reply(message, metrics, ArrayRecord({name: Array(a) for name, a in trained.items()}))
        if asked:
            reply.content[FACTORS_KEY] = factors_record(factors, work.steps_of(config).learning_rate)
        return reply

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        arrays, config = _model_and_config(message)
        work = workplace(context, config)
        state = torch.from_numpy(Layout.of_arrays(arrays).flatten(arrays))
        work.check_size(len(state))
        result = work.trainer.evaluate(state, work.data.device(device_number(context)))
        metrics = MetricRecord({"num-examples": result.examples, "loss": result.loss})
        if result.accuracy is not None:
            metrics["accuracy"] = result.accuracy
        return _reply(message, metrics)

    def objective(context: Context, config: Mapping[str, Any]) -> Objective:
        return workplace(context, config).objective(device_number(context))

    add_second_order(app, objective)
    add_dingo_over_the_air(app, objective)
    return app


def device_number(context: Context) -> int:
    """The number of the device whose node this is, its part of the data.

    Raises
    ------
    ValueError
        If the node's configuration does not say.
    """
    if "partition-id" not in context.node_config:
        raise ValueError(
            'node_config: "partition-id" is missing; start the node with '
            '--node-config "partition-id=0 num-partitions=N" (0 to N-1, one for each device)'
        )
    return int(context.node_config["partition-id"])


def _model_and_config(message: Message) -> tuple[dict[str, Any], Mapping[str, Any]]:
    record = next(iter(records_in(message.content, ArrayRecord).values()))
    config: Mapping[str, Any] = next(iter(records_in(message.content, ConfigRecord).values()), ConfigRecord())
    return {name: array.numpy() for name, array in record.items()}, config


def _reply(message: Message, metrics: MetricRecord, arrays: ArrayRecord | None = None) -> Message:
    content = RecordDict({"metrics": metrics})
    if arrays is not None:
        content["arrays"] = arrays
    return Message(content, reply_to=message)


__all__ = ["Workplace", "client_app", "device_number"]
