"""Any sequence of actions is undone, redone, saved, reopened and replayed exactly."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from napari_peftsam.document import Action
from tests.document._machine import MAKERS, AnySequence, Source


def test_any_sequence() -> None:
    """The same sequences every time; for more of them raise the number of examples."""
    run_state_machine_as_test(
        AnySequence,
        settings=settings(
            max_examples=20,
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


class Dice(Source):
    """Draws the same numbers whatever the version of hypothesis."""

    def number(self, low: int, high: int) -> int:
        return self.draw((low, high))


@pytest.mark.parametrize("seed", range(2))
def test_a_long_sequence_of_every_kind(seed: int) -> None:
    """Every kind changes something, with candidates arriving and reopening in between."""
    assert set(MAKERS) == set(Action.__args__)
    rng, kinds = random.Random(seed), list(MAKERS)
    machine, rounds = AnySequence(), 0
    machine.begin()
    try:
        while rounds < 5 or (machine.done != set(MAKERS) and rounds < 40):
            rng.shuffle(kinds)
            for kind in kinds:
                source = Dice(lambda ends: rng.randint(*ends), machine.document)
                machine.do(MAKERS[kind](source))
                machine.predict(source)
            machine.reopen()
            rounds += 1
        assert machine.done == set(MAKERS)
    finally:
        machine.teardown()
