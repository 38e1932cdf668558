r"""Restructures a trained model for P workers, layer by layer, without training.

For each layer of weights W with inputs of covariance :math:`\Sigma`, whose units have owners o already,

.. math:: \min_{p, K, W'} \tfrac12 \mathrm{tr}(W - W')\Sigma(W - W')^T + \sum_q \sum_{i \in K_q,\, o(i) \ne q} \pi_{iq},

p with as many rows for each worker as it has places, :math:`K_q` what worker q takes, W' the weights on it. A sweep
solves for K and W' with p fixed (:mod:`~strategies.repurpose.support`) and for p with K fixed (the Hungarian
algorithm); neither raises the objective. :math:`\Sigma` is that of the model as already restructured up to the layer.

With the edge-wise penalty, or without refit, owners are those of the arrangement and K is chosen unit by unit
(:func:`~strategies.repurpose.layer_sweeps.diagonal_choice`): the layer has no sweeps, and
:attr:`~strategies.repurpose.plan.LayerPlan.objectives` is empty.

An edge inside a worker costs :math:`\lambda_{in}` (`edge_cost`) or its loss
:math:`e_{ji} = \tfrac12 w_{ji}\Sigma_{ii}w_{ji}^T`, whichever is less: where sending costs anything, that choice of
owners is charged :math:`\sum_{i\,at\,home} \min(e_{ji}, \lambda_{in})` for row j, in the arrangement and in the
sweeps. Once p and K are fixed, edges inside a worker go that cost more than their loss, and what stays is refitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from strategies.repurpose.arrangement import Cut, arrange, inside_costs, unit_costs
from strategies.repurpose.assignment import owners_in_order
from strategies.repurpose.calibration import Calibration, calibrate
from strategies.repurpose.layer_sweeps import LayerTask, diagonal_choice, group_sweeps, losses
from strategies.repurpose.method import USUAL, Method
from strategies.repurpose.moments import Moments, moments_of
from strategies.repurpose.network import Network, Step, Weights, apply
from strategies.repurpose.owners import Owners, Real, at_home
from strategies.repurpose.ownership import Ownership, ownership
from strategies.repurpose.places import places_of_layers
from strategies.repurpose.plan import LayerPlan, Plan, sends_of
from strategies.repurpose.prices import Prices
from strategies.repurpose.refit import bias_moved, refit, squared_error
from strategies.repurpose.spectral import spectral_owners
from strategies.repurpose.workers import Links, Worker

TRIAL = 2
"""Sweeps after which the better of two arrangements is gone on with."""


def repurpose(
    model: nn.Module,
    calibration_inputs: Tensor,
    workers: int | Sequence[Worker],
    communication_cost: float | Mapping[str, float],
    *,
    links: Links | None = None,
    method: Method = USUAL,
    note: Callable[[str], None] | None = None,
) -> Plan:
    """Split a model between workers that shall exchange little.

    Parameters
    ----------
    model : torch.nn.Module
        Trained, feed-forward: see :func:`~strategies.repurpose.read_model.read_model`.
    calibration_inputs : Tensor
        Shape (N, ...), as the model takes them; no labels.
    workers : int or sequence of Worker
        P >= 1.
    communication_cost : float or mapping of str to float
        lambda_x >= 0, what one number sent is worth in units of half the squared error of a layer's outputs; by layer
        where some are to differ (0 for those not named).
    links : Links, optional
        Dearer links make what is sent over them dearer; all alike by default.
    method : Method
        What sending is charged by, and what is chosen.
    note : callable, optional
        Told the name of each layer as it is done.

    Returns
    -------
    Plan

    Raises
    ------
    UnsupportedLayer
        If a layer cannot be split; the message names its module path.
    DoesNotFit
        If the workers' limits are too tight; the message says by how much.
    ValueError
        If an argument is not accepted, or there are more workers than units in a hidden layer.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from strategies.repurpose import repurpose
    >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    >>> inputs = torch.randn(100, 8)
    >>> plan = repurpose(model, inputs, workers=2, communication_cost=0.0)
    >>> bool((plan.run(inputs) - model(inputs)).abs().max() < 1e-6)
    True
    """
    calibration = calibrate(model, calibration_inputs)
    return split(calibration, workers, communication_cost, links=links, method=method, note=note)


def split(
    calibration: Calibration,
    workers: int | Sequence[Worker],
    communication_cost: float | Mapping[str, float],
    *,
    links: Links | None = None,
    method: Method = USUAL,
    note: Callable[[str], None] | None = None,
) -> Plan:
    """What :func:`repurpose` does, for a model that has been calibrated already: for several costs, say."""
    team = [Worker()] * workers if isinstance(workers, int) else list(workers)
    if not team:
        raise ValueError(f"workers = {workers!r}; accepted: at least one")
    links = links or Links.equal(len(team))
    if len(links.rate) != len(team):
        raise ValueError(f"links between {len(links.rate)} workers; accepted: {len(team)}, as there are workers")
    prices = Prices(calibration.network, communication_cost, links)
    task = Restructuring(calibration, team, prices, method)
    with torch.no_grad():
        return task.plan(note or (lambda _: None))


@dataclass
class Restructuring:
    """The work of :func:`split`: its arguments, and what is decided so far."""

    calibration: Calibration
    team: Sequence[Worker]
    prices: Prices
    method: Method
    owners: list[Owners] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    arrived: dict[int, NDArray[np.bool_]] = field(default_factory=dict)

    def plan(self, note: Callable[[str], None]) -> Plan:
        """Arrange all layers, then restructure them in order."""
        network, shared = self.calibration.network, ownership(self.calibration.network)
        slots = places_of_layers(network, shared, self.team)
        self.owners = owners_in_order(shared, slots)
        if self.method.arranged and not self.prices.free:
            with _solving("arrangement of all layers"):
                self._arrange(network, shared, slots)
        note("arrangement")
        values, found = [self.calibration.inputs], {}
        for number, step in enumerate(network.steps, start=1):
            if step.weighted:
                owned = shared.of_value[number]
                free = self.method.arranged and shared.first_layer[owned] == step.name
                with _solving(step.name):
                    found[step.name], weights = self._layer(
                        network, step, values[step.sources[0]], owned, slots[owned] if free else None
                    )
                network = network.with_weights({step.name: weights})
                note(step.name)
            own = network.weights[step.name] if step.weighted else None
            values.append(apply(step, [values[source] for source in step.sources], own))
        return Plan(network, tuple(self.owners), found, len(self.team), self.calibration.model_hash)

    def _arrange(self, network: Network, shared: Ownership, slots: Sequence[Sequence[int]]) -> None:
        for number, step in enumerate(network.steps, start=1):
            if step.weighted and not shared.everywhere(shared.before(step)):
                loss = self.calibration.losses[step.name]
                before, after, price = shared.before(step), shared.of_value[number], self.prices.bound_to(step)
                self.cuts.append(Cut(loss, before, after, price, self.method.edge_cost))
        starts = [self.owners, spectral_owners(self.cuts, self.owners, slots, len(self.team))]
        count, penalty, sweeps = len(self.team), self.method.penalty, self.method.sweeps
        tried = [arrange(self.cuts, own, slots, count, penalty, min(TRIAL, sweeps)) for own in starts]
        best, _ = min(tried, key=lambda one: one[1][-1])
        self.owners, _ = arrange(self.cuts, best, slots, count, penalty, sweeps)

    def _layer(
        self, network: Network, step: Step, inputs: Tensor, owned: int, slots: Sequence[int] | None
    ) -> tuple[LayerPlan, Weights]:
        before, old = self.owners[ownership(network).before(step)], network.weights[step.name]
        count, source, matrix = len(self.team), step.sources[0], network.matrix(step)
        arrived = self.arrived.setdefault(source, np.zeros((len(before), count), dtype=bool))
        price = np.where(arrived | at_home(before, count), 0.0, self.prices.of(step, before))
        if price.any() or self.method.edge_cost:
            moments = moments_of(network, step, inputs, self.calibration.ridge)
            fixed = self._costs_ahead(len(matrix), owned) + self._costs_inside(matrix, moments, before)
            task = LayerTask(matrix, moments, price, fixed, slots)
            kept, objectives = self._choose(task, owned, before)
            weights, error = self._weights(task, kept, old)
        else:
            kept, objectives, weights, error = torch.ones(matrix.shape[:2], dtype=torch.bool), [], old, 0.0
        sends = sends_of(kept, before, self.owners[owned], count, arrived)
        self.arrived[source] = arrived | sends
        return LayerPlan(kept, sends, error, tuple(objectives)), weights

    def _choose(self, task: LayerTask, owned: int, before: Owners) -> tuple[Tensor, list[float]]:
        """Fix the owners of the layer's rows; which units each row keeps, and the objective from sweep to sweep."""
        method, objectives = self.method, list[float]()
        if method.penalty == "group" and method.refitted:
            self.owners[owned], kept, objectives = group_sweeps(task, self.owners[owned], method.sweeps)
        else:
            kept = diagonal_choice(task, self.owners[owned], method.penalty)
        if method.edge_cost:
            inside = torch.from_numpy(at_home(before, len(self.team))[:, self.owners[owned]].T.copy())
            kept &= ~inside | torch.from_numpy(losses(task.matrix, task.moments) > method.edge_cost)
        return kept, objectives

    def _costs_ahead(self, rows: int, owned: int) -> Real:
        """What the layers after would pay for each row's owner, shape (rows, P)."""
        costs = np.zeros((rows, len(self.team)))
        for cut in self.cuts:
            if cut.before == owned and cut.after != owned:
                costs += unit_costs(cut, self.owners[cut.after], len(self.team), self.method.penalty)
        return costs

    def _costs_inside(self, matrix: Tensor, moments: Moments, before: Owners) -> Real:
        """What each row pays for edges from units that its worker has itself, shape (rows, P)."""
        if not self.method.edge_cost:
            return np.zeros((len(matrix), len(self.team)))
        return inside_costs(losses(matrix, moments), self.method.edge_cost, before, len(self.team))

    def _weights(self, task: LayerTask, kept: Tensor, old: Weights) -> tuple[Weights, float]:
        matrix, moments = task.matrix, task.moments
        new, bias = matrix * kept[:, :, None], old.bias
        if self.method.refitted:
            new = refit(matrix, kept, moments)
            bias = bias_moved(matrix, new, old.bias, moments).to(old.bias.dtype)
        weight = new.reshape(old.weight.shape).to(old.weight.dtype)
        return Weights(weight, bias), _error(matrix, new, moments, self.method.refitted)


@contextmanager
def _solving(what: str) -> Iterator[None]:
    """Name the layer of a linear system that rounding leaves without a solution."""
    try:
        yield
    except (np.linalg.LinAlgError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        raise ValueError(
            f"{what}: the covariance of what goes in cannot be solved with ({str(error).splitlines()[0]}); accepted: "
            "calibration inputs whose features are of like size, or a larger ridge"
        ) from error


def _error(matrix: Tensor, new: Tensor, moments: Moments, bias_moves: bool) -> float:
    """Half the mean squared change of outputs: around the mean if the bias makes up for that."""
    error = squared_error(matrix, new, moments)
    if bias_moves:
        return error
    return error + 0.5 * float(((matrix - new).flatten(1) @ moments.mean).square().sum())
