"""Factors of gradients by scenario: what runs, what is refused in which words, and what is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from channel import FACTOR_CODECS
from channel.codecs.factor_layers import layers_bits
from fedmac.build import rehearse
from fedmac.build_devices import build_workplace
from fedmac.codec_figures import FACTORS_AT, factor_figures
from fedmac.record import MEASURED
from fedmac.scenario import Scenario
from fedmac.scenario_errors import ScenarioError
from fedmac.scenario_factors import FACTOR_CODEC_NAMES
from tests.fedmac.test_digital_scenarios import DIGITAL, put, ran, resolved

FACTORS = put(
    {key: value for key, value in DIGITAL.items() if key != "training"},
    {"training": {"learning_rate": 0.5, "local_batches": 1, "batch_size": 16}, "codec": {"name": "factor"}},
)


def names_of(message: str) -> re.Pattern[str]:
    return re.compile(f"^{re.escape(message)}$")


def test_a_run_of_factors_is_the_same_to_the_bit_on_one_worker_and_on_two(tmp_path: Path) -> None:
    variants: list[dict[str, Any]] = [
        {"name": "softmax"},
        {"name": "mlp", "codec": {"name": "deterministic-factor"}, "model": {"name": "mlp", "hidden": [16]}},
        {"name": "entropy", "codec": {"packing": "entropy"}, "strategy": {"name": "krum"}},
        {
            "name": "autoencoder",
            "model": {"name": "autoencoder", "hidden": [16, 4]},
            "training": {"loss": "reconstruction", "learning_rate": 0.01},
        },
    ]
    top = {"training": FACTORS["training"], "codec": FACTORS["codec"], "rounds": 2}
    one = ran(tmp_path / "one", variants, workers=1, **top)
    two = ran(tmp_path / "two", variants, workers=2, **top)
    for name, rounds in one.items():
        assert [{k: v for k, v in record.items() if k not in MEASURED} for record in rounds] == [
            {k: v for k, v in record.items() if k not in MEASURED} for record in two[name]
        ]
        assert all(record["failures"] == [] and record["heard"] for record in rounds[1:]), name
        models = [load_file(tmp_path / run / name / "model.safetensors") for run in ("one", "two")]
        assert all(np.array_equal(models[0][key], models[1][key]) for key in models[0])
    codec = FACTOR_CODECS["factor"]()
    assert one["softmax"][-1]["packet_bits"] == [layers_bits(codec, 16, [(64, 10)])] * 4
    assert one["softmax"][-1]["test_loss"] < one["softmax"][0]["test_loss"]


def test_the_number_of_batches_reaches_the_devices_in_place_of_epochs() -> None:
    chosen = resolved(
        put(DIGITAL, {"training": {"learning_rate": 0.5, "local_epochs": 2}}), {"training": {"local_batches": 3}}
    )
    assert chosen.training.local_epochs is None
    assert build_workplace(chosen, 0).training.local_batches == 3
    back = resolved(FACTORS | {"codec": {}}, {"training": {"local_epochs": 2}})
    assert (back.training.local_batches, back.training.local_epochs) == (None, 2)
    full = resolved(FACTORS | {"codec": {}}, {"training": {"full_batch": True}})
    assert full.training.local_batches is None


def test_a_variant_without_packets_may_keep_the_codec() -> None:
    """As it may with every codec: the table says nothing of other uplinks."""
    assert not resolved(FACTORS, {"uplink": {"kind": "ideal"}}).sends_factors
    assert resolved(DIGITAL | {"training": FACTORS["training"]}, {"codec": {"name": "factor"}}).sends_factors


SENDS = 'codec.name = "factor" sends the factors of one gradient on a mini-batch'
UNKNOWN = "how long packets of factor are is not known before a batch is drawn"

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"training": {"learning_rate": 0.5}}, f"training.local_batches: missing, but {SENDS}; accepted: 1"),
    ({"training.local_batches": 2}, f"training.local_batches = 2: {SENDS}; accepted: 1"),
    (
        {"training.momentum": 0.9},
        "training.momentum = 0.9: a device takes one step a round (local_batches = 1), and momentum begins anew with "
        "each round; accepted: 0, more local_batches, or the server's momentum",
    ),
    ({"training.l2": 0.1}, f"training.l2 = 0.1: {SENDS}; accepted: 0.0"),
    (
        {"training": {"learning_rate": 0.5, "full_batch": True}},
        f"training.full_batch = true: {SENDS}; accepted: false, with training.local_batches = 1",
    ),
    (
        {"training.local_epochs": 2},
        "training.local_batches = 1: local_epochs = 2 is given too; accepted: one of the two",
    ),
    (
        {"training.full_batch": True, "training.batch_size": None},
        "training.local_batches = 1: has no meaning with full_batch = true; accepted: local_steps",
    ),
    ({"training.local_batches": 0}, "training.local_batches = 0: accepted: an integer >= 1 (mini-batch steps a round, "
     "instead of local_epochs)"),
    (
        {"codec.error_feedback": 1.0},
        "codec.error_feedback = 1.0: what factor leaves of an update has no factors; accepted: error_feedback left "
        "out, or another codec",
    ),
    ({"link": {"packets": "fit", "deadline_s": 0.1}}, f"link.packets = 'fit': {UNKNOWN}; accepted: \"as-coded\""),
    ({"link.select": 2}, f"link.select = 2: {UNKNOWN}; accepted: select left out"),
    ({"codec.levels": "seven"}, "codec.levels = 'seven': a parameter of factor; accepted: a number"),
    ({"codec.levels": 2.5}, "codec.levels = 2.5: accepted: an integer from 1 to 32767, or 0.5 for one bit"),
    (
        {"codec.name": "deterministic-factor", "codec.refit": "best"},
        "codec.refit = 'best': accepted: none, mv, mvu",
    ),
    (
        {"codec.level": 3},
        "codec.level = 3: factor has no such parameter; did you mean levels? accepted: levels, errors_levels",
    ),
    (
        {"codec.name": "facter"},
        "codec.name = 'facter': unknown codec; did you mean factor? accepted: dithered, nested, compressive, eden, "
        "rotated-dithered, qsgd, terngrad, scaled-sign, one-bit-sgd, top-k, rand-k, sparse-binary, factor, "
        "deterministic-factor",
    ),
    (
        {"strategy.name": "giant", "training": {}},
        'uplink.kind = \'digital\': strategy.name = "giant" sends vectors that are no updates; accepted: "ideal", '
        '"over-the-air"',
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_does_not_go_with_factors_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ScenarioError, match=names_of(message)):
        Scenario.load(_without_none(put(FACTORS, changes)))


def _without_none(content: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
        for key, value in content.items()
    }


def test_a_model_of_more_than_dense_layers_is_refused_before_work_starts() -> None:
    expected = names_of(
        "model.name = \"cnn\": 'convolution1.weight' is not the weight or bias of an nn.Linear, of which alone there "
        'are factors, and codec.name = "factor" sends nothing else; accepted: softmax, mlp, autoencoder, or a '
        "package.module:factory of nn.Linear layers alone"
    )
    with pytest.raises(ScenarioError, match=expected):
        rehearse(Scenario.load(put(FACTORS, {"model": {"name": "cnn", "channels": [4], "hidden": 8}})))
    rehearse(Scenario.load(put(FACTORS, {"model.name": "mlp"})))


def test_the_names_that_scenarios_check_are_those_of_the_codecs() -> None:
    assert FACTOR_CODEC_NAMES == tuple(FACTOR_CODECS) == tuple(FACTORS_AT)


@pytest.mark.parametrize("name", FACTOR_CODECS)
def test_the_figures_are_of_the_layer_that_they_name_and_fall_with_the_bits(name: str) -> None:
    figures = factor_figures(name)
    bits, errors = zip(*figures, strict=True)
    assert list(bits) == sorted(bits)
    assert list(errors) == sorted(errors, reverse=True)
    # 16 (784 + 256) entries of both factors in place of 784 x 256.
    for rate, parameters in zip(bits, FACTORS_AT[name], strict=True):
        count = parameters["levels"] * 2 + 2 if name == "factor" else parameters["levels"] + 1
        assert rate == pytest.approx(16 * 1040 * np.log2(count) / (784 * 256), rel=0.03)
