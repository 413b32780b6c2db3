"""How long a step takes by each path, and by torch.nn."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor, nn

import fastrnn
from fastrnn._commands.compare import SHAPES, Run, Shape

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
    fatal: str = ""  # the provider with which the process ended

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


def disagreement(run: Run, expected: dict[str, Tensor], name: str) -> str:
    """With torch.nn, or with itself."""
    first = {k: t.clone() for k, t in run.results().items()}
    again = run.results()
    far = [k for k, e in errors(first, expected).items() if not e <= DIFFERENT[name]]
    if far:
        return f"not torch.nn's: {', '.join(far)}"
    differ = [k for k, t in first.items() if not torch.equal(t, again[k])]
    return f"not the same twice: {', '.join(differ)}" if differ else ""


class Case:
    """What is timed once: the providers that can, ready to be called."""

    def __init__(self, timing: Timing, record: Callable[[Timing], None]) -> None:
        self.timing, self.record = timing, record
        self.shape = Shape.parse(timing.shape)
        self.ready: dict[str, Run] = {}
        self.now = PEER

    def give_up(self) -> None:
        self.timing.problems[self.now] = f"not done after {SECONDS} s"
        self.timing.fatal = self.now
        self.record(self.timing)

    @contextmanager
    def turn_of(self, provider: str) -> Iterator[None]:
        """A provider that fails takes no further part, unless it takes the process with it."""
        self.now = provider
        try:
            with forced(None if provider == PEER else provider):
                yield
        except RuntimeError as error:
            self.ready.pop(provider, None)
            if not runs.refused(error):
                self.timing.problems[provider] = str(error)[:300]
            if runs.lost():
                self.timing.fatal = provider
                self.record(self.timing)
                raise

    def prepare(self, dtype: torch.dtype, paths: list[str]) -> None:
        """Those whose results are not torch.nn's are timed, too, and the report says so."""
        expected: dict[str, Tensor] = {}
        for provider in (PEER, *paths):
            self.timing.us[provider] = None
            package = nn if provider == PEER else fastrnn
            with self.turn_of(provider):
                kind = {"training": self.timing.training}
                run = make_run(package, self.timing.cell, self.shape, dtype, **kind)
                if provider == PEER:
                    expected = run.results()
                elif problem := disagreement(run, expected, self.timing.arithmetic):
                    self.timing.problems[provider] = problem
                self.ready[provider] = run

    def seconds(self, provider: str, calls: int) -> float:
        with torch.inference_mode(not self.timing.training):
            return seconds_of(self.ready[provider], calls)

    def time(self) -> None:
        """Medians of 5 rounds of about 10 ms each, in turns."""
        calls: dict[str, int] = {}
        for provider in list(self.ready):
            with self.turn_of(provider):
                self.seconds(provider, 1)
                calls[provider] = max(1, round(0.01 / max(self.seconds(provider, 1), 1e-6)))
        found: dict[str, list[float]] = {provider: [] for provider in self.ready}
        for i in range(5):
            for provider in list(self.ready)[:: 1 if i % 2 else -1]:
                with self.turn_of(provider):
                    n = calls[provider]
                    found[provider].append(self.seconds(provider, n) / n / self.shape.T * 1e6)
        self.timing.us |= {provider: median(found[provider]) for provider in self.ready}


def time_case(timing: Timing, paths: list[str], record: Callable[[Timing], None]) -> None:
    case = Case(timing, record)
    with arithmetic(timing.arithmetic) as dtype, at_most(SECONDS, case.give_up):
        case.prepare(dtype, paths)
        case.time()
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
