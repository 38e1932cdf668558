"""Hugging Face data sets as plain arrays.

:func:`from_dataset` turns a data set in memory into arrays; :func:`from_hub` does so after a download. The
input column is the first image, else the first list or array of numbers; the label column goes by its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

OFFLINE_SOURCES = "mnist-5k, digits"
_LABEL_NAMES = ("label", "labels", "target", "targets", "y", "fine_label")
_NUMBERS = ("int", "uint", "float", "double")
_PROBE_TIMEOUT_S = 5.0


class DataUnavailable(RuntimeError):
    """The data set is not on this machine and cannot be fetched now."""


def from_hub(name: str, subset: str | None, column: str | None) -> dict[str, np.ndarray]:
    """Fetch ``name`` from the hub, or from the hub's local cache when the network is closed.

    Raises
    ------
    DataUnavailable
        If neither has it. Says so within seconds: the hub is asked once with a short timeout before the
        library, which would try six times with growing pauses, is let loose.
    """
    import datasets

    problem = _hub_problem(name)
    try:
        if problem is None:
            found = datasets.load_dataset(name, subset)
        else:
            with _offline():
                found = datasets.load_dataset(name, subset)
    except OSError as error:  # datasets raises ConnectionError and FileNotFoundError for data it cannot reach
        raise DataUnavailable(
            f"data set {name!r} is not on this machine and cannot be fetched: {problem or error}. "
            f"Available offline: {OFFLINE_SOURCES}"
        ) from error
    return from_dataset(found, column)


def _hub_problem(name: str) -> str | None:
    """Why the hub cannot deliver the data set now, or None if it can."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=_PROBE_TIMEOUT_S)
    except RepositoryNotFoundError:
        return "the hub has no public data set of this name"
    except (httpx.HTTPError, OSError) as error:
        return f"the hub cannot be reached ({type(error).__name__})"
    return None


@contextmanager
def _offline() -> Iterator[None]:
    """Let datasets look into its cache only; the environment variable for it is read too early, at import."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def from_dataset(data: Any, column: str | None) -> dict[str, np.ndarray]:
    """Arrays of a ``datasets.Dataset`` or ``DatasetDict``, named like the fields of ``clients.sources.Rows``.

    Images become (channels, height, width) in the file's own 8 or 16 bits, with ``scale`` the largest value a
    pixel can have; 8- and 16-bit unsigned arrays are taken for pixels too. Other numbers have ``scale`` 1.

    Raises
    ------
    ValueError
        If there is no training split, input column or label column, or their content can't be used.
    TypeError
        If ``data`` is no data set.
    """
    train, test = _splits(data)
    source, label = _input_column(train.features), _label_column(train.features)
    inputs = _inputs(train, source)
    arrays = {"inputs": inputs, "targets": _targets(train, label), "scale": np.array(_scale(inputs))}
    if column is not None:
        arrays["groups"] = _groups(train, column)
    if test is not None:
        arrays["test_inputs"], arrays["test_targets"] = _inputs(test, source), _targets(test, label)
        if arrays["test_inputs"].shape[1:] != inputs.shape[1:]:
            raise ValueError(
                f"inputs of the test split have shape {arrays['test_inputs'].shape[1:]}, "
                f"those of the training split {inputs.shape[1:]}; they must be equal"
            )
    named = getattr(train.features[label], "num_classes", None)
    seen = 1 + max(int(arrays[name].max(initial=0)) for name in ("targets", "test_targets") if name in arrays)
    arrays["num_classes"] = np.array(max(named or 0, seen))
    return arrays


def _splits(data: Any) -> tuple[Any, Any | None]:
    import datasets

    if isinstance(data, datasets.Dataset):
        return data, None
    if not isinstance(data, datasets.DatasetDict):
        raise TypeError(
            f"source has type {type(data).__name__}; accepted: a name, datasets.Dataset, datasets.DatasetDict"
        )
    if "train" in data:
        return data["train"], data.get("test")
    if len(data) == 1:
        return next(iter(data.values())), None
    raise ValueError(f"the data set has splits {sorted(data)} and none is called 'train'")


def _input_column(features: Any) -> str:
    import datasets

    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            return str(name)
    for name, feature in features.items():
        inner = feature
        while not isinstance(inner, datasets.Value) and hasattr(inner, "feature"):  # lists, lists of lists
            inner = inner.feature
        is_scalar = inner is feature and isinstance(feature, datasets.Value | datasets.ClassLabel)
        if not is_scalar and str(getattr(inner, "dtype", "")).startswith(_NUMBERS):
            return str(name)
    raise ValueError(f"no column holds images or lists of numbers; the columns are {dict(features)}")


def _label_column(features: Any) -> str:
    import datasets

    for name in _LABEL_NAMES:
        feature = features.get(name)
        if isinstance(feature, datasets.ClassLabel) or str(getattr(feature, "dtype", "")).startswith(_NUMBERS[:2]):
            return name
    raise ValueError(
        f"no column called {', '.join(_LABEL_NAMES)} holds integer labels; the columns are {dict(features)}"
    )


def _inputs(data: Any, column: str) -> np.ndarray:
    import datasets

    if isinstance(data.features[column], datasets.Image):
        images = [_pixels(row[column]) for row in data.select_columns(column)]
    else:
        images = [np.asarray(value) for value in data.select_columns(column).with_format("numpy")[:][column]]
    shapes = sorted({image.shape for image in images})
    if len(shapes) > 1:
        raise ValueError(f"column {column!r} holds inputs of different shapes, such as {shapes[:3]}; resize them first")
    stacked = np.stack(images) if images else np.empty((0,), np.float32)
    if stacked.dtype.kind == "f" and not np.isfinite(stacked).all():
        raise ValueError(f"column {column!r} holds NaN or infinite inputs")
    return stacked


def _pixels(image: Any) -> np.ndarray:
    """One PIL image as (channels, height, width)."""
    if image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "I;16"):  # palettes, CMYK, transparency
        image = image.convert("RGB")
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _scale(inputs: np.ndarray) -> float:
    return float(np.iinfo(inputs.dtype).max) if inputs.dtype in (np.uint8, np.uint16) else 1.0


def _targets(data: Any, column: str) -> np.ndarray:
    targets = np.asarray(data.select_columns(column).with_format("numpy")[:][column], dtype=np.int64)
    if targets.min(initial=0) < 0:
        raise ValueError(f"label column {column!r} holds {targets.min()}; labels must be 0, 1, 2, ...")
    return targets


def _groups(data: Any, column: str) -> np.ndarray:
    if column not in data.features:
        raise ValueError(f"column = {column!r} is not in the data set; accepted: {', '.join(data.features)}")
    values = np.asarray(data.select_columns(column).with_format("numpy")[:][column])
    if values.dtype == object:
        values = values.astype(str)  # so that it can be kept without pickle
    if values.ndim != 1:
        raise ValueError(f"column = {column!r} holds a list per row; a device is chosen by one value per row")
    return values
