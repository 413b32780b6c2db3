"""Every cell in plain PyTorch, line by line the equations: the yardstick of all tests.

Slow, differentiable to any order, and without any knowledge of the kernels. It also computes the
derivatives that the kernels do not have: the second ones, and forward-mode tangents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

Step = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, ...]]


class Cell(NamedTuple):
    """A cell's equations, its gates per hidden unit, and its states, of which the first is h."""

    step: Step
    gates: int
    states: int


def lstm(x: Sequence[Tensor], r: Sequence[Tensor], s: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; torch.nn.LSTM.

    x, r: the gates' parts W_ih x + b_ih and W_hh h + b_hh, in the order i f g o, each [B, H].
    s: the states (h, c) before the step. Returns those after it.
    """
    i = torch.sigmoid(x[0] + r[0])
    f = torch.sigmoid(x[1] + r[1])
    g = torch.tanh(x[2] + r[2])
    o = torch.sigmoid(x[3] + r[3])
    c = f * s[1] + i * g
    return o * torch.tanh(c), c


def gru(x: Sequence[Tensor], r: Sequence[Tensor], s: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Cho et al. 2014 with the reset gate after the recurrent product; torch.nn.GRU.

    Arguments as of lstm, in the order r z n, with the one state h.
    """
    reset = torch.sigmoid(x[0] + r[0])
    update = torch.sigmoid(x[1] + r[1])
    new = torch.tanh(x[2] + reset * r[2])
    return ((1 - update) * new + update * s[0],)


def rnn_tanh(x: Sequence[Tensor], r: Sequence[Tensor], s: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Elman 1990; torch.nn.RNN."""
    return (torch.tanh(x[0] + r[0]),)


def rnn_relu(x: Sequence[Tensor], r: Sequence[Tensor], s: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """torch.nn.RNN with nonlinearity="relu"."""
    return (torch.relu(x[0] + r[0]),)


CELLS = {
    "lstm": Cell(lstm, gates=4, states=2),
    "gru": Cell(gru, gates=3, states=1),
    "rnn_tanh": Cell(rnn_tanh, gates=1, states=1),
    "rnn_relu": Cell(rnn_relu, gates=1, states=1),
}


def scan(
    cell: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    lengths: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    resets: Tensor | None = None,
    bidirectional: bool = False,
    batch_first: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """What the op fastrnn::scan computes; see fastrnn.ops.scan for the arguments.

    Returns y, the last states, and the states 1 and on of every step.
    """
    if batch_sizes is not None:
        return _packed(cell, x, states, weights, batch_sizes, resets, bidirectional)
    if x.dim() == 2:  # a single step
        step_resets = None if resets is None else resets[None]
        initial = [s[None] for s in states]
        y, last, steps = scan(cell, x[None], initial, weights, lengths, None, step_resets)
        return y[0], tuple(s[0] for s in last), tuple(s[0] for s in steps)
    if batch_first:
        x = x.transpose(0, 1)
        resets = None if resets is None else resets.transpose(0, 1)
    directions = 2 if bidirectional else 1
    count = len(weights) // directions
    runs = [
        _direction(
            cell, x, [s[d] for s in states], weights[d * count :][:count], lengths, resets, d == 1
        )
        for d in range(directions)
    ]
    sequences = [torch.cat(parts, -1) for parts in zip(*(every for every, _ in runs), strict=True)]
    if batch_first:
        sequences = [s.transpose(0, 1) for s in sequences]
    last = tuple(torch.stack(parts) for parts in zip(*(end for _, end in runs), strict=True))
    return sequences[0], last, tuple(sequences[1:])


def _direction(
    cell: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
) -> tuple[list[Tensor], Sequence[Tensor]]:
    """One direction. Returns all states of every step, [T, B, features], and the last ones."""
    step, gates, count = CELLS[cell]
    w_ih, w_hh, *rest = weights
    b_ih, b_hh = rest[:2] if len(rest) >= 2 else (None, None)
    w_hr = rest[-1] if len(rest) % 2 else None
    steps, batch = x.shape[:2]
    if not states:
        sizes = [w_hh.shape[1]] + [w_hh.shape[0] // gates] * (count - 1)
        states = [x.new_zeros(batch, size) for size in sizes]
    every: list[Sequence[Tensor]] = [()] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        before = states
        if resets is not None:
            before = [torch.where(resets[t][:, None], torch.zeros_like(s), s) for s in states]
        from_x = linear(x[t], w_ih, b_ih).chunk(gates, -1)
        from_h = linear(before[0], w_hh, b_hh).chunk(gates, -1)
        after = step(from_x, from_h, before)
        if w_hr is not None:
            after = (linear(after[0], w_hr), *after[1:])
        every[t] = after
        if lengths is not None:
            runs = (lengths.to(x.device) > t)[:, None]
            every[t] = [torch.where(runs, s, torch.zeros_like(s)) for s in after]
            after = [torch.where(runs, s, old) for s, old in zip(after, states, strict=True)]
        states = after
    return [torch.stack(parts) for parts in zip(*every, strict=True)], states


def _packed(
    cell: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    batch_sizes: Tensor,
    resets: Tensor | None,
    bidirectional: bool,
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
    """A packed batch, as the padded one that it stands for."""
    sizes = batch_sizes.tolist()
    times = torch.repeat_interleave(torch.arange(len(sizes)), batch_sizes)
    rows = torch.cat([torch.arange(size) for size in sizes])
    lengths = torch.bincount(rows)

    def pad(data: Tensor) -> Tensor:
        padded = data.new_zeros(len(sizes), sizes[0], *data.shape[1:])
        return padded.index_put((times.to(x.device), rows.to(x.device)), data)

    mask = None if resets is None else pad(resets)
    y, last, steps = scan(
        cell, pad(x), states, weights, lengths, None, mask, bidirectional=bidirectional
    )
    return y[times, rows], last, tuple(s[times, rows] for s in steps)
