"""The floor under a call's time, from the figures of the pieces; and calls timed to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import median
from time import perf_counter, process_time

import torch

from fastrnn._commands.compare import OURS, PROVIDERS, Case, Run, Shape
from fastrnn._commands.machine import Machine

from .program import Figure, best, best_tile

KINDS = ("tiles", "packing", "reading", "cells", "meetings")
FORMS = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}  # the kernels' names
FEW_ROWS = 8  # up to which weights are not packed
LEAST = Shape(1, 1, 8, 8)  # whose time is what a call costs
ROUNDS, FEWEST_ROUNDS, BLOCK_SECONDS, SECONDS = 40, 3, 0.005, 45.0


@dataclass(frozen=True)
class Floor:
    """Microseconds of a call: what each part of it takes at best.

    reading: what the products wait for the recurrent weights beyond their own time.
    """

    products: float
    reading: float
    gates: float
    packing: float
    meetings: float
    call: float

    @property
    def us(self) -> float:
        return sum(astuple(self))


@dataclass(frozen=True)
class Rates:
    """What the parts of a call run at.

    calls: the microseconds of a call with next to nothing to compute, by cell and training.
    """

    figures: Sequence[Figure]
    machine: Machine
    calls: Mapping[tuple[str, bool], float]

    @property
    def teams(self) -> list[int]:
        """The numbers of threads that were measured."""
        found = {int(f.of["threads"]) for f in self.figures if f.kind == "reading"}
        return sorted(found)

    def gflops(self) -> float:
        """Of one thread: torch.mm's best, or that of the best tile."""
        tile = best_tile(self.figures, self.machine.dtype) or 0.0
        return max(tile, self.machine.peak / self.machine.threads)

    def read_gbs(self, size: int, threads: int) -> float:
        """At which so many threads read so many bytes again and again, each its share of them: the
        best of all sizes from there on, because what is larger lies no nearer to the core."""
        found = {
            int(f.of["bytes"]): f.best
            for f in self.figures
            if f.kind == "reading" and f.has(threads=str(threads))
        }
        share = min(size // threads, max(found))
        return max(gbs for read, gbs in found.items() if read >= share)

    def pack_gbs(self, direction: str, size: int) -> float:
        """Of one thread; likewise."""
        found = {
            int(f.of["bytes"]): f.best
            for f in self.figures
            if f.kind == "packing" and f.has(**{"pass": direction})
        }
        return max(gbs for read, gbs in found.items() if read >= min(size, max(found)))

    def cell_ns(self, cell: str, direction: str) -> float:
        """Of a vector of units, through all phases."""
        of = {"cell": FORMS[cell], "form": "plain", "pass": direction}
        phases = {f.of["phase"] for f in self.figures if f.kind == "cells" and f.has(**of)}
        return sum(best(self.figures, "cells", phase=phase, **of) for phase in phases)

    def meeting_ns(self, members: int) -> float:
        return best(self.figures, "meetings", members=str(members))

    @property
    def lanes(self) -> int:
        return next(int(f.of["lanes"]) for f in self.figures if f.kind == "cells")


def floor(case: Case, rates: Rates) -> Floor:
    """With as many threads as make it lowest. Threads share the rows, and meet in every step only
    where there are fewer rows than threads."""
    return min((_on_threads(case, rates, n) for n in rates.teams), key=lambda found: found.us)


def _on_threads(case: Case, rates: Rates, threads: int) -> Floor:
    steps, batch, inputs, hidden = case.shape
    x_blocks, h_blocks = case.blocks
    passes = 2 if case.training else 1
    gflops = rates.gflops() * threads
    recurrent_us = 2 * batch * hidden * h_blocks * hidden / gflops / 1e3  # of a step of a pass
    once = case.recurrent_bytes // passes
    read_us = once / rates.read_gbs(once, threads) / 1e3
    vectors = steps * batch * -(-hidden // rates.lanes)
    directions = ("saving", "backward") if case.training else ("forward",)
    weights = once + x_blocks * hidden * inputs * case.dtype.itemsize
    packs = {"forward": steps > 2 or batch > FEW_ROWS}
    if case.training:
        packs["backward"] = steps * batch > FEW_ROWS
    meets = threads > batch
    return Floor(
        products=steps * case.flops / gflops / 1e3,
        reading=steps * passes * max(0.0, read_us - recurrent_us),
        gates=vectors * sum(rates.cell_ns(case.cell, d) for d in directions) / threads / 1e3,
        packing=sum(
            weights / rates.pack_gbs(direction, weights) / threads / 1e3
            for direction, done in packs.items()
            if done
        ),
        meetings=steps * passes * rates.meeting_ns(threads) / 1e3 if meets else 0.0,
        call=rates.calls[case.cell, case.training],
    )


@dataclass(frozen=True)
class Timed:
    """A case, the microseconds of a call of fastrnn, and the floor under them."""

    case: Case
    best_us: float
    median_us: float
    floor: Floor

    @property
    def share(self) -> float:
        return self.floor.us / self.best_us

    @property
    def is_slow(self) -> bool:
        """Whether a layer that is large enough to have no excuse is far from its floor."""
        return self.share < 0.85 and self.case.shape.B >= 16 and self.case.shape.H >= 128


def time_calls(
    cases: Sequence[Case], rounds: int = ROUNDS, block_seconds: float = BLOCK_SECONDS
) -> dict[Case, list[float]]:
    """Microseconds of a call of fastrnn in blocks of calls. Each round times all cases, so that
    another process that takes the cores for a while spoils no case in all rounds. On a machine too
    busy for so many rounds there are fewer. One thread's time passes only while it has its core."""
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    runs = {case: _run(case) for case in cases}
    calls = {case: max(1, round(block_seconds / run.seconds(1))) for case, run in runs.items()}
    found: dict[Case, list[float]] = {case: [] for case in cases}
    end = perf_counter() + SECONDS
    for i in range(rounds):
        if i >= FEWEST_ROUNDS and perf_counter() > end:
            break
        for case, run in runs.items():
            start = clock()
            run.seconds(calls[case])
            found[case].append((clock() - start) / calls[case] * 1e6)
    return found


def _run(case: Case) -> Run:
    """Warm."""
    steps, batch, inputs, hidden = case.shape
    torch.manual_seed(0)
    x = torch.randn(steps, batch, inputs, dtype=case.dtype)
    grad_y = torch.randn(steps, batch, hidden, dtype=case.dtype) if case.training else None
    run = Run(PROVIDERS[OURS](case.cell, inputs, hidden).to(case.dtype), x, grad_y)
    run.seconds(1)
    return run


def measure(
    cases: Sequence[Case],
    figures: Sequence[Figure],
    machine: Machine,
    rounds: int = ROUNDS,
    block_seconds: float = BLOCK_SECONDS,
) -> list[Timed]:
    """The cases' times and floors."""
    least = {
        (case.cell, case.training): Case(case.cell, LEAST, case.training, case.dtype)
        for case in cases
    }
    us = time_calls(list(dict.fromkeys([*cases, *least.values()])), rounds, block_seconds)
    rates = Rates(figures, machine, {key: min(us[case]) for key, case in least.items()})
    return [Timed(c, min(us[c]), median(us[c]), floor(c, rates)) for c in cases]
