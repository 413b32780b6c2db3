"""Shapes drawn at random, and what comparing layers at them has found.

Eight chosen shapes are what one tunes for; between them may lie some at which torch.nn is faster.
A case is measured in few rounds first. One that seems to be slower than torch.nn is measured again,
as carefully as the chosen shapes, because among hundreds of cases some have bad luck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import geometric_mean

from fastrnn._commands.compare import (
    BLOCK_SECONDS,
    NAMES,
    OURS,
    PASSES,
    PEER,
    PROVIDERS,
    ROUNDS,
    Case,
    Comparison,
    Result,
    Shape,
)
from fastrnn._commands.machine import Machine
from fastrnn._commands.report import as_json, disturbance

STEPS, BATCHES, SIZES = (20, 200), (1, 128), (16, 700)
# Of a call of the most expensive case, an LSTM's training: a few tenths of a second on two cores.
MOST_FLOPS = 2e10
FIRST_ROUNDS, FIRST_BLOCK_SECONDS = 3, 0.03
WORST = 10


def draw(count: int, seed: int) -> list[Shape]:
    """So many shapes. The batch is uniform on a logarithmic scale, all else on a linear one; there
    are fewer steps where a call would take too long, and another draw where there would be too few.
    """
    random, found = Random(seed), []
    while len(found) < count:
        steps, inputs, hidden = (random.randint(*range_) for range_ in (STEPS, SIZES, SIZES))
        batch = round(math.exp(random.uniform(*map(math.log, BATCHES))))
        of_a_step = Case("lstm", Shape(1, batch, inputs, hidden), True).flops
        steps = min(steps, int(MOST_FLOPS / of_a_step))
        if steps >= STEPS[0]:
            found.append(Shape(steps, batch, inputs, hidden))
    return found


@dataclass(frozen=True)
class Measured:
    """The first result of a case, and that of its repetition if it had one."""

    first: Result
    repeated: Result | None = None

    @property
    def result(self) -> Result:
        return self.repeated or self.first


def measure(case: Case, rounds: int = ROUNDS, block_seconds: float = BLOCK_SECONDS) -> Measured:
    """rounds, block_seconds: of a repetition."""
    first = Comparison(case, PROVIDERS, min(FIRST_BLOCK_SECONDS, block_seconds)).run(FIRST_ROUNDS)
    if first.ratio() >= 1:
        return Measured(first)
    return Measured(first, Comparison(case, PROVIDERS, block_seconds).run(rounds))


def document(found: Sequence[Measured], machine: Machine, seed: int) -> str:
    results = [m.result for m in found]
    shapes = len({r.case.shape for r in results})
    behind = sum(r.ratio() < 1 for r in results)
    repeated = sum(m.repeated is not None for m in found)
    parts = [
        "# Random shapes",
        f"{machine.name}, {machine.isa}, {machine.threads} threads, {machine.dtype}; "
        f"{machine.versions}; {machine.date}.",
        f"{shapes} shapes T,B,I,H drawn with seed {seed}: T from {STEPS[0]} to {STEPS[1]}, B from "
        f"{BATCHES[0]} to {BATCHES[1]} on a logarithmic scale, I and H from {SIZES[0]} to "
        f"{SIZES[1]}, T shortened where a call would take too long. {PEER} and {OURS} ran in turns "
        f"in one process, with the same weights and inputs, for {FIRST_ROUNDS} rounds, and for "
        f"{ROUNDS} longer ones where the first ratio was below 1. Training is forward and "
        "backward, to the input and all weights.",
        f"Of {len(found)} cases, {repeated} were below 1 at first, and {behind} stayed so.",
        _means(found),
        f"The {min(WORST, len(found))} cases with the lowest ratios, in microseconds a step.",
        _worst(sorted(found, key=lambda m: m.result.ratio())[:WORST], machine),
        disturbance(results),
    ]
    return "\n\n".join(parts) + "\n"


def _means(found: Sequence[Measured]) -> str:
    columns: dict[str, list[Measured]] = {}
    for m in found:
        columns.setdefault(_name(m.first.case), []).append(m)
    rows = {
        "geometric mean": lambda of: f"**{geometric_mean(m.result.ratio() for m in of):.2f}x**",
        "lowest": lambda of: f"{min(m.result.ratio() for m in of):.2f}x",
        "below 1 at first": lambda of: f"{sum(m.first.ratio() < 1 for m in of)} of {len(of)}",
        "below 1 after repetition": lambda of: (
            f"{sum(m.result.ratio() < 1 for m in of)} of {len(of)}"
        ),
    }
    lines = [_row("", *columns), _row("---", *["---"] * len(columns))]
    return "\n".join(
        [*lines, *(_row(name, *map(entry, columns.values())) for name, entry in rows.items())]
    )


def _worst(found: Sequence[Measured], machine: Machine) -> str:
    lines = [
        _row("", "T,B,I,H", f"{PEER} → {OURS}", "first ratio", "floor"),
        _row(*["---"] * 5),
    ]
    for m in found:
        r = m.result
        theirs, ours = r.typical_us()
        times = f"{_short(theirs)} → {_short(ours)}, **{r.ratio():.2f}x**"
        first = f"{m.first.ratio():.2f}x" if m.repeated else ""
        floor = f"{machine.floor_us(r.case) / r.us():.0%}"
        lines.append(_row(_name(r.case), str(r.case.shape), times, first, floor))
    return "\n".join(lines)


def for_programs(found: Sequence[Measured], machine: Machine, seed: int) -> dict:
    told = as_json([m.result for m in found], machine)
    for entry, m in zip(told["results"], found, strict=True):
        entry["first_ratio"] = m.first.ratio()
        entry["repeated"] = m.repeated is not None
    return {"seed": seed, **told}


def _name(case: Case) -> str:
    return f"{NAMES[case.cell]} {next(n for n, t in PASSES.items() if t == case.training)}"


def _row(*entries: str) -> str:
    return f"| {' | '.join(entries)} |"


def _short(us: float) -> str:
    """Three digits."""
    return f"{us:.0f}" if us >= 100 else f"{us:#.3g}"
