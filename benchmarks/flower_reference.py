"""Times federated averaging in Flower's own simulation engine, with nothing of FedMAC in the app.

What is timed: the workload of ``bare_loop.py`` (same data, same initial MLP 784-128-10, full participation, batch
10, one local epoch, SGD with learning rate 0.05) as a Flower app of the message API in the form of Flower's own
quickstart: strategy ``FedAvg``, a ClientApp that loads the model, trains it and replies with it.

Where the app leaves a choice, the faster one that does the same work is taken: each process makes model and data
once and keeps them, there is no evaluation and no metric but the number of examples, a client takes one CPU, so
that ``--workers`` of them train at the same time. Flower's engine is started and stopped by
``fedmac.engines.flower``, which changes nothing in it, so that the benchmark needs no SuperLink of the user's.

How: ``FedAvg.start`` calls its ``evaluate_fn`` at the end of each round; there ``time.perf_counter`` is read. The
first round, in which Ray starts, is the warm-up; figures as in ``bare_loop.py``. Run from the repository:
``.venv/bin/python benchmarks/flower_reference.py --devices 100 --samples 50 --rounds 10 --workers 2``.
It prints one line of JSON.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path

from bare_loop import Workload, make_data, make_model, parse_workload, report, train_device
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import Tensor, nn

server = ServerApp()
client = ClientApp()


@server.main()
def serve(grid: Grid, context: Context) -> None:
    """Run a warm-up and the timed rounds, and leave the line of JSON in the file ``out``."""
    config = context.run_config
    workload = Workload(int(config["devices"]), int(config["samples"]), int(config["rounds"]), threads=1)
    ends: list[float] = []

    def note_time(_round: int, _arrays: ArrayRecord) -> None:
        ends.append(time.perf_counter())

    model = make_model()
    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_train_nodes=workload.devices,
        min_available_nodes=workload.devices,
        train_metrics_aggr_fn=lambda replies, _weighted_by: MetricRecord({"replies": len(replies)}),
    )
    rounds = workload.rounds + 1
    result = strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=rounds, evaluate_fn=note_time)
    for number, metrics in result.train_metrics_clientapp.items():
        # Flower averages what is left when clients fail, and a round with fewer of them is a faster one.
        if metrics["replies"] != workload.devices:
            raise RuntimeError(f"round {number}: {metrics['replies']} of {workload.devices} clients trained")
    model.load_state_dict(result.arrays.to_torch_state_dict())
    # The first entry is the initial model's, before any round.
    Path(str(config["out"])).write_text(report("flower", workload, model, ends[1:]))


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model on the node's data and send it back."""
    config = context.run_config
    model, data = _at_hand(int(config["devices"]), int(config["samples"]))
    features, labels = data[int(context.node_config["partition-id"])]
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    train_device(model, features, labels)
    metrics = MetricRecord({"num-examples": len(labels)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@cache
def _at_hand(devices: int, samples: int) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    return make_model(), make_data(devices, samples)


def simulate(workload: Workload, workers: int) -> str:
    """Run the app on Flower's engine, `workers` clients at a time; give the line of JSON."""
    # Here, not above: Flower's processes import this file too, and are to load no more than the app needs.
    from fedmac.engines.flower import Scalar, run_app, write_app

    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory(prefix="flower-reference-") as folder:
        out = Path(folder) / "result.json"
        config: dict[str, Scalar] = {
            "devices": workload.devices,
            "samples": workload.samples,
            "rounds": workload.rounds,
            "out": str(out),
        }
        components = {"serverapp": "flower_reference:server", "clientapp": "flower_reference:client"}
        app = write_app(Path(folder) / "app", config, **components)
        for name in ("flower_reference.py", "bare_loop.py"):
            shutil.copy(here / name, app / name)
        run_app(app, {}, nodes=workload.devices, workers=workers, log=Path(folder) / "flower.log")
        return out.read_text()


def main() -> None:
    """Time Flower's engine and print the line of JSON."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--workers", type=int, default=2, help="clients that train at the same time (2)")
    own, others = parser.parse_known_args()
    workload = parse_workload("Time federated averaging in Flower's simulation engine.", others)
    print(simulate(workload, own.workers))


if __name__ == "__main__":
    main()
