"""A device's process: what it loads, whose rows it uses, and what it says when they do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from channel.order import TransmitOrder
from clients.device_profile import multiplies_bfloat16
from fedmac import client_app
from tests import fleet
from tests.fedmac.device_process import handle

SCENARIO = """
name = "x"
rounds = 1
data = { source = "digits", devices = 3, partition = "dirichlet", alpha = 1.0 }
training = { learning_rate = 0.1, full_batch = true }
"""
HEAVY = (
    "cvxpy", "datasets", "flwr_datasets", "matplotlib", "optuna", "pandas", "plotly", "pyarrow", "ray", "sionna",
    "sklearn", "scipy.fft", "scipy.integrate", "scipy.linalg", "scipy.optimize", "scipy.sparse", "scipy.special",
    "scipy.stats", "channel.channel", "channel.links", "channel.power", "channel.uplinks", "fedmac.build",
    "strategies.air_grid",
)  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FEDMAC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDMAC_PROFILE", raising=False)
    built = (client_app._of_all, client_app._of_one, client_app._scenario)
    for each in built:
        each.cache_clear()
    yield tmp_path / "cache"
    for each in built:
        each.cache_clear()


def node(device: int = 1, scenario: str = SCENARIO, **configuration: Any) -> Context:
    return Context(
        1, 2, {"partition-id": device, "num-partitions": 3, **configuration}, RecordDict(), {"scenario": scenario}
    )


def config(seed: int = 0) -> dict[str, Any]:
    return {"variant": "x", "seed": seed}


def ask(context: Context, features: int = 64, classes: int = 10) -> dict[str, np.ndarray]:
    """The model that a device makes of one of zeros."""
    fleet.identify()
    zeros = {"weight": np.zeros((classes, features), np.float32), "bias": np.zeros(classes, np.float32)}
    arrays = ArrayRecord({name: Array(array) for name, array in zeros.items()})
    reply = client_app.app(
        Message(RecordDict({"arrays": arrays, "config": ConfigRecord(config())}), 2, "train"), context
    )
    return {name: array.numpy() for name, array in reply.content["arrays"].items()}


def files(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("rows-*")}


def test_a_later_process_loads_only_what_its_order_needs_and_uses_the_same_rows(cache: Path) -> None:
    trained = ask(node())
    order = TransmitOrder("uncoded", seed=3).to_config() | {"device": 1}
    said = handle(SCENARIO, cache, order=order, source=False, node={"profile": "phone"})
    assert "error" not in said
    assert [name for name in HEAVY if name in said["modules"]] == []
    (symbols,) = said["arrays"].values()
    update = np.concatenate([trained[name].reshape(-1) for name in ("weight", "bias")])
    sent = said["configs"]["fedmac.transmission"]
    # Symbols of unit power, so that they are the update by sqrt(d)/norm. float32 rounds to 6e-8 of the largest, here of
    # some operations; a phone whose CPU has bfloat16 trains in that, which rounds to 2^-8.
    rounding = 2.0**-7 if multiplies_bfloat16() else 1e-6
    error = np.abs(np.asarray(symbols) * sent["norm"] / np.sqrt(650) - update).max()
    assert error <= rounding * np.abs(update).max()
    assert sent["joules"] == pytest.approx(1.6 * sent["seconds"])


def test_only_the_device_that_had_to_make_all_rows_keeps_its_own(cache: Path) -> None:
    for device in (1, 0, 2, 1):
        ask(node(device))
    assert len(files(cache)) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((SCENARIO, 0), (SCENARIO, 1)),
        ((SCENARIO, 0), (SCENARIO.replace("alpha = 1.0", "alpha = 2.0"), 0)),
        ((SCENARIO, 0), (SCENARIO.replace("learning_rate", 'dtype = "float64", learning_rate'), 0)),
    ],
    ids=["seed", "partition", "dtype"],
)
def test_other_rows_are_kept_apart(cache: Path, one: tuple[str, int], other: tuple[str, int]) -> None:
    for scenario, seed in (one, other, one):
        client_app.workplace(node(scenario=scenario), config(seed))
    assert len(files(cache)) == 2


def test_a_variant_that_changes_only_the_air_uses_the_same_rows(cache: Path) -> None:
    for scenario in (SCENARIO, SCENARIO + 'uplink = { kind = "ideal" }\n'):
        client_app.workplace(node(scenario=scenario), config())
    assert len(files(cache)) == 1


def test_kept_rows_are_those_of_the_federation(cache: Path) -> None:
    among_all = client_app.workplace(node(), config()).data.device(1)
    client_app._of_one.cache_clear()
    alone = client_app.workplace(node(), config()).data
    assert not hasattr(among_all, "number")
    assert alone.device(1).inputs.shape == among_all.inputs.shape
    assert torch.equal(alone.device(1).inputs, among_all.inputs)
    assert torch.equal(alone.device(1).targets, among_all.targets)
    with pytest.raises(ValueError, match="only the rows of device 1"):
        alone.device(0)


def own_file(folder: Path, features: int = 64, classes: int = 10) -> Path:
    draws = np.random.default_rng(0)
    targets = draws.integers(0, 4, 20)
    np.savez(folder / "own.npz", inputs=draws.random((20, features)), targets=targets, classes=classes)
    return folder / "own.npz"


def test_a_device_trains_on_its_own_file(tmp_path: Path) -> None:
    path = own_file(tmp_path)
    bias = ask(node(data=str(path)))["bias"]
    # one full-batch step from zero: the gradient of the bias is 1/10 less the share of each class
    shares = np.bincount(np.load(path)["targets"], minlength=10) / 20
    assert np.allclose(bias, 0.1 * (shares - 0.1), atol=1e-8)


@pytest.mark.parametrize(("features", "classes"), [(63, 10), (64, 4)])
def test_rows_that_the_servers_model_is_not_for_are_refused(tmp_path: Path, features: int, classes: int) -> None:
    path = own_file(tmp_path, features, classes)
    own = rf"has {(features + 1) * classes}, for inputs of shape \({features},\) and {classes} classes"
    said = f"650 numbers received, but that of this device {own}"
    with pytest.raises(ValueError, match=said):
        ask(node(data=str(path)))


def test_the_node_can_say_how_many_classes_there_are(tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    table.write_text("\n".join(",".join(["0.5"] * 64 + [str(label)]) for label in (0, 1, 1)))
    assert ask(node(data=str(table), classes=10))["bias"].shape == (10,)


@pytest.mark.parametrize("classes", ["ten", 0, 2.5])
def test_a_number_of_classes_that_is_none_is_refused(tmp_path: Path, classes: object) -> None:
    with pytest.raises(ValueError, match=r"node_config classes = .*accepted: a whole number >= 1"):
        ask(node(data=str(own_file(tmp_path)), classes=classes))


def test_a_missing_file_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'node_config data = ".*none\.npz": No such file'):
        ask(node(data=str(tmp_path / "none.npz")))
