"""One layer over a sequence: engines as providers of fastrnn._commands.compare."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from fastrnn._commands.compare import (
    BLOCK_SECONDS,
    PEER,
    PROVIDERS,
    ROUNDS,
    Case,
    Comparison,
    Factory,
    Result,
)

from .engines import Engine
from .graphs import graph_of, output_names

# The threads of each provider spin for a while after a call, and would take the next one's cores.
REST_SECONDS = 0.05


class Forward:
    """A layer's forward by an engine, compiled for the input and with the weights that it meets."""

    def __init__(self, engine: Engine, layer: nn.RNNBase, threads: int) -> None:
        self.engine, self.layer, self.threads = engine, layer, threads
        self.x: Tensor | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        if x is not self.x:
            self._compile(x)
        self.run()
        return self.results

    def _compile(self, x: Tensor) -> None:
        steps, batch, _ = x.shape
        program = self.engine(graph_of(self.layer, steps, batch, False), self.threads)
        y = torch.empty(steps, 1, batch, self.layer.hidden_size)
        last = {name: y.new_empty(1, *y.shape[2:]) for name in output_names(self.layer)}
        self.x, self.run = x, program.bound({"x": x}, {"y": y, **last})
        ends = tuple(last.values())
        self.results = y[:, 0], ends if len(ends) > 1 else ends[0]


def _layer(engine: Engine, threads: int, cell: str, inputs: int, hidden: int) -> nn.Module:
    layer = PROVIDERS[PEER](cell, inputs, hidden)
    layer.forward = Forward(engine, layer, threads)
    return layer


def providers(engines: Mapping[str, Engine], threads: int) -> dict[str, Factory]:
    """torch.nn, which the others are checked against, fastrnn, and the engines."""
    return PROVIDERS | {name: partial(_layer, engine, threads) for name, engine in engines.items()}


def time_layer(
    case: Case,
    engines: Mapping[str, Engine],
    threads: int,
    rounds: int = ROUNDS,
    block_seconds: float = BLOCK_SECONDS,
) -> Result:
    comparison = Comparison(case, providers(engines, threads), block_seconds)
    for i in range(rounds):
        for name in comparison.order(i):
            time.sleep(REST_SECONDS)
            comparison.time(name)
    return comparison.result()
