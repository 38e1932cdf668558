"""The device's Flower app: trains and evaluates when asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import Tensor

from channel.layout import Layout
from channel.order import FACTORS_KEY
from clients.data import FederatedData
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
    """

    trainer: Trainer
    data: FederatedData
    training: Training
    seed: int
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
        training = self.steps_of(config)
        split = self.data.device(device)
        state, loss = self.trainer.train(
            received,
            split,
            training,
            seed=self.seed,
            round=int(config.get("server-round", 0)),
            device=device,
            factors=factors,
        )
        return state, len(split.targets), loss


def client_app(workplace: Callable[[Context, Mapping[str, Any]], Workplace]) -> ClientApp:
    """A Flower ClientApp, with the mod ``transmit``, whose devices find their work through `workplace`.

    Parameters
    ----------
    workplace : callable
        Called with the node's context and the server's configuration for each message; cache what it builds.
    """
    app = ClientApp(mods=[transmit])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays, config = _model_and_config(message)
        work = workplace(context, config)
        layout = Layout.of_arrays(arrays)
        received = torch.from_numpy(layout.flatten(arrays))
        factors: dict[str, DenseFactors] = {}
        asked = {"factors": factors} if FACTORS_KEY in message.content.config_records else {}
        state, examples, loss = work.train(received, _device(context), config, **asked)
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
        result = work.trainer.evaluate(state, work.data.device(_device(context)))
        metrics = MetricRecord({"num-examples": result.examples, "loss": result.loss})
        if result.accuracy is not None:
            metrics["accuracy"] = result.accuracy
        return _reply(message, metrics)

    def objective(context: Context, config: Mapping[str, Any]) -> Objective:
        return workplace(context, config).objective(_device(context))

    add_second_order(app, objective)
    add_dingo_over_the_air(app, objective)
    return app


def _device(context: Context) -> int:
    if "partition-id" not in context.node_config:
        raise ValueError(
            'node_config: "partition-id" is missing; start the node with '
            '--node-config "partition-id=0 num-partitions=N" (0 to N-1, one for each device)'
        )
    return int(context.node_config["partition-id"])


def _model_and_config(message: Message) -> tuple[dict[str, Any], Mapping[str, Any]]:
    record = next(iter(message.content.array_records.values()))
    config: Mapping[str, Any] = next(iter(message.content.config_records.values()), ConfigRecord())
    return {name: array.numpy() for name, array in record.items()}, config


def _reply(message: Message, metrics: MetricRecord, arrays: ArrayRecord | None = None) -> Message:
    content = RecordDict({"metrics": metrics})
    if arrays is not None:
        content["arrays"] = arrays
    return Message(content, reply_to=message)


__all__ = ["Workplace", "client_app"]
