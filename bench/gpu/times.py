"""How long a step takes by each path, and by torch.nn."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import torch
from torch import nn

import fastrnn
from fastrnn.compare import SHAPES, Run, Shape

from . import runs
from .runs import arithmetic, at_most, errors, forced, make_run

PEER = "torch.nn"
SECONDS = 20  # a case that takes more hangs

# With published figures: persistent LSTMs, small float32 ones, wide GRUs, a reinforcement learner's
# batch.
PUBLISHED = (
    "1024,16,768,768",
    "1024,6,40,40",
    "1024,6,72,72",
    "1024,8,128,128",
    "1024,16,128,128",
    "512,1,152,152",
    "512,45,152,152",
    "512,12,192,192",
    "512,32,256,256",
    "512,64,512,512",
    "256,32,1024,1024",
    "128,128,256,256",
)
# How far the results that are timed may lie from torch.nn's: roundings of a thousand steps, and not
# another sequence.
DIFFERENT = {"float32": 1e-3, "tf32": 2e-2, "float16": 2e-2, "bfloat16": 1e-1}


@dataclass
class Timing:
    """Microseconds a step, by provider; null where a path does not run the shape, or fails."""

    cell: str
    arithmetic: str
    shape: str
    training: bool
    us: dict[str, float | None] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        kind = "training" if self.training else "forward"
        return f"{self.cell} {self.arithmetic} {self.shape} {kind}"


def cases() -> list[Timing]:
    """The published shapes first, in case the time does not suffice for all."""
    return [
        Timing(cell, name, text, training)
        for text in (*PUBLISHED, *map(str, SHAPES))
        for cell in ("lstm", "gru", "rnn_tanh")
        for name in ("bfloat16", "float16", "tf32", "float32")
        for training in (False, True)
    ]


def seconds_of(call: Callable[[], object], calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def path_of(provider: str) -> str | None:
    return None if provider == PEER else provider


def disagreement(run: Run, expected: dict, name: str) -> str:
    """With torch.nn, or with itself."""
    first = {k: t.clone() for k, t in run.results().items()}
    again = run.results()
    far = [k for k, e in errors(first, expected).items() if not e <= DIFFERENT[name]]
    if far:
        return f"not torch.nn's: {', '.join(far)}"
    differ = [k for k, t in first.items() if not torch.equal(t, again[k])]
    return f"not the same twice: {', '.join(differ)}" if differ else ""


def time_case(timing: Timing, paths: list[str], record: Callable[[Timing], None]) -> None:
    """Medians of 5 rounds of about 10 ms each, the providers in turns."""
    shape, now = Shape.parse(timing.shape), PEER
    ready: dict[str, Run] = {}

    def give_up() -> None:
        timing.problems[now] = f"not done after {SECONDS} s"
        record(timing)

    def call(provider: str) -> None:
        with forced(path_of(provider)), torch.inference_mode(not timing.training):
            ready[provider]()

    with arithmetic(timing.arithmetic) as dtype, at_most(SECONDS, give_up):
        expected = {}
        for now in (PEER, *paths):
            package = nn if now == PEER else fastrnn
            timing.us[now] = None
            run = make_run(package, timing.cell, shape, dtype, training=timing.training)
            try:
                with forced(path_of(now)):
                    problem = disagreement(run, expected, timing.arithmetic)
            except RuntimeError as error:
                if not runs.refused(error):
                    timing.problems[now] = str(error)[:300]
                if runs.lost():
                    record(timing)
                    raise
                continue
            if problem:
                timing.problems[now] = problem
            if now == PEER:
                expected = run.results()
            ready[now] = run
        count = {}
        for now in ready:
            seconds_of(partial(call, now), 1)
            count[now] = max(1, round(0.01 / max(seconds_of(partial(call, now), 1), 1e-6)))
        found: dict[str, list[float]] = {provider: [] for provider in ready}
        for i in range(5):
            for now in list(ready)[:: 1 if i % 2 else -1]:
                seconds = seconds_of(partial(call, now), count[now])
                found[now].append(seconds / count[now] / shape.T * 1e6)
    timing.us |= {provider: median(values) for provider, values in found.items()}
    record(timing)


def time_all(paths: list[str], done: int, seconds: float, record: Callable[[Timing], None]) -> None:
    """All cases but the first `done`, as long as the time lasts."""
    end = time.monotonic() + seconds
    left = cases()[done:]
    for i, timing in enumerate(left):
        if time.monotonic() > end:
            print(f"out of time: {len(left) - i} cases were not timed", file=sys.stderr)
            return
        time_case(timing, paths, record)
