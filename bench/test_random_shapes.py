"""The speed at shapes that nobody has chosen: pytest bench --random 50 --seed 1."""

from __future__ import annotations

from random_shapes import Measured, measure

from fastrnn._commands.compare import Case
from fastrnn._commands.machine import Machine


def test_random_shape(case: Case, machine: Machine, measured: list[Measured]) -> None:
    measured.append(measure(case))
