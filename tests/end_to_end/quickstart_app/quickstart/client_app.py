"""What a device does."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quickstart.task import Net, load_data
from quickstart.task import test as test_fn
from quickstart.task import train as train_fn

# Flower ClientApp
app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    """Train the received model on the device's data."""
    model, device = received_model(msg)
    trainloader = local_data(context)
    train_loss = train_fn(model, trainloader, context.run_config["local-epochs"], msg.content["config"]["lr"], device)
    metrics = {"train_loss": train_loss, "num-examples": len(trainloader.dataset)}
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    """Test the received model on the device's data."""
    model, device = received_model(msg)
    dataloader = local_data(context)
    loss, accuracy = test_fn(model, dataloader, device)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(dataloader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)


def received_model(msg: Message):
    """The model of the message, and where to run it."""
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    return model, torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def local_data(context: Context):
    """The partition that this device holds."""
    partition_id, num_partitions = context.node_config["partition-id"], context.node_config["num-partitions"]
    return load_data(partition_id, num_partitions, context.run_config["batch-size"])
