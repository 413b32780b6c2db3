"""Times providers of the same layer against each other: in one process, in turns, checked first.

Every provider gets the same weights and inputs, and must give the same results before a clock is
started. A round times one block of calls of each provider, in an order that alternates from round
to round; a ratio is the median of the ratios within the rounds, so that what disturbs the machine
for longer than a round disturbs both sides of it.

There are two sets of providers. PROVIDERS has torch.nn, for its layers, lstm, gru and rnn, and for
its Cells, lstmcell, grucell and rnncell: one step on [B, I], a shape whose T is 1.
EQUATIONS has every cell as one would write it in plain PyTorch: the input projection of the whole
sequence as one product, then a loop over the steps. "loop" runs it as it is, "compiled" compiles
the step by torch.compile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median, median_low, quantiles
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .. import modules, ops, reference

OURS, PEER = "fastrnn", "torch.nn"
LOOP, COMPILED = "loop", "compiled"
CPU = torch.device("cpu")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
STEPS = {"lstmcell": "lstm", "grucell": "gru", "rnncell": "rnn"}  # a Cell, and its layer
NAMES = {
    "lstm": "LSTM",
    "gru": "GRU",
    "rnn": "RNN",
    "lstmcell": "LSTMCell",
    "grucell": "GRUCell",
    "rnncell": "RNNCell",
}
PASSES = {"forward": False, "training": True}
ROUNDS, EQUATIONS_ROUNDS = 9, 5
BLOCK_SECONDS = 0.1

# How far two correct results may lie apart: the norm of their difference, relative to the norm. The
# sums are the same in another order, which costs some 1e-7 in float32; but torch.nn rounds 16-bit
# types after every step and within its gates, where fastrnn accumulates in float32.
TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}

Factory = Callable[[str, int, int], nn.Module]


class MismatchError(RuntimeError):
    """Two providers disagree; there is nothing to time."""


class Shape(NamedTuple):
    """Steps, batch, features of the input, hidden units."""

    T: int
    B: int
    I: int  # noqa: E741
    H: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """From "T,B,I,H"."""
        sizes = text.split(",")
        if len(sizes) != 4 or not all(s.isdecimal() and int(s) for s in sizes):
            raise ValueError(f"a shape is T,B,I,H, four whole numbers from 1, and not {text!r}")
        return cls(*map(int, sizes))

    def __str__(self) -> str:
        return ",".join(map(str, self))


SHAPES = tuple(
    map(
        Shape.parse,
        (
            "1,1,64,64",
            "100,1,64,64",
            "100,1,256,256",
            "100,1,1024,1024",
            "100,16,128,128",
            "100,32,256,256",
            "100,64,512,512",
            "28,128,28,128",
        ),
    )
)


STEP_SHAPES = tuple(
    map(
        Shape.parse,
        (
            "1,1,64,64",
            "1,1,512,512",
            "1,4,256,256",
            "1,16,128,128",
            "1,64,256,256",
            "1,256,512,512",
        ),
    )
)


def _modules_of(package: object) -> Factory:
    return lambda cell, inputs, hidden: getattr(package, NAMES[cell])(inputs, hidden)


PROVIDERS: dict[str, Factory] = {PEER: _modules_of(nn), OURS: _modules_of(modules)}

# Every cell as a module.
MODULES: dict[str, Callable[[int, int], nn.RNNBase]] = {
    "rnn_tanh": modules.RNN,
    "rnn_relu": partial(modules.RNN, nonlinearity="relu"),
    "lstm": modules.LSTM,
    "lstm_f": partial(modules.LSTM, gates="io"),
    "lstm_i": partial(modules.LSTM, gates="fo"),
    "lstm_o": partial(modules.LSTM, gates="if"),
    "lstm_peephole": partial(modules.LSTM, peephole=True),
    "gru": modules.GRU,
    "gru_before": partial(modules.GRU, reset_after=False),
    "mut1": modules.MUT1,
    "mut2": modules.MUT2,
    "mut3": modules.MUT3,
}


def _fused(cell: str, inputs: int, hidden: int) -> nn.Module:
    return MODULES[cell](inputs, hidden)


def _loop(compiles: bool, cell: str, inputs: int, hidden: int) -> nn.Module:
    """The same module, and so the same parameters, with a loop in plain PyTorch as its forward."""
    layer = MODULES[cell](inputs, hidden)
    step = _step
    if compiles:
        torch.compiler.reset()  # beyond eight versions of a function, torch.compile gives up
        step = torch.compile(_step, dynamic=True)
    layer.forward = partial(_run_loop, cell, layer, step)
    return layer


def _run_loop(
    cell: str, layer: nn.RNNBase, step: Callable[..., Sequence[Tensor]], x: Tensor
) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
    form, own = reference.CELLS[cell], reference.Weights.of(cell, list(layer.parameters()))
    hidden = layer.hidden_size
    assert own.bias_hh is not None
    states: Sequence[Tensor] = [x.new_zeros(x.shape[1], hidden) for _ in range(form.states)]
    peepholes = () if own.peephole is None else (own.peephole.chunk(len(form.peepholes)),)
    blocks = own.ih.shape[0] // hidden
    # What no step waits for is done for the whole sequence at once.
    from_x = [part.unbind() for part in linear(x, own.ih, own.bias_ih).chunk(blocks, -1)]
    if blocks < len(form.x):
        from_x.insert(form.x.index(form.itself), x.unbind())
    products = [
        tuple(w[first * hidden : (first + count) * hidden] for w in (own.hh, own.bias_hh))
        for first, count in _products(cell)
    ]
    every = []
    for parts in zip(*from_x, strict=True):
        states = step(form.step, parts, products, states, *peepholes)
        every.append(states[0])
    last = tuple(s[None] for s in states)
    return torch.stack(every), last[0] if len(last) == 1 else last


def _step(
    equations: Callable[..., tuple[Tensor, ...]],
    from_x: Sequence[Tensor],
    products: Sequence[tuple[Tensor, Tensor]],
    states: Sequence[Tensor],
    *peepholes: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    weights = iter(products)

    def recurrent(operand: Tensor, first: int, count: int) -> Sequence[Tensor]:
        return linear(operand, *next(weights)).chunk(count, -1)

    return equations(from_x, recurrent, states, *peepholes)


def _products(cell: str) -> list[tuple[int, int]]:
    """The recurrent products of a step in their order: each one's first block and their number."""
    form, found, zero = reference.CELLS[cell], [], torch.zeros(1)

    def recurrent(operand: Tensor, first: int, count: int) -> Sequence[Tensor]:
        found.append((first, count))
        return [zero] * count

    peepholes = ([zero] * len(form.peepholes),) if form.peepholes else ()
    form.step([zero] * len(form.x), recurrent, [zero] * form.states, *peepholes)
    return found


# The step is compiled, not the loop: to compile 100 steps of an LSTM takes inductor minutes.
EQUATIONS: dict[str, Factory] = {
    LOOP: partial(_loop, False),
    COMPILED: partial(_loop, True),
    OURS: _fused,
}


@dataclass(frozen=True)
class Case:
    """What is timed: a layer of a cell, with the states zero, on [T, B, I], or a Cell on [B, I].

    training: whether a call is also the backward pass, to the input and to all weights.

    Raises:
        ValueError: a Cell, with more than one step.
    """

    cell: str
    shape: Shape
    training: bool
    dtype: torch.dtype = torch.float32
    device: torch.device = CPU

    def __post_init__(self) -> None:
        if self.cell in STEPS and self.shape.T != 1:
            raise ValueError(f"{NAMES[self.cell]} takes one step, and not {self.shape.T}")

    @property
    def leading(self) -> tuple[int, ...]:
        """The shape of the input without its features."""
        return (self.shape.B,) if self.cell in STEPS else (self.shape.T, self.shape.B)

    @property
    def blocks(self) -> tuple[int, int]:
        """How many blocks of H rows weight_ih and weight_hh have."""
        name = STEPS.get(self.cell, self.cell)
        cell = ops.CELLS["rnn_tanh" if name == "rnn" else name]
        takes_x = cell.takes_x and self.shape.I == self.shape.H
        return cell.x_blocks - takes_x, cell.h_blocks

    @property
    def flops(self) -> int:
        """Floating-point operations of a step's matrix products; backward has twice forward's."""
        _, batch, inputs, hidden = self.shape
        x_blocks, h_blocks = self.blocks
        forward = 2 * batch * hidden * (x_blocks * inputs + h_blocks * hidden)
        return 3 * forward if self.training else forward

    @property
    def recurrent_bytes(self) -> int:
        """What a step has to read of weight_hh: once forward, once more backward."""
        once = self.blocks[1] * self.shape.H**2 * self.dtype.itemsize
        return 2 * once if self.training else once


class Run:
    """A module and its input; a call is a forward pass, or with grad_y a training step."""

    def __init__(self, module: nn.Module, x: Tensor, grad_y: Tensor | None = None) -> None:
        self.module = module.train(grad_y is not None)
        self.x = x.detach().requires_grad_(grad_y is not None)
        self.grad_y = grad_y
        self.leaves = {"x": self.x, **dict(module.named_parameters())}

    def __call__(self) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        if self.grad_y is None:
            return self._forward()
        for leaf in self.leaves.values():
            leaf.grad = None
        y, last = self._forward()
        y.backward(self.grad_y)
        return y, last

    def _forward(self) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        out = self.module(self.x)
        if self.x.dim() == 3:
            return out
        return (out, out) if isinstance(out, Tensor) else (out[0], out)

    def seconds(self, calls: int) -> float:
        """The time of so many calls, in inference mode unless they train."""
        with torch.inference_mode(self.grad_y is None):
            _synchronize(self.x.device)
            start = perf_counter()
            for _ in range(calls):
                self()
            _synchronize(self.x.device)
            return perf_counter() - start

    def results(self) -> dict[str, Tensor]:
        """All outputs of a call, and all gradients, by name."""
        with torch.inference_mode(self.grad_y is None):
            y, last = self()
        ends = last if isinstance(last, tuple) else (last,)
        found = {"y": y, **{f"last state {i}": end for i, end in enumerate(ends)}}
        if self.grad_y is not None:
            found |= {f"gradient of {name}": leaf.grad for name, leaf in self.leaves.items()}
        return {name: t.detach() for name, t in found.items()}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raises MismatchError if any result is further off than TOLERANCES allows."""
    for name, truth in expected.items():
        got = found[name]
        if got.shape != truth.shape or got.dtype != truth.dtype:
            raise MismatchError(
                f"{what}: {name} is {got.dtype} {list(got.shape)}, and should be {truth.dtype} "
                f"{list(truth.shape)}"
            )
        error = float((got.double() - truth.double()).norm() / truth.double().norm().clamp(1e-300))
        if not error <= TOLERANCES[truth.dtype]:
            raise MismatchError(
                f"{what}: {name} differs by {error:.1e} of its norm; the limit for {truth.dtype} "
                f"is {TOLERANCES[truth.dtype]:.0e}"
            )


@dataclass(frozen=True)
class Result:
    """The seconds of a call of each provider, round by round."""

    case: Case
    seconds: Mapping[str, list[float]]

    def us(self, provider: str = OURS) -> float:
        """Microseconds a step, the median of all rounds."""
        return median(self.seconds[provider]) / self.case.shape.T * 1e6

    @property
    def peers(self) -> list[str]:
        """The providers but ours."""
        return [name for name in self.seconds if name != OURS]

    def typical_us(self, provider: str = OURS, peer: str | None = None) -> tuple[float, float]:
        """The peer's and the provider's microseconds a step in the round whose ratio is the median:
        the quotient of these is what ratio says, which that of two medians need not be."""
        ratios = self._ratios(provider, peer)
        round = ratios.index(median_low(ratios))
        pair = (peer or self.peers[0], provider)
        theirs, ours = (self.seconds[p][round] / self.case.shape.T * 1e6 for p in pair)
        return theirs, ours

    def gflops(self, provider: str = OURS) -> float:
        return self.case.flops / self.us(provider) / 1e3

    def ratio(self, provider: str = OURS, peer: str | None = None) -> float:
        """How many times as fast as the peer, by default the first one: the median of the rounds'
        ratios."""
        return median(self._ratios(provider, peer))

    def spread(self, provider: str = OURS, peer: str | None = None) -> float:
        """The upper quartile of the rounds' ratios over the lower one; near 1 if undisturbed."""
        lower, _, upper = quantiles(self._ratios(provider, peer), method="inclusive")
        return upper / lower

    def _ratios(self, provider: str, peer: str | None) -> list[float]:
        pairs = zip(self.seconds[peer or self.peers[0]], self.seconds[provider], strict=True)
        return [theirs / own for theirs, own in pairs]


class Comparison:
    """Providers of one case, checked against the first of them and ready to be timed.

    Raises:
        MismatchError: the results of a provider are not those of the first.
    """

    def __init__(
        self,
        case: Case,
        providers: Mapping[str, Factory] = PROVIDERS,
        block_seconds: float = BLOCK_SECONDS,
    ) -> None:
        self.case = case
        # The gradient of relu jumps at 0: where float32 rounds one gate in a million to the other
        # side of it, two correct results differ. In float64 none comes so near.
        jumps = case.training and case.cell == "rnn_relu"
        if jumps:
            self._checked_runs(providers, torch.float64)
        self.runs = self._checked_runs(providers, case.dtype, gradients=not jumps)
        self.calls = {
            name: _calls_in_a_block(run, block_seconds) for name, run in self.runs.items()
        }
        self.seconds: dict[str, list[float]] = {name: [] for name in self.runs}

    def _checked_runs(
        self, providers: Mapping[str, Factory], dtype: torch.dtype, gradients: bool = True
    ) -> dict[str, Run]:
        case = self.case
        kind = {"device": case.device, "dtype": dtype}
        _, _, inputs, hidden = case.shape
        torch.manual_seed(0)
        x = torch.randn(*case.leading, inputs).to(**kind)
        grad_y = torch.randn(*case.leading, hidden).to(**kind) if case.training else None
        runs = {
            name: Run(make(case.cell, inputs, hidden).to(**kind), x, grad_y)
            for name, make in providers.items()
        }
        (_, first), *others = runs.items()
        expected = first.results()
        if not gradients:
            expected = {k: v for k, v in expected.items() if not k.startswith("gradient")}
        for name, run in others:
            run.module.load_state_dict(first.module.state_dict())
            check(run.results(), expected, f"{name}, {case.cell} {case.shape}")
        return runs

    def order(self, round: int) -> list[str]:
        names = list(self.runs)
        return names if round % 2 == 0 else names[::-1]

    def time(self, name: str) -> None:
        """Times one block of calls."""
        calls = self.calls[name]
        self.seconds[name].append(self.runs[name].seconds(calls) / calls)

    def run(self, rounds: int = ROUNDS) -> Result:
        for i in range(rounds):
            for name in self.order(i):
                self.time(name)
        return self.result()

    def result(self) -> Result:
        return Result(self.case, self.seconds)


def _calls_in_a_block(run: Run, block_seconds: float) -> int:
    calls = 1
    while (seconds := run.seconds(calls)) < block_seconds / 5:
        calls *= 2
    return max(1, round(calls * block_seconds / seconds))
