"""The benchmark at shapes drawn at random: what it draws, what it measures again, what it shows."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench import random_shapes
from bench.random_shapes import Measured
from fastrnn._commands.compare import OURS, PEER, ROUNDS, Case, Result, Shape
from fastrnn._commands.machine import Machine

ROOT = Path(__file__).parents[1]


def test_a_draw_is_reproducible() -> None:
    shapes = random_shapes.draw(50, seed=7)
    assert len(shapes) == 50
    assert random_shapes.draw(50, seed=7) == shapes
    assert random_shapes.draw(10, seed=7) == shapes[:10]
    assert random_shapes.draw(50, seed=8) != shapes


def test_a_draw_is_within_its_bounds() -> None:
    shapes = random_shapes.draw(500, seed=0)
    for steps, batch, inputs, hidden in shapes:
        assert 20 <= steps <= 200 and 1 <= batch <= 128
        assert 16 <= inputs <= 700 and 16 <= hidden <= 700
    costs = [Case("lstm", shape, True).flops * shape.T for shape in shapes]
    assert max(costs) <= random_shapes.MOST_FLOPS
    # A logarithmic scale has as many batches below 11 as above, but the largest take too long.
    small = sum(shape.B <= 11 for shape in shapes)
    assert 200 < small < 400
    assert min(shape.B for shape in shapes) == 1 and max(shape.B for shape in shapes) > 100


def test_steps_are_fewer_where_a_call_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    free = random_shapes.draw(100, seed=0)
    monkeypatch.setattr(random_shapes, "MOST_FLOPS", 1e9)
    capped = random_shapes.draw(100, seed=0)
    assert all(Case("lstm", s, True).flops * s.T <= 1e9 and s.T >= 20 for s in capped)
    of_same_sizes = {shape[1:]: shape.T for shape in free}
    common = [(shape.T, of_same_sizes[shape[1:]]) for shape in capped if shape[1:] in of_same_sizes]
    assert all(fewer <= steps for fewer, steps in common)
    assert any(fewer < steps for fewer, steps in common)


SHAPE = Shape(10, 2, 16, 16)


def _result(ratio: float, cell: str = "gru", shape: Shape = SHAPE) -> Result:
    case = Case(cell, shape, False)
    return Result(case, {PEER: [ratio * 1e-4] * 4, OURS: [1e-4] * 4})


class Luck:
    """In place of Comparison: ratios by turns, and the rounds and seconds that were asked for."""

    def __init__(self, *ratios: float) -> None:
        self.ratios, self.asked = list(ratios), []

    def __call__(self, case: Case, providers: object, block_seconds: float) -> Luck:
        self.seconds = block_seconds
        return self

    def run(self, rounds: int) -> Result:
        self.asked.append((rounds, self.seconds))
        return _result(self.ratios.pop(0))


@pytest.mark.parametrize(
    ("ratios", "final", "times"), [((1.5, 9), 1.5, 1), ((0.9, 1.2), 1.2, 2), ((0.9, 0.8), 0.8, 2)]
)
def test_only_what_seems_slow_is_measured_again(
    ratios: tuple[float, ...], final: float, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    luck = Luck(*ratios)
    monkeypatch.setattr(random_shapes, "Comparison", luck)
    found = random_shapes.measure(_result(1).case)
    assert found.result.ratio() == pytest.approx(final)
    assert found.first.ratio() == pytest.approx(ratios[0])
    assert [rounds for rounds, _ in luck.asked] == [random_shapes.FIRST_ROUNDS, ROUNDS][:times]
    assert luck.asked[-1][1] > luck.asked[0][1] or times == 1


def _machine() -> Machine:
    return Machine("A CPU", "avx2", 2, "float32", "fastrnn 0", "2026-01-01", 100.0, {2**17: 10.0})


def _found() -> list[Measured]:
    lost, won = SHAPE, Shape(20, 1, 16, 16)
    return [
        Measured(_result(4.0, shape=won)),
        Measured(_result(0.9, shape=lost), _result(0.5, shape=lost)),
        Measured(_result(0.8, "rnn", won), _result(2.0, "rnn", won)),
    ]


def test_the_report_has_means_and_what_is_slow() -> None:
    text = random_shapes.document(_found(), _machine(), seed=5)
    assert "2 shapes T,B,I,H drawn with seed 5" in text
    assert "Of 3 cases, 2 were below 1 at first, and 1 stayed so." in text
    lines = text.splitlines()
    for line in (
        "|  | GRU forward | RNN forward |",
        "| geometric mean | **1.41x** | **2.00x** |",
        "| lowest | 0.50x | 2.00x |",
        "| below 1 at first | 1 of 2 | 1 of 1 |",
        "| below 1 after repetition | 1 of 2 | 0 of 1 |",
    ):
        assert line in lines
    start = next(i for i, line in enumerate(lines) if line.startswith("|  | T,B,I,H |"))
    floor = f"{_machine().floor_us(_result(1).case) / 10:.0%}"
    assert (
        lines[start + 2]
        == f"| GRU forward | 10,2,16,16 | 5.00 → 10.0, **0.50x** | 0.90x | {floor} |"
    )
    assert lines[start + 3].startswith(
        "| RNN forward | 20,1,16,16 | 10.0 → 5.00, **2.00x** | 0.80x"
    )
    assert lines[start + 4].startswith("| GRU forward | 20,1,16,16 | 20.0 → 5.00, **4.00x** |  |")


def test_the_report_shows_no_more_than_the_worst_ten() -> None:
    found = [Measured(_result(1 + i)) for i in range(12)]
    text = random_shapes.document(found, _machine(), 0)
    assert "The 10 cases" in text and "**10.00x**" in text and "**11.00x**" not in text


def test_programs_are_told_what_was_repeated() -> None:
    told = random_shapes.for_programs(_found(), _machine(), 5)
    assert told["seed"] == 5
    assert [r["repeated"] for r in told["results"]] == [False, True, True]
    assert [r["first_ratio"] for r in told["results"]] == pytest.approx([4, 0.9, 0.8])
    assert [r["ratio"] for r in told["results"]] == pytest.approx([4, 0.5, 2])


NEEDS_MATPLOTLIB = pytest.mark.skipif(
    find_spec("matplotlib") is None, reason="pytest bench draws with it"
)


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "bench", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@NEEDS_MATPLOTLIB
def test_the_command_measures_what_it_draws(tmp_path: Path) -> None:
    target = tmp_path / "found"
    done = _bench("--random", "1", "--seed", "2", "--cells", "rnn", "--results", str(target))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    told = json.loads(target.with_name("found.json").read_text())
    assert told["seed"] == 2
    (shape,) = random_shapes.draw(1, 2)
    assert [r["shape"] for r in told["results"]] == [shape._asdict()] * 2
    assert "# Random shapes" in target.with_name("found.md").read_text()


@NEEDS_MATPLOTLIB
@pytest.mark.parametrize("given", [["--shapes", "1,1,4,4"], ["--cells", "mut1"]], ids=" ".join)
def test_the_command_refuses(given: list[str]) -> None:
    done = _bench("--random", "1", *given, "--collect-only")
    assert done.returncode == 4
    assert "--random draws the shapes of lstm, gru and rnn" in done.stderr
