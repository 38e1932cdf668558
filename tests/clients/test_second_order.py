"""What a device answers in DINGO, against dense linear algebra on a model of a few parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from numpy.typing import NDArray

from channel.order import BLOCKS_KEY
from clients.data import Split
from clients.models import build
from clients.objective import Objective
from clients.second_order import add_second_order
from tests import fleet

Vectors = dict[str, NDArray[Any]]

EXACT = {"inner-tolerance": 1e-12, "inner-iterations": 300}
"""So many more iterations than dimensions that a solve is as good as its conditioning allows."""

MODELS: dict[str, dict[str, Any]] = {
    # Positive semidefinite: adding the same to all classes changes nothing, and one input is zero in all rows.
    "convex and singular": {"name": "softmax"},
    # ReLU units at a random point: curvature of both signs, flat along many directions.
    "indefinite": {"name": "mlp", "hidden": (4,)},
}


def objective_of(model: str, l2: float = 0.0, dtype: torch.dtype = torch.float64) -> Objective:
    """Three classes, 40 rows of three inputs of which the last is always zero."""
    draws = torch.Generator().manual_seed(1)
    inputs = torch.randn((40, 3), generator=draws, dtype=torch.float64)
    inputs[:, 2] = 0
    rows = Split(inputs.to(dtype), torch.randint(3, (40,), generator=draws))
    return Objective(build(input_shape=(3,), num_classes=3, dtype=dtype, **MODELS[model]), rows, l2=l2)


class Device:
    """A device's app; each message is answered by a process started anew, from the context that the last one left."""

    def __init__(self, objective: Objective, *, anew: bool = True) -> None:
        self.objective = objective
        self.anew = anew
        self.context = fleet.context()
        self.app = self._app()

    def _app(self) -> ClientApp:
        app = ClientApp()
        add_second_order(app, lambda _context, _config: self.objective)
        return app

    def ask(
        self,
        action: str,
        wanted: Sequence[str],
        sent: Mapping[str, torch.Tensor] | None = None,
        **config: Any,
    ) -> tuple[Vectors, dict[str, Any]]:
        """The vectors and metrics that the device answers."""
        fleet.identify()
        arrays = {name: Array(vector.numpy()) for name, vector in (sent or {}).items()}
        content = RecordDict({"arrays": ArrayRecord(arrays), "config": ConfigRecord(config)})
        content[BLOCKS_KEY] = ConfigRecord(dict.fromkeys(wanted, 1))
        if self.anew:
            self.context, self.app = _through_the_wire(self.context), self._app()
            content = recorddict_from_proto(recorddict_to_proto(content))
        reply = self.app(Message(content, 2, f"train.{action}"), self.context)
        vectors = {name: array.numpy() for name, array in reply.content.array_records["vectors"].items()}
        assert set(vectors) == set(wanted)
        return vectors, dict(reply.content.metric_records["metrics"])


def _through_the_wire(context: Context) -> Context:
    return context_from_proto(context_to_proto(context))


def dense(objective: Objective, w: torch.Tensor) -> NDArray[np.float64]:
    """The Hessian, column by column."""
    hessian = objective.hessian(w)
    columns = [hessian(unit).numpy().copy() for unit in torch.eye(objective.size, dtype=w.dtype)]
    return np.stack(columns, axis=1)


def normal(size: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=draws, dtype=torch.float64).to(dtype)


@pytest.fixture(params=MODELS)
def objective(request: pytest.FixtureRequest) -> Objective:
    return objective_of(request.param)


@pytest.fixture
def w(objective: Objective) -> torch.Tensor:
    return normal(objective.size, seed=2)


def test_the_models_have_the_curvature_that_the_tests_are_about() -> None:
    for name, most_negative in {"convex and singular": -1e-12, "indefinite": -1e-3}.items():
        objective = objective_of(name)
        eigenvalues = np.linalg.eigvalsh(dense(objective, normal(objective.size, seed=2)))
        assert (eigenvalues.min() < most_negative) == (name == "indefinite")
        assert (np.abs(eigenvalues) < 1e-12).sum() >= 3


def test_a_device_answers_its_value_and_gradient_at_the_model_it_is_sent(objective: Objective, w: torch.Tensor) -> None:
    vectors, metrics = Device(objective).ask("gradient", ["gradient"], {"model": w})
    value, gradient = objective.value_and_gradient(w)
    assert metrics == {"weight": 1.0, "objective": value}
    assert np.array_equal(vectors["gradient"], gradient.numpy())


def test_directions_are_the_hessian_times_g_and_its_minimum_length_solution(
    objective: Objective, w: torch.Tensor
) -> None:
    device, g = Device(objective), normal(objective.size, seed=3)
    device.ask("gradient", ["gradient"], {"model": w})
    vectors, metrics = device.ask("directions", ["hessian_gradient", "newton"], {"gradient": g}, **EXACT, phi=0.1)
    h = dense(objective, w)
    assert metrics == {"weight": 1.0}
    np.testing.assert_allclose(vectors["hessian_gradient"], h @ g.numpy(), rtol=0, atol=1e-14)
    # g has a part outside the range of H. Eigenvalues beyond rounding are 1e-4 and larger: 1e-12 of the largest times
    # their inverse squared.
    pseudo_inverse = np.linalg.pinv(h, rcond=1e-10, hermitian=True)
    np.testing.assert_allclose(vectors["newton"], pseudo_inverse @ g.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("phi", [1.0, 0.05])
@pytest.mark.parametrize("together", [True, False], ids=["official", "lean"])
def test_the_damped_solve_is_that_of_the_stacked_system(
    objective: Objective, w: torch.Tensor, phi: float, together: bool
) -> None:
    device, g = Device(objective), normal(objective.size, seed=3)
    device.ask("gradient", ["gradient"], {"model": w})
    wanted = ["hessian_gradient", "newton"] + (["damped"] if together else [])
    vectors, _ = device.ask("directions", wanted, {"gradient": g}, **EXACT, phi=phi)
    if not together:
        vectors, _ = device.ask("damped", ["damped"], **EXACT, phi=phi)
    h = dense(objective, w)
    stacked = np.vstack([h, phi * np.eye(objective.size)])
    expected, *_ = np.linalg.lstsq(stacked, np.concatenate([g.numpy(), np.zeros(objective.size)]), rcond=None)
    # The condition number of the stack is below 1 / 0.05, its square 400 times rounding.
    np.testing.assert_allclose(vectors["damped"], expected, rtol=0, atol=1e-9)


def corrected(
    objective: Objective, w: torch.Tensor, curved: torch.Tensor, bound: float, **solver: Any
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The damped solve and the direction of case 3, as a device answers them."""
    device, g = Device(objective), normal(objective.size, seed=3)
    device.ask("gradient", ["gradient"], {"model": w})
    device.ask("directions", ["hessian_gradient", "newton"], {"gradient": g}, phi=0.1, **solver)
    damped, _ = device.ask("damped", ["damped"], phi=0.1, **solver)
    sent = {"hessian_gradient": curved}
    answer, _ = device.ask("correction", ["corrected"], sent, phi=0.1, bound=bound, **solver)
    return damped["damped"], answer["corrected"]


def test_a_direction_is_corrected_along_the_solve_of_the_squared_hessian(objective: Objective, w: torch.Tensor) -> None:
    curved = normal(objective.size, seed=4)
    bound = 10 * float(curved.norm())
    damped, answer = corrected(objective, w, curved, bound, **EXACT)
    h, b = dense(objective, w), curved.numpy()
    q = np.linalg.solve(h @ h + 0.01 * np.eye(len(b)), b)
    expected = -damped - (bound - damped @ b) / (b @ q) * q
    np.testing.assert_allclose(answer, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("iterations", [1, 2, 300])
def test_a_corrected_direction_meets_the_bound_exactly_however_rough_the_solve(
    objective: Objective, w: torch.Tensor, iterations: int
) -> None:
    curved = normal(objective.size, seed=4)
    bound = 10 * float(curved.norm())
    solver = {"inner-tolerance": 1e-12, "inner-iterations": iterations}
    _, answer = corrected(objective, w, curved, bound, **solver)
    # The same q is in numerator and denominator; what is left is the rounding of two dot products.
    assert answer @ curved.numpy() == pytest.approx(-bound, rel=1e-12)


def test_a_direction_that_is_steep_enough_is_left_as_it_is(objective: Objective, w: torch.Tensor) -> None:
    curved = normal(objective.size, seed=4)
    damped, _ = corrected(objective, w, curved, 1e9, **EXACT)
    slope = float(damped @ curved.numpy())
    _, answer = corrected(objective, w, curved, slope - 1e-9, **EXACT)
    assert np.array_equal(answer, -damped)
    _, answer = corrected(objective, w, curved, slope + 1e-6, **EXACT)
    assert not np.array_equal(answer, -damped)


def test_trial_steps_are_the_objective_along_the_direction(objective: Objective, w: torch.Tensor) -> None:
    device, p = Device(objective), normal(objective.size, seed=5)
    device.ask("gradient", ["gradient"], {"model": w})
    vectors, metrics = device.ask("trial", ["gradients"], {"direction": p}, steps=[1.0])
    later, more = device.ask("trial", ["gradients"], steps=[0.5, 0.25])
    gradients = np.concatenate([vectors["gradients"], later["gradients"]])
    values = [*metrics["objectives"], *more["objectives"]]
    for step, value, gradient in zip((1.0, 0.5, 0.25), values, gradients, strict=True):
        expected, slope = objective.value_and_gradient(w + step * p)
        assert value == pytest.approx(expected, rel=1e-13)
        np.testing.assert_allclose(gradient, slope.numpy(), rtol=0, atol=1e-13)


def test_the_step_that_the_server_took_is_made_with_the_next_gradient(objective: Objective, w: torch.Tensor) -> None:
    device, p, g = Device(objective), normal(objective.size, seed=5), normal(objective.size, seed=6)
    device.ask("gradient", ["gradient"], {"model": w})
    device.ask("trial", ["gradients"], {"direction": p}, steps=[1.0, 0.5])
    wanted = ["hessian_gradient", "newton"]
    moved, _ = device.ask("directions", wanted, {"gradient": g}, **EXACT, **{"step-size": 0.5})
    there = Device(objective)
    there.ask("gradient", ["gradient"], {"model": w + 0.5 * p})
    expected, _ = there.ask("directions", wanted, {"gradient": g}, **EXACT)
    for name in wanted:
        assert np.array_equal(moved[name], expected[name])


def test_a_process_that_is_started_anew_for_each_message_answers_the_same() -> None:
    objective = objective_of("indefinite", l2=0.01)
    w, g, p = (normal(objective.size, seed) for seed in (2, 3, 5))
    answers: list[list[NDArray[Any]]] = []
    for anew in (True, False):
        device = Device(objective, anew=anew)
        answers.append([])
        for action, wanted, sent, config in (
            ("gradient", ["gradient"], {"model": w}, {}),
            ("directions", ["hessian_gradient", "newton"], {"gradient": g}, {}),
            ("damped", ["damped"], {}, {}),
            ("correction", ["corrected"], {"hessian_gradient": g}, {"bound": 1e3}),
            ("trial", ["gradients"], {"direction": p}, {"steps": [1.0]}),
            ("trial", ["gradients"], {}, {"steps": [0.5, 0.25]}),
            ("directions", ["hessian_gradient", "newton", "damped"], {"gradient": g}, {"step-size": 0.25}),
        ):
            solver = {"inner-tolerance": 1e-4, "inner-iterations": 5, "phi": 1e-3}
            vectors, _ = device.ask(action, wanted, sent, **solver, **config)
            answers[-1] += [vectors[name] for name in wanted]
    for one, other in zip(*answers, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("action", "sent", "config"),
    [
        ("directions", {"gradient": torch.zeros(12)}, {}),
        ("damped", {}, {}),
        ("correction", {"hessian_gradient": torch.zeros(12)}, {"bound": 1.0}),
        ("trial", {}, {"steps": [1.0]}),
    ],
)
def test_a_device_that_has_not_been_sent_the_model_says_so(
    action: str, sent: dict[str, torch.Tensor], config: dict[str, Any]
) -> None:
    device = Device(objective_of("convex and singular"))
    with pytest.raises(RuntimeError, match=r"has no \w+ from an earlier message: it must be sent the model first"):
        device.ask(action, [], sent, **EXACT, phi=0.1, **config)


def test_everything_is_in_the_precision_of_the_model() -> None:
    double, single = (objective_of("indefinite", l2=0.1, dtype=dtype) for dtype in (torch.float64, torch.float32))
    answers: list[Vectors] = []
    for objective, dtype in ((double, torch.float64), (single, torch.float32)):
        device = Device(objective)
        w, g = (normal(objective.size, seed, dtype) for seed in (2, 3))
        vectors, _ = device.ask("gradient", ["gradient"], {"model": w})
        more, _ = device.ask(
            "directions", ["hessian_gradient", "newton", "damped"], {"gradient": g}, phi=0.3,
            **{"inner-tolerance": 1e-6, "inner-iterations": 40},
        )  # fmt: skip
        trial, _ = device.ask("trial", ["gradients"], {"direction": g}, steps=[0.5])
        answers.append(vectors | more | trial)
    for name, vector in answers[1].items():
        assert vector.dtype == np.float32
        # Rounding of 6e-8 in some hundred operations, magnified in the solves by condition numbers of some hundred.
        scale = np.abs(answers[0][name]).max()
        np.testing.assert_allclose(vector, answers[0][name], rtol=0, atol=2e-3 * scale, err_msg=name)
