"""Whoever answers the user comes before whoever works in the background."""

from __future__ import annotations

import threading
from contextlib import suppress

from napari_peftsam.segmentation.turns import Turns


def test_one_at_a_time_and_the_urgent_before_the_patient() -> None:
    turns, order = Turns(), []
    together: list[int] = []
    inside = 0

    def work(kind: str) -> None:
        nonlocal inside
        with getattr(turns, kind)():
            inside += 1
            together.append(inside)
            order.append(kind)
            inside -= 1

    with turns.patient():
        threads = [threading.Thread(target=work, args=("patient",)) for _ in range(4)]
        threads += [threading.Thread(target=work, args=("urgent",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        while turns._urgent < 4:
            pass
        assert not order
    for thread in threads:
        thread.join(20)
    assert order == ["urgent"] * 4 + ["patient"] * 4
    assert set(together) == {1}


def test_an_error_lets_go() -> None:
    turns = Turns()
    for kind in ("urgent", "patient", "urgent"):
        with suppress(ZeroDivisionError), getattr(turns, kind)():
            raise ZeroDivisionError
