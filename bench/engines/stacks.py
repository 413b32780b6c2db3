"""The latency of one step of a stack of layers, batch 1, with the states fed back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastrnn import modules
from fastrnn._commands.compare import OURS, PEER, check

from .engines import Engine
from .graphs import graph_of, input_names, output_names
from .layers import REST_SECONDS

ROUNDS = 9
TURN_SECONDS = 0.25
COMPARED_STEPS = 5
# After the rest a provider finds its threads asleep and the caches empty.
WARM_UP_STEPS = 10


class Stack(NamedTuple):
    """Layers, and the units of each; the input has as many features."""

    layers: int
    H: int

    @classmethod
    def parse(cls, text: str) -> Stack:
        """From "LxH"."""
        sizes = text.split("x")
        if len(sizes) != 2 or not all(s.isdecimal() and int(s) for s in sizes):
            raise ValueError(f"a stack is LxH, two whole numbers from 1, and not {text!r}")
        return cls(*map(int, sizes))

    def __str__(self) -> str:
        return f"{self.layers}x{self.H}"


STACKS = tuple(map(Stack.parse, ("2x128", "3x256", "3x480", "3x960")))

Step = Callable[[], Tensor]


class ModuleStep:
    """A step by a module of torch.nn or fastrnn."""

    def __init__(self, module: nn.Module, x: Tensor) -> None:
        self.module, self.x, self.states = module, x, None

    def __call__(self) -> Tensor:
        y, self.states = self.module(self.x, self.states)
        return y


class EngineStep:
    """A step by an engine, from one set of states to the other and back."""

    def __init__(self, engine: Engine, threads: int, module: nn.RNNBase, x: Tensor) -> None:
        program = engine(graph_of(module, 1, 1, True), threads)
        hidden, taken, made = module.hidden_size, input_names(module), output_names(module)
        self.x, self.y, self.turn = x, torch.empty(1, 1, 1, hidden), 0
        self.states = [[torch.zeros(1, 1, hidden) for _ in taken] for _ in range(2)]
        self.runs = [
            program.bound(
                {"x": x, **dict(zip(taken, before))}, {"y": self.y, **dict(zip(made, after))}
            )
            for before, after in (self.states, self.states[::-1])
        ]

    def __call__(self) -> Tensor:
        self.runs[self.turn]()
        self.turn = 1 - self.turn
        return self.y[0]


def _module_step(package: object, theirs: nn.RNNBase, x: Tensor) -> Step:
    kind = getattr(package, type(theirs).__name__)
    module = kind(theirs.input_size, theirs.hidden_size, theirs.num_layers).eval()
    module.load_state_dict(theirs.state_dict())
    return ModuleStep(module, x)


def steps_of(
    cell: str, stack: Stack, engines: Mapping[str, Engine], threads: int
) -> dict[str, Step]:
    """Each provider's step, after the first few were compared with torch.nn's.

    Raises:
        MismatchError: the results of a provider are not those of torch.nn.
    """
    torch.manual_seed(0)
    x = torch.randn(1, 1, stack.H)
    module = getattr(nn, cell.upper())(stack.H, stack.H, stack.layers)
    steps = {PEER: _module_step(nn, module, x), OURS: _module_step(modules, module, x)}
    steps |= {name: EngineStep(engine, threads, module, x) for name, engine in engines.items()}
    results = {name: _outputs(step) for name, step in steps.items()}
    for name, found in results.items():
        check(found, results[PEER], f"{name}, {cell} {stack}")
    return steps


def _outputs(step: Step) -> dict[str, Tensor]:
    with torch.inference_mode():
        return {f"y of step {i}": step().clone() for i in range(COMPARED_STEPS)}


@dataclass(frozen=True)
class Latency:
    """The seconds of every timed step, by provider."""

    cell: str
    stack: Stack
    seconds: Mapping[str, Sequence[float]]

    def us(self, provider: str) -> float:
        """The median, in microseconds."""
        return median(self.seconds[provider]) * 1e6

    def us_99(self, provider: str) -> float:
        """The 99th percentile, in microseconds."""
        return quantiles(self.seconds[provider], n=100, method="inclusive")[98] * 1e6


def time_stack(
    cell: str,
    stack: Stack,
    engines: Mapping[str, Engine],
    threads: int,
    rounds: int = ROUNDS,
    turn_seconds: float = TURN_SECONDS,
) -> Latency:
    steps = steps_of(cell, stack, engines, threads)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds):
        for name in list(steps)[:: 1 if i % 2 == 0 else -1]:
            time.sleep(REST_SECONDS)
            seconds[name] += _turn(steps[name], turn_seconds)
    return Latency(cell, stack, seconds)


def _turn(step: Step, turn_seconds: float) -> list[float]:
    found: list[float] = []
    with torch.inference_mode():
        for _ in range(WARM_UP_STEPS):
            step()
        end = perf_counter() + turn_seconds
        while (start := perf_counter()) < end:
            step()
            found.append(perf_counter() - start)
    return found
