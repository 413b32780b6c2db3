"""Every cell in plain PyTorch, line by line the equations: the yardstick of all tests.

Slow, differentiable to any order, and without any knowledge of the kernels. It also computes the
derivatives that the kernels do not have: the second ones, and forward-mode tangents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import linear


class Recurrent(Protocol):
    """Products with the recurrent weights: of an operand, [B, H] or [B, P], and the blocks [first,
    first + count) of weight_hh, with their biases. Returns the parts, each [B, H]."""

    def __call__(self, operand: Tensor, first: int, count: int) -> Sequence[Tensor]: ...


class Cell(NamedTuple):
    """A cell's equations, and what a letter means in its weights.

    step(x, w, s, *p) computes the states after a step:
        x: the parts W_ih x + b_ih of the gates in the order of weight_ih, each [B, H].
        w: the recurrent products; see Recurrent.
        s: the states before the step, h first.
        p: the peepholes by gate, each [H], in a cell that has them.
    """

    step: Callable[..., tuple[Tensor, ...]]
    x: str  # the gates that have H rows each in weight_ih and bias_ih, in their order
    h: str  # in weight_hh and bias_hh
    states: int = 1
    peepholes: str = ""
    itself: str = ""  # a gate that takes x itself where weight_ih has no rows for it


Parts = Sequence[Tensor]


def lstm(x: Parts, w: Recurrent, s: Parts) -> tuple[Tensor, ...]:
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; torch.nn.LSTM.

    i = sigmoid(W_xi x + W_hi h)    g = tanh(W_xg x + W_hg h)    c' = f c + i g
    f = sigmoid(W_xf x + W_hf h)    o = sigmoid(W_xo x + W_ho h) h' = o tanh(c')
    """
    r = w(s[0], 0, 4)
    i = torch.sigmoid(x[0] + r[0])
    f = torch.sigmoid(x[1] + r[1])
    g = torch.tanh(x[2] + r[2])
    o = torch.sigmoid(x[3] + r[3])
    c = f * s[1] + i * g
    return o * torch.tanh(c), c


def lstm_i(x: Parts, w: Recurrent, s: Parts) -> tuple[Tensor, ...]:
    """LSTM without its input gate, i = 1: LSTM-i of Jozefowicz et al. 2015."""
    r = w(s[0], 0, 3)
    f = torch.sigmoid(x[0] + r[0])
    g = torch.tanh(x[1] + r[1])
    o = torch.sigmoid(x[2] + r[2])
    c = f * s[1] + g
    return o * torch.tanh(c), c


def lstm_f(x: Parts, w: Recurrent, s: Parts) -> tuple[Tensor, ...]:
    """LSTM without its forget gate, f = 1: LSTM-f of Jozefowicz et al. 2015; the LSTM of 1997."""
    r = w(s[0], 0, 3)
    i = torch.sigmoid(x[0] + r[0])
    g = torch.tanh(x[1] + r[1])
    o = torch.sigmoid(x[2] + r[2])
    c = s[1] + i * g
    return o * torch.tanh(c), c


def lstm_o(x: Parts, w: Recurrent, s: Parts) -> tuple[Tensor, ...]:
    """LSTM without its output gate, o = 1: LSTM-o of Jozefowicz et al. 2015."""
    r = w(s[0], 0, 3)
    i = torch.sigmoid(x[0] + r[0])
    f = torch.sigmoid(x[1] + r[1])
    g = torch.tanh(x[2] + r[2])
    c = f * s[1] + i * g
    return torch.tanh(c), c


def lstm_peephole(x: Parts, w: Recurrent, s: Parts, p: Parts) -> tuple[Tensor, ...]:
    """Gers & Schmidhuber 2000: the gates see c, too, i and f before the step and o after it.

    i = sigmoid(W_xi x + W_hi h + p_i c)    g = tanh(W_xg x + W_hg h)              c' = f c + i g
    f = sigmoid(W_xf x + W_hf h + p_f c)    o = sigmoid(W_xo x + W_ho h + p_o c')  h' = o tanh(c')
    """
    r = w(s[0], 0, 4)
    i = torch.sigmoid(x[0] + r[0] + p[0] * s[1])
    f = torch.sigmoid(x[1] + r[1] + p[1] * s[1])
    g = torch.tanh(x[2] + r[2])
    c = f * s[1] + i * g
    o = torch.sigmoid(x[3] + r[3] + p[2] * c)
    return o * torch.tanh(c), c


def gru(x: Parts, w: Recurrent, s: Parts) -> tuple[Tensor, ...]:
    """Cho et al. 2014 with the reset gate after the recurrent product; torch.nn.GRU.

    r = sigmoid(W_xr x + W_hr h)    n = tanh(W_xn x + r (W_hn h))
    z = sigmoid(W_xz x + W_hz h)    h' = (1 - z) n + z h
    """
    part = w(s[0], 0, 3)
    r = torch.sigmoid(x[0] + part[0])
    z = torch.sigmoid(x[1] + part[1])
    n = torch.tanh(x[2] + r * part[2])
    return ((1 - z) * n + z * s[0],)


def gru_before(x: Parts, w: Recurrent, s: Parts) -> tuple[Tensor, ...]:
    """Cho et al. 2014 as published: the reset gate acts on h before the recurrent product.

    r = sigmoid(W_xr x + W_hr h)    n = tanh(W_xn x + W_hn (r h))
    z = sigmoid(W_xz x + W_hz h)    h' = (1 - z) n + z h
    """
    part = w(s[0], 0, 2)
    r = torch.sigmoid(x[0] + part[0])
    z = torch.sigmoid(x[1] + part[1])
    n = torch.tanh(x[2] + w(r * s[0], 2, 1)[0])
    return ((1 - z) * n + z * s[0],)


def rnn_tanh(x: Parts, w: Recurrent, s: Parts) -> tuple[Tensor, ...]:
    """Elman 1990; torch.nn.RNN: h' = tanh(W_x x + W_h h)."""
    return (torch.tanh(x[0] + w(s[0], 0, 1)[0]),)


def rnn_relu(x: Parts, w: Recurrent, s: Parts) -> tuple[Tensor, ...]:
    """torch.nn.RNN with nonlinearity="relu": h' = relu(W_x x + W_h h)."""
    return (torch.relu(x[0] + w(s[0], 0, 1)[0]),)


def mut1(x: Parts, w: Recurrent, s: Parts) -> tuple[Tensor, ...]:
    """MUT1 of Jozefowicz et al. 2015. In the learned form W_xn x stands for x itself.

    r = sigmoid(W_xr x + W_hr h)    n = tanh(W_hn (r h) + tanh(x))
    z = sigmoid(W_xz x)             h' = n z + h (1 - z)
    """
    r = torch.sigmoid(x[0] + w(s[0], 0, 1)[0])
    z = torch.sigmoid(x[1])
    n = torch.tanh(w(r * s[0], 1, 1)[0] + torch.tanh(x[2]))
    return (n * z + s[0] * (1 - z),)


def mut2(x: Parts, w: Recurrent, s: Parts) -> tuple[Tensor, ...]:
    """MUT2 of Jozefowicz et al. 2015. In the learned form W_xr x stands for x itself.

    r = sigmoid(x + W_hr h)         n = tanh(W_xn x + W_hn (r h))
    z = sigmoid(W_xz x + W_hz h)    h' = n z + h (1 - z)
    """
    part = w(s[0], 0, 2)
    r = torch.sigmoid(x[0] + part[0])
    z = torch.sigmoid(x[1] + part[1])
    n = torch.tanh(x[2] + w(r * s[0], 2, 1)[0])
    return (n * z + s[0] * (1 - z),)


def mut3(x: Parts, w: Recurrent, s: Parts) -> tuple[Tensor, ...]:
    """MUT3 of Jozefowicz et al. 2015.

    r = sigmoid(W_xr x + W_hr h)          n = tanh(W_xn x + W_hn (r h))
    z = sigmoid(W_xz x + W_hz tanh(h))    h' = n z + h (1 - z)
    """
    r = torch.sigmoid(x[0] + w(s[0], 0, 1)[0])
    z = torch.sigmoid(x[1] + w(torch.tanh(s[0]), 1, 1)[0])
    n = torch.tanh(x[2] + w(r * s[0], 2, 1)[0])
    return (n * z + s[0] * (1 - z),)


CELLS = {
    "lstm": Cell(lstm, "ifgo", "ifgo", states=2),
    "lstm_i": Cell(lstm_i, "fgo", "fgo", states=2),
    "lstm_f": Cell(lstm_f, "igo", "igo", states=2),
    "lstm_o": Cell(lstm_o, "ifg", "ifg", states=2),
    "lstm_peephole": Cell(lstm_peephole, "ifgo", "ifgo", states=2, peepholes="ifo"),
    "gru": Cell(gru, "rzn", "rzn"),
    "gru_before": Cell(gru_before, "rzn", "rzn"),
    "rnn_tanh": Cell(rnn_tanh, "h", "h"),
    "rnn_relu": Cell(rnn_relu, "h", "h"),
    "mut1": Cell(mut1, "rzn", "rn", itself="n"),
    "mut2": Cell(mut2, "rzn", "rzn", itself="r"),
    "mut3": Cell(mut3, "rzn", "rzn"),
}


class Weights(NamedTuple):
    """The weights of one direction."""

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    hr: Tensor | None = None
    peephole: Tensor | None = None

    @staticmethod
    def of(cell: str, tensors: Sequence[Tensor]) -> Weights:
        """From the list that the op takes, which leaves out what there is not."""
        ih, hh, *rest = tensors
        peephole = rest.pop() if CELLS[cell].peepholes else None
        hr = rest.pop() if len(rest) % 2 else None
        bias_ih, bias_hh = rest or (None, None)
        return Weights(ih, hh, bias_ih, bias_hh, hr, peephole)


class Inputs(NamedTuple):
    """What a layer takes, in the order of the op fastrnn::scan; functional.layer explains it."""

    cell: str
    x: Tensor
    states: Sequence[Tensor]
    weights: Sequence[Tensor]
    lengths: Tensor | None = None
    batch_sizes: Tensor | None = None
    resets: Tensor | None = None
    bidirectional: bool = False
    batch_first: bool = False


class Output(NamedTuple):
    """What a layer returns.

    y: h of every step, [T, B, D * P]; [B, T, D * P] with batch_first; [N, D * P] if packed.
    last: the states after each row's last step, [D, B, P] for h, [D, B, H] for the others.
    steps: the states but h after every step, like y with H for P, in float32 for 16-bit types;
        None unless they were asked for.
    """

    y: Tensor
    last: tuple[Tensor, ...]
    steps: tuple[Tensor, ...] | None


def scan(inputs: Inputs) -> Output:
    """What the op fastrnn::scan computes, with all steps, which are of the type of x here."""
    x, resets = inputs.x, inputs.resets
    if inputs.batch_sizes is not None:
        return _packed(inputs, inputs.batch_sizes)
    if x.dim() == 2:  # a single step
        inputs = inputs._replace(
            x=x[None],
            states=[s[None] for s in inputs.states],
            resets=None if resets is None else resets[None],
            bidirectional=False,
            batch_first=False,
        )
        y, last, steps = scan(inputs)
        assert steps is not None
        return Output(y[0], tuple(s[0] for s in last), tuple(s[0] for s in steps))
    return by_direction(inputs, _direction)


def step(inputs: Inputs) -> tuple[Tensor, ...]:
    """The states after a single step, with sizes of 0, too."""
    own = Weights.of(inputs.cell, inputs.weights)
    if own.hh.shape[1]:
        return scan(inputs).last
    # Without hidden units all blocks are alike: they have no rows.
    states = inputs.states or [inputs.x.new_zeros(len(inputs.x), 0)] * CELLS[inputs.cell].states
    gates = linear(inputs.x, own.ih, own.bias_ih) + linear(states[0], own.hh, own.bias_hh)
    return tuple(gates + s for s in states)


Run = tuple[Sequence[Tensor], Sequence[Tensor]]


def by_direction(inputs: Inputs, run: Callable[[Inputs, int], Run]) -> Output:
    """A padded batch by run, which takes one direction and its number: x [T, B, I], its own initial
    states, [B, P] and [B, H], and weights, and as resets where it starts over, see starts_over. It
    returns all states of every step, [T, B, P] and [T, B, H], and the last ones.
    """
    if inputs.batch_first:
        x, resets = inputs.x.transpose(0, 1), inputs.resets
        resets = None if resets is None else resets.transpose(0, 1)
        y, last, steps = by_direction(inputs._replace(x=x, resets=resets, batch_first=False), run)
        assert steps is not None
        return Output(y.transpose(0, 1), last, tuple(s.transpose(0, 1) for s in steps))
    x, resets, lengths = inputs.x, inputs.resets, inputs.lengths
    directions = 2 if inputs.bidirectional else 1
    count = len(inputs.weights) // directions
    runs = []
    for d in range(directions):
        one = inputs._replace(
            states=[s[d] for s in inputs.states] or zeros(inputs),
            weights=inputs.weights[d * count :][:count],
            resets=None if resets is None else starts_over(resets, lengths, d),
            bidirectional=False,
        )
        runs.append(run(one, d))
    y, *steps = (torch.cat(parts, -1) for parts in zip(*(every for every, _ in runs), strict=True))
    last = tuple(torch.stack(parts) for parts in zip(*(end for _, end in runs), strict=True))
    return Output(y, last, tuple(steps))


def zeros(inputs: Inputs) -> list[Tensor]:
    """The initial states of one direction where none are given, [B, P] and [B, H]."""
    hh, form = inputs.weights[1], CELLS[inputs.cell]
    sizes = [hh.shape[1]] + [hh.shape[0] // len(form.h)] * (form.states - 1)
    return [inputs.x.new_zeros(inputs.x.shape[1], size) for size in sizes]


def starts_over(resets: Tensor, lengths: Tensor | None, direction: int) -> Tensor:
    """Before which steps a direction comes from another episode, [T, B].

    The reverse one goes through an episode from its last step on, which is the one before the next
    episode's first. Behind the end of a row there is no episode.
    """
    if not direction:
        return resets
    after = torch.cat([resets[1:], torch.zeros_like(resets[:1])])
    if lengths is None:
        return after
    times = torch.arange(1, resets.shape[0] + 1, device=resets.device)[:, None]
    return after & (times < lengths.to(resets.device))


def _direction(inputs: Inputs, direction: int) -> Run:
    form, x, lengths, resets = CELLS[inputs.cell], inputs.x, inputs.lengths, inputs.resets
    own = Weights.of(inputs.cell, inputs.weights)
    states: Sequence[Tensor] = inputs.states
    hidden_size = own.hh.shape[0] // len(form.h)
    blocks = own.ih.shape[0] // hidden_size
    peepholes = () if own.peephole is None else (own.peephole.chunk(len(form.peepholes)),)

    @cache
    def rows(first: int, count: int) -> Sequence[Tensor]:
        both = slice(first * hidden_size, (first + count) * hidden_size)
        return [w[both] for w in (own.hh, own.bias_hh) if w is not None]

    def recurrent(operand: Tensor, first: int, count: int) -> Sequence[Tensor]:
        return linear(operand, *rows(first, count)).chunk(count, -1)

    every: list[Sequence[Tensor]] = [()] * len(x)
    for t in reversed(range(len(x))) if direction else range(len(x)):
        before = states
        if resets is not None:
            before = [torch.where(resets[t][:, None], torch.zeros_like(s), s) for s in states]
        from_x = list(linear(x[t], own.ih, own.bias_ih).chunk(blocks, -1))
        if blocks < len(form.x):
            from_x.insert(form.x.index(form.itself), x[t])
        after = form.step(from_x, recurrent, before, *peepholes)
        if own.hr is not None:
            after = (linear(after[0], own.hr), *after[1:])
        every[t] = after
        if lengths is not None:
            runs = (lengths.to(x.device) > t)[:, None]
            every[t] = [torch.where(runs, s, torch.zeros_like(s)) for s in after]
            after = [torch.where(runs, s, old) for s, old in zip(after, states, strict=True)]
        states = after
    return [torch.stack(parts) for parts in zip(*every, strict=True)], states


def _packed(inputs: Inputs, batch_sizes: Tensor) -> Output:
    """A packed batch, as the padded one that it stands for."""
    sizes = batch_sizes.tolist()
    times = torch.repeat_interleave(torch.arange(len(sizes)), batch_sizes)
    rows = torch.cat([torch.arange(size) for size in sizes])

    def pad(data: Tensor) -> Tensor:
        padded = data.new_zeros(len(sizes), sizes[0], *data.shape[1:])
        return padded.index_put((times.to(data.device), rows.to(data.device)), data)

    y, last, steps = scan(
        inputs._replace(
            x=pad(inputs.x),
            lengths=torch.bincount(rows),
            batch_sizes=None,
            resets=None if inputs.resets is None else pad(inputs.resets),
            batch_first=False,
        )
    )
    assert steps is not None
    return Output(y[times, rows], last, tuple(s[times, rows] for s in steps))
