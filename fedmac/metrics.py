"""A run's figures for Prometheus: at an address that it asks, or in a file that node_exporter reads.

The metrics are listed in docs/watching.md. Each has the labels ``run`` (the run folder's name), ``variant`` and
``seed``; figures that a round's record sums up already are taken from it, the others are counted here.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fedmac.logs import QUARANTINED
from strategies.refusal import BAD_KINDS, ERROR, LOST, NO_REPLY

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

GAUGES = {
    "round": ("fedmac_round", "Last round that is done."),
    "test_accuracy": ("fedmac_test_accuracy", "Accuracy on the test rows when last evaluated."),
    "test_loss": ("fedmac_test_loss", "Loss on the test rows when last evaluated."),
    "validation_accuracy": ("fedmac_validation_accuracy", "Accuracy on the validation rows when last evaluated."),
    "validation_loss": ("fedmac_validation_loss", "Loss on the validation rows when last evaluated."),
    "train_loss": ("fedmac_train_loss", "Mean training loss of the devices in the last round."),
    "privacy_epsilon": ("fedmac_privacy_epsilon", "Privacy loss of all rounds so far, at privacy.delta."),
}
"""Figures of the last round that had them: name in its record, name of the metric, what it is."""

SUMS = {
    "channel_uses": ("fedmac_channel_uses", "Real channel uses so far."),
    "energy_j_per_device_mean": (
        "fedmac_mean_device_energy",
        "Energy so far, mean of the devices: J, or noise energies of a real use where units are normalised.",
    ),
    "energy_j_per_device_max": ("fedmac_max_device_energy", "Energy so far of the device that has spent most."),
    "bits_per_device_mean": ("fedmac_mean_device_bits", "Bits so far, mean of the devices."),
    "air_time_s": ("fedmac_air_time_seconds", "Simulated seconds on air so far."),
    "wall_s": ("fedmac_wall_seconds", "Seconds that the run itself has taken so far."),
}
"""What a record sums up from the first round on."""

COUNTED = {
    "outcome": ("fedmac_devices", "Devices by what came of asking them, summed over rounds.", "outcome"),
    "failure": ("fedmac_failures", "Devices that were asked and did not send, or what nobody can use.", "kind"),
    "not_asked": ("fedmac_not_asked", "Devices that were left out before they trained.", "kind"),
    "warnings": ("fedmac_warnings", "Warnings of power control and plans.", ""),
    "unheard": ("fedmac_rounds_unheard", "Rounds in which nothing was heard.", ""),
}
"""What is counted here: name of the metric, what it is, its further label."""

FAILURE_KINDS = (*sorted(BAD_KINDS), NO_REPLY, LOST, ERROR)

NOT_ASKED_KINDS = {"quarantined": QUARANTINED, "unreachable": "unreachable", "outage": "not asked: in outage"}
"""Kinds of reasons not to ask a device, by what they begin with; ``other`` are those of plans and links."""


class RunMetrics:
    """What a run has come to so far, for a registry of Prometheus's library, which asks by :meth:`collect`.

    Parameters
    ----------
    run : str
        The label ``run``.

    Attributes
    ----------
    failed : bool
        Whether an error has ended the run.
    asked : bool
        Whether anybody has ever asked.
    told : threading.Event
        Set once somebody has been told that the run failed.
    """

    def __init__(self, run: str) -> None:
        self.run = run
        self.failed = False
        self.asked, self.told = False, threading.Event()
        self._last: dict[tuple[str, str], dict[str, float]] = {}
        self._counts: Counter[tuple[str, str, str, str]] = Counter()
        self._at = 0.0
        self._lock = threading.Lock()  # Prometheus asks from a thread of its own

    def note(self, record: Mapping[str, Any]) -> None:
        """Take in a round's record (docs/record.md)."""
        failures, not_asked = record.get("failures") or [], record.get("not_asked") or []
        # There from the start, at 0: else a first failure is no increase.
        counted = Counter({("failure", kind): 0 for kind in FAILURE_KINDS})
        counted.update({("not_asked", kind): 0 for kind in (*NOT_ASKED_KINDS, "other")})
        counted["outcome", "sent"] = int(record.get("participants", 0))
        counted["outcome", "failed"], counted["outcome", "not_asked"] = len(failures), len(not_asked)
        counted["warnings", ""] = len(record.get("warnings") or [])
        counted["unheard", ""] = int(record.get("heard") is False)
        counted.update(("failure", one["kind"] if one.get("kind") in FAILURE_KINDS else ERROR) for one in failures)
        counted.update(("not_asked", _not_asked_kind(one["reason"])) for one in not_asked)
        key = (str(record["variant"]), str(record["seed"]))
        with self._lock:
            seen = self._last.setdefault(key, {})
            seen |= {name: float(record[name]) for name in (*GAUGES, *SUMS) if record.get(name) is not None}
            for what, number in counted.items():
                self._counts[(*what, *key)] += number
            self._at = time.time()

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        own = ("run", "variant", "seed")
        with self._lock:
            for figure, (name, what) in GAUGES.items():
                yield self._of_figure(GaugeMetricFamily(name, what, labels=own), figure)
            for figure, (name, what) in SUMS.items():
                yield self._of_figure(CounterMetricFamily(name, what, labels=own), figure)
            for kind, (name, what, label) in COUNTED.items():
                yield self._of_count(CounterMetricFamily(name, what, labels=[*own, label] if label else own), kind)
            failed = GaugeMetricFamily(
                "fedmac_run_failed", "1 where an error has ended the run, else 0.", labels=["run"]
            )
            ended = self.failed
            failed.add_metric([self.run], float(ended))
            yield failed
            at = GaugeMetricFamily("fedmac_last_round_timestamp_seconds", "When a round was last done.", labels=["run"])
            if self._at:
                at.add_metric([self.run], self._at)
            yield at
        self.asked = True
        if ended:
            self.told.set()

    def _of_figure(self, metric: GaugeMetricFamily | CounterMetricFamily, figure: str) -> Metric:
        for key, seen in self._last.items():
            if figure in seen:
                metric.add_metric([self.run, *key], seen[figure])
        return metric

    def _of_count(self, metric: CounterMetricFamily, kind: str) -> Metric:
        for (counted, value, *key), number in self._counts.items():
            if counted == kind:
                metric.add_metric([self.run, *key, *([value] if value else [])], number)
        return metric


def _not_asked_kind(reason: str) -> str:
    return next((kind for kind, begins in NOT_ASKED_KINDS.items() if reason.startswith(begins)), "other")
