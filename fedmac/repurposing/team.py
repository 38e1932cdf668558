"""Who shares a model: a number of equal workers, or a team file with the devices and the links between them.

.. code-block:: toml

    [[workers]]                  # one for each
    speed = 2e8                  # multiply-adds a second
    multiply_adds = 50000        # most for one inference; no limit if left out
    memory = 262144              # bytes of weights; no limit if left out
    energy_per_multiply_add = 5e-12
    place = [0.0, 0.0]           # m; with [radio] only

    [links]                      # or
    rate = 1e7                   # bit/s; or a matrix, from the row's worker to the column's: [[0, 1e7], [2e6, 0]]
    energy_per_bit = 1e-9        # J, likewise; none is counted if left out
    delay = 0.001                # s

    [radio]                      # by distance
    power_dbm = 10.0
    bandwidth_hz = 1e6
    noise_figure_db = 7.0
    exponent = 3.0
    reference_loss_db = 40.0
    gap_db = 3.0
    delay = 0.001
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from channel.links.link import GapLink
from channel.propagation import LogDistance, watts_from_dbm
from fedmac.pairs import PairValues, between_pairs
from fedmac.scenario_errors import ScenarioError, below, explain
from strategies.repurpose.owners import Real
from strategies.repurpose.radio import device_to_device
from strategies.repurpose.workers import DEFAULT_RATE, DEFAULT_SPEED, Links, Worker


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WorkerTable(_Strict):
    """A device."""

    speed: float = Field(DEFAULT_SPEED, gt=0, allow_inf_nan=False)
    multiply_adds: float = Field(math.inf, gt=0)
    memory: float = Field(math.inf, gt=0)
    energy_per_multiply_add: float = Field(0.0, ge=0, allow_inf_nan=False)
    place: tuple[float, float] | None = None


class LinksTable(_Strict):
    """Links of given rates."""

    rate: PairValues = DEFAULT_RATE
    energy_per_bit: PairValues | None = None
    delay: float = Field(0.0, ge=0, allow_inf_nan=False)
    shared: bool = False


class RadioTable(_Strict):
    """Links over the air: one device sends at a time."""

    power_dbm: float
    bandwidth_hz: float = Field(gt=0, allow_inf_nan=False)
    noise_figure_db: float = 0.0
    exponent: float = Field(3.0, ge=0, allow_inf_nan=False)
    reference_loss_db: float = 40.0
    shadowing_db: float = Field(0.0, ge=0, allow_inf_nan=False)
    gap_db: float = Field(0.0, ge=0, allow_inf_nan=False)
    delay: float = Field(0.0, ge=0, allow_inf_nan=False)
    seed: int = Field(0, ge=0)


class Team(_Strict):
    """A team file."""

    workers: tuple[WorkerTable, ...] = Field(min_length=1)
    links: LinksTable | None = None
    radio: RadioTable | None = None

    def built(self) -> tuple[list[Worker], Links]:
        """The workers and their links.

        Raises
        ------
        ScenarioError
            If devices have no place for the radio, or cannot reach each other, or a matrix is of other workers.
        """
        workers = [Worker(**table.model_dump(exclude={"place"})) for table in self.workers]
        if self.radio is None:
            return workers, self._given_links()
        if self.links is not None:
            raise ScenarioError("team: [links] and [radio]; accepted: one of them")
        places = [worker.place for worker in self.workers]
        if None in places:
            raise ScenarioError(f"workers[{places.index(None)}].place: not given; accepted: [x, y] in metres")
        radio = self.radio
        propagation = LogDistance(radio.exponent, radio.reference_loss_db, 1.0, radio.shadowing_db)
        try:
            links = device_to_device(
                places,  # type: ignore[arg-type]
                propagation,
                GapLink(radio.gap_db),
                power=watts_from_dbm(radio.power_dbm),
                bandwidth_hz=radio.bandwidth_hz,
                noise_figure_db=radio.noise_figure_db,
                delay=radio.delay,
                seed=radio.seed,
            )
        except ValueError as error:
            raise ScenarioError(str(error)) from error
        return workers, links

    def _given_links(self) -> Links:
        table, count = self.links or LinksTable(), len(self.workers)
        found: dict[str, Real | None] = {}
        for key in ("rate", "energy_per_bit"):
            given = getattr(table, key)
            try:
                found[key] = None if given is None else between_pairs(given, count)
            except ValueError as error:
                raise ScenarioError(below(f"links.{key}", str(error))) from error
        rate, energy = found["rate"], found["energy_per_bit"]
        assert rate is not None
        return Links(rate, table.delay, table.shared, energy)


def equal_team(workers: int) -> Team:
    """Workers that are all alike."""
    if workers < 1:
        raise ScenarioError(f"workers = {workers}; accepted: at least 1")
    return Team(workers=(WorkerTable(),) * workers)


def read_team(path: Path) -> Team:
    """Read a team file.

    Raises
    ------
    ScenarioError
        If there is none, it is no TOML, or a value is not accepted; the message names the key.
    """
    if not path.is_file():
        raise ScenarioError(f"team = '{path}': no such file; accepted: a TOML file with [[workers]]")
    try:
        return Team.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: no TOML: {error}") from error
    except ValidationError as error:
        raise ScenarioError(explain(error, Team, f"{path}: ")) from error
