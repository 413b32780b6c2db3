"""The speed of every cell, pass and shape, against its peers in turns; the results must agree."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from fastrnn._commands.compare import (
    BLOCK_SECONDS,
    EQUATIONS,
    EQUATIONS_ROUNDS,
    OURS,
    PROVIDERS,
    ROUNDS,
    Case,
    Comparison,
    Result,
)
from fastrnn._commands.machine import Machine

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture


def test_speed(
    benchmark: BenchmarkFixture,
    case: Case,
    machine: Machine,
    results: list[Result],
    against_torch: bool,
) -> None:
    """The fixture's own figures are those of a block of fastrnn's calls."""
    if against_torch:
        comparison, times = Comparison(case, PROVIDERS), ROUNDS
    else:  # four times the cases, and slow peers
        comparison, times = Comparison(case, EQUATIONS, BLOCK_SECONDS / 3), EQUATIONS_ROUNDS
    rounds = count()
    order: list[str] = []

    def before() -> None:
        order[:] = comparison.order(next(rounds))
        for name in order[: order.index(OURS)]:
            comparison.time(name)

    def after() -> None:
        for name in order[order.index(OURS) + 1 :]:
            comparison.time(name)

    benchmark.pedantic(lambda: comparison.time(OURS), setup=before, teardown=after, rounds=times)
    if benchmark.disabled:  # --benchmark-disable: only the results were to be checked
        return
    result = comparison.result()
    results.append(result)
    benchmark.extra_info |= {
        "calls_in_a_block": comparison.calls,
        "us_per_step": {name: result.us(name) for name in comparison.runs},
        "ratio": result.ratio(),
        "percent_of_floor": 100 * machine.floor_us(case) / result.us(),
    }
