"""Steps of several devices go together without anyone's order, examples or number of steps changing."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients.batch_order import batches, local_steps
from clients.steps_together import StepTogether, steps_together
from clients.training import Training

trainings = st.builds(
    Training,
    learning_rate=st.just(0.1),
    full_batch=st.booleans(),
    local_steps=st.integers(1, 3),
    local_epochs=st.integers(1, 3),
    local_batches=st.none() | st.integers(1, 9),
    batch_size=st.integers(1, 8),
)
counts = st.lists(st.integers(1, 20), min_size=1, max_size=6)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 20), training=trainings, device=st.integers(0, 9))
def test_the_rows_of_each_step_are_those_of_training_alone(count: int, training: Training, device: int) -> None:
    rows = torch.arange(count)
    taken = list(batches(rows * 10, rows, training, seed=3, round=2, device=device))
    steps = local_steps(count, training, seed=3, round=2, device=device)
    assert len(steps) == len(taken)
    for step, (inputs, targets) in zip(steps, taken, strict=True):
        assert torch.equal(step.rows, targets)
        assert torch.equal(step.rows * 10, inputs)


def planned(counts: list[int], training: Training) -> list[StepTogether]:
    return steps_together([local_steps(n, training, seed=0, round=1, device=i) for i, n in enumerate(counts)])


@settings(max_examples=50, deadline=None)
@given(counts=counts, training=trainings)
def test_each_device_takes_its_own_steps_in_their_order_and_no_others(counts: list[int], training: Training) -> None:
    taken: dict[int, list[list[int]]] = {device: [] for device in range(len(counts))}
    for step in planned(counts, training):
        assert step.devices == sorted(set(step.devices))
        for device, rows in zip(step.devices, step.rows.tolist(), strict=True):
            taken[device].append(rows)
    for device, count in enumerate(counts):
        own = local_steps(count, training, seed=0, round=1, device=device)
        assert taken[device] == [step.rows.tolist() for step in own]


@settings(max_examples=50, deadline=None)
@given(counts=counts, epochs=st.integers(1, 3), size=st.integers(1, 8))
def test_an_epoch_takes_the_largest_devices_full_batches_and_one_step_a_smaller_size(
    counts: list[int], epochs: int, size: int
) -> None:
    steps = planned(counts, Training(0.1, local_epochs=epochs, batch_size=size))
    smaller = {count % size for count in counts} - {0}
    assert len(steps) == epochs * (max(counts) // size + len(smaller))


def test_devices_with_as_many_examples_take_all_their_steps_together() -> None:
    steps = planned([21] * 50, Training(0.1, local_epochs=2, batch_size=4))
    assert len(steps) == 2 * math.ceil(21 / 4)
    assert all(step.devices == list(range(50)) for step in steps)
