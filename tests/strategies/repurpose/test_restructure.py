"""What restructuring keeps, and what it gains."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from strategies.repurpose import Links, Method, account, calibrate, direct, naive, repurpose, sparse, split
from strategies.repurpose.owners import Owners
from tests.strategies.repurpose.networks import convolutional, dense, inputs, residual

MODELS = [dense, convolutional, residual]
COSTS = [1e-4, 1e-2, 1.0]


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("build", MODELS)
def test_without_a_penalty_only_the_order_of_units_changes(build: Callable[[], nn.Module], workers: int) -> None:
    model = build()
    x = inputs(model)
    plan = repurpose(model, x, workers, 0.0)
    # float32 sums in another order, and another one on each kind of processor: within 1e-6 of the largest output
    assert (plan.run(x) - model(x)).abs().max() < 1e-6 * model(x).abs().max()
    assert all(layer.kept.all() for layer in plan.layers.values())


@pytest.mark.parametrize("build", MODELS)
def test_in_double_precision_outputs_are_the_model_s_to_rounding(build: Callable[[], nn.Module]) -> None:
    model = build().double()
    x = inputs(model).double()
    # some thousand operations with errors of 1e-16 each
    assert (repurpose(model, x, 4, 0.0).run(x) - model(x)).abs().max() < 1e-12


@pytest.mark.parametrize("build", MODELS)
def test_the_order_of_units_changes_nothing_whoever_owns_them(build: Callable[[], nn.Module]) -> None:
    model = build()
    x = inputs(model)
    plan = repurpose(model, x, 4, 0.0)
    random = np.random.default_rng(0)
    dealt = plan.replaced(owners=tuple(random.permutation(owners) for owners in plan.owners))
    for step in dealt.network.layers:
        assert not np.array_equal(dealt.owner_after(step), np.sort(dealt.owner_after(step)))
    # float32 sums in another order: within 1e-6 of the largest output
    assert (dealt.run(x) - model(x)).abs().max() < 1e-6 * model(x).abs().max()
    # not the identity: as they come out of the permuted network, outputs are in another order
    assert (dealt.restructured().run(x) - model(x)).abs().max() > 1e-2


def test_the_permuted_network_has_the_same_weights_in_another_order() -> None:
    plan = repurpose(dense(), inputs(dense()), 4, 1e-3)
    for step in plan.network.layers:
        before, after = plan.network.weights[step.name], plan.restructured().weights[step.name]
        assert torch.equal(before.weight.flatten().sort().values, after.weight.flatten().sort().values)
    assert not torch.equal(plan.network.weights["2"].weight, plan.restructured().weights["2"].weight)


@pytest.mark.parametrize("edge_cost", [0.0, 1e-3])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("build", MODELS)
def test_the_objective_of_a_layer_never_rises(build: Callable[[], nn.Module], cost: float, edge_cost: float) -> None:
    plan = repurpose(build(), inputs(build()), 2, cost, method=Method(edge_cost=edge_cost))
    traces = [np.array(layer.objectives) for layer in plan.layers.values() if layer.objectives]
    assert traces
    for trace in traces:
        # supports are compared by sums in another order: rounding of float64 only
        assert (np.diff(trace) <= 1e-9 * trace[:-1]).all()


def test_hidden_blocks_are_found() -> None:
    """A network of four separate blocks, its neurons shuffled, needs no sends at all and stays as it is."""
    blocks = [torch.randn(4, 4, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    order = [torch.randperm(16, generator=torch.Generator().manual_seed(n)) for n in (10, 11)]
    first, second = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.eye(16)[order[0]])
        second.weight.copy_(torch.block_diag(*blocks)[order[1]][:, order[0]])
    model = nn.Sequential(first, nn.ReLU(), second)
    x = torch.randn(300, 16, generator=torch.Generator().manual_seed(0)).abs()
    plan = repurpose(model, x, 4, 0.01)
    assert account(plan).sends == 0
    assert (plan.run(x) - model(x)).abs().max() < 1e-4
    assert account(direct(calibrate(model, x), 4)).sends == 0
    assert (direct(calibrate(model, x), 4).run(x) - model(x)).abs().max() > 0.1


@pytest.mark.parametrize("build", MODELS)
def test_a_higher_cost_sends_no_more(build: Callable[[], nn.Module]) -> None:
    calibration = calibrate(build(), inputs(build()))
    sends = [account(split(calibration, 4, cost)).bytes for cost in (0.0, *COSTS, 1e6)]
    assert sends == sorted(sends, reverse=True)
    assert account(split(calibration, 4, 1e6)).sends == 0


def test_a_prohibitive_cost_leaves_each_worker_alone() -> None:
    plan = repurpose(dense(), inputs(dense()), 4, 1e6)
    for step in plan.network.layers[1:]:
        inside = plan.owner_after(step)[:, None] == plan.owner_before(step)
        assert not (plan.network.weights[step.name].weight.numpy()[~inside]).any()


@pytest.mark.parametrize("build", MODELS)
def test_refitting_lowers_the_error_and_keeps_the_mean_of_what_it_changes(build: Callable[[], nn.Module]) -> None:
    model = build()
    x = inputs(model, rows=400)
    # the last layer alone: what goes into it is the model's own, so that means can be compared exactly
    last = calibrate(model, x).network.layers[-1].name
    cut = repurpose(model, x, 4, {last: 1e6}, method=Method(refitted=False, arranged=False))
    refitted = repurpose(model, x, 4, {last: 1e6}, method=Method(arranged=False))
    error = [(plan.run(x) - model(x)).square().mean() for plan in (refitted, cut)]
    assert error[0] < 0.9 * error[1]
    assert torch.allclose(refitted.run(x).mean(0), model(x).mean(0), atol=1e-5)


def test_refitted_weights_are_those_of_least_squares() -> None:
    model = dense((12, 8, 6))
    x = inputs(model, rows=500)
    plan = repurpose(model, x, 2, 1e6, method=Method(arranged=False))
    hidden = torch.relu(model[0](x)).detach().double()  # type: ignore[index]
    target = model(x).detach().double()
    own = plan.network.weights["2"]
    for worker in range(2):
        units, rows = (torch.from_numpy(np.flatnonzero(o == worker)) for o in plan.owners[1:])
        design = torch.cat([hidden[:, units], torch.ones(500, 1, dtype=torch.float64)], dim=1)
        expected = torch.linalg.lstsq(design, target[:, rows]).solution
        # the ridge of 1e-5 of the mean variance moves weights by about as much
        assert torch.allclose(own.weight[rows][:, units].double(), expected[:-1].T, atol=2e-3)
        assert torch.allclose(own.bias[rows].double(), expected[-1], atol=2e-3)


def test_the_group_penalty_sends_less_than_the_edge_wise_one_at_no_greater_error() -> None:
    calibration = calibrate(dense((12, 32, 24, 6)), inputs(dense(), rows=500))
    # the other layer is free, so that errors are those of one layer with the same inputs
    edge = split(calibration, 4, {"2": 0.02}, method=Method(penalty="edge")).layers["2"]
    groups = [split(calibration, 4, {"2": cost}).layers["2"] for cost in np.geomspace(1e-3, 0.3, 12)]
    enough = [layer.sends.sum() for layer in groups if layer.error <= edge.error]
    assert edge.sends.sum() > 10
    assert min(enough) <= 0.8 * edge.sends.sum()


def test_assigned_owners_lower_the_objective_of_contiguous_ones() -> None:
    calibration = calibrate(dense((12, 32, 24, 6)), inputs(dense(), rows=500))
    reached = [
        split(calibration, 4, {"2": 0.05}, method=Method(arranged=arranged)).layers["2"].objectives[-1]
        for arranged in (True, False)
    ]
    assert reached[0] < 0.97 * reached[1]


def test_dear_links_are_used_less() -> None:
    rate = np.full((4, 4), 1e6)
    rate[:2, 2:] = rate[2:, :2] = 1e4  # two pairs that hardly hear each other
    calibration = calibrate(dense((12, 32, 24, 6)), inputs(dense(), rows=500))

    def across(links: Links) -> float:
        """Share of the bytes that go between the pairs; 2/3 if links are chosen blindly."""
        sent = sum(layer.bytes_between for layer in account(split(calibration, 4, 0.01, links=links)).layers)
        return float(sent[:2, 2:].sum() + sent[2:, :2].sum()) / float(sent.sum())

    assert across(Links(rate)) < 0.6 * across(Links.equal(4))


def test_owners_are_chosen_with_the_cost_of_edges_inside_a_worker_in_mind() -> None:
    model = dense((12, 16, 16, 6))
    calibration, cost = calibrate(model, inputs(model, rows=300)), 3e-3

    def pays(owners: list[Owners]) -> float:
        """Of edges inside workers, each as much as its cost or its loss."""
        loss = calibration.losses["2"]
        inside = owners[2][:, None] == owners[1]
        return float(np.minimum(loss, cost)[inside].sum())

    blind, aware = (split(calibration, 2, {"2": 1e-6}, method=Method(edge_cost=own)) for own in (0.0, cost))
    assert pays(list(aware.owners)) < 0.9 * pays(list(blind.owners))


def test_edges_inside_a_worker_are_dropped_at_a_cost() -> None:
    whole = repurpose(dense(), inputs(dense()), 2, 0.0)
    thin = repurpose(dense(), inputs(dense()), 2, 0.0, method=Method(edge_cost=1e-3))
    assert account(thin).multiply_adds.sum() < account(whole).multiply_adds.sum()
    assert (thin.run(inputs(dense())) - whole.run(inputs(dense()))).abs().max() < 0.5


def test_a_residual_branch_ends_where_it_began() -> None:
    plan = repurpose(residual(), inputs(residual()), 4, 1e-3)
    values = {step.name: plan.owner_after(step).tolist() for step in plan.network.layers}
    assert values["first"] == values["second"]
    assert values["third"] == values["skip"]
    assert values["dense"] == values["inner"]


def test_what_has_been_sent_is_not_sent_again() -> None:
    plan = repurpose(residual(), inputs(residual()), 4, 0.0)
    layers = {layer.name: layer for layer in account(plan).layers}
    # both take the same value: all that the one needs is there for the other
    assert sorted([layers["skip"].sends, layers["third"].sends]) == [0, 8 * 3]


def test_baselines_are_what_they_say() -> None:
    model = dense()
    x = inputs(model)
    calibration = calibrate(model, x)
    assert torch.allclose(naive(calibration, 4).run(x), model(x), atol=1e-6)
    assert account(naive(calibration, 4)).sends == (16 + 8) * 3
    assert account(direct(calibration, 4)).sends == 0
    thin = sparse(calibration, 4, {"2": 20})
    kept = thin.layers["2"].kept
    size = model[2].weight.detach().abs()  # type: ignore[index]
    assert int(kept.sum()) == 20
    assert size[kept].min() >= size[~kept].max()


def test_the_same_input_gives_the_same_plan() -> None:
    one, two = (repurpose(convolutional(), inputs(convolutional()), 3, 1e-3) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one.owners, two.owners, strict=True))
    assert all(torch.equal(own.weight, two.network.weights[name].weight) for name, own in one.network.weights.items())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"communication_cost": -1.0}, "communication_cost = -1.0"),
        ({"communication_cost": {"nine": 1.0}}, "no layer 'nine'; accepted: 0, 2, 4"),
        ({"workers": 0}, "workers = 0"),
        ({"calibration_inputs": [[0.0] * 12] * 4}, "calibration_inputs is a list; accepted: a torch.Tensor"),
        ({"calibration_inputs": torch.zeros(12)}, "calibration_inputs of shape"),
        ({"calibration_inputs": torch.full((3, 12), float("nan"))}, "not finite"),
        ({"calibration_inputs": torch.zeros(4, 11)}, "does not take them"),
    ],
)
def test_what_is_not_accepted_is_named(changes: dict[str, object], said: str) -> None:
    arguments = {"calibration_inputs": inputs(dense()), "workers": 2, "communication_cost": 0.1, **changes}
    with pytest.raises(ValueError, match=said):
        repurpose(dense(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"penalty": "both"}, "penalty = 'both'; accepted: group, edge"),
        ({"edge_cost": -0.1}, "edge_cost = -0.1"),
        ({"sweeps": 0}, "sweeps = 0"),
    ],
)
def test_a_method_that_there_is_not_is_named(choices: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Method(**choices)  # type: ignore[arg-type]
