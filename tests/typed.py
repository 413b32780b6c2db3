"""The layers as a type checker sees them. Nothing here runs: pyright reads it."""

from __future__ import annotations

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from typing_extensions import assert_type

import fastrnn

Pair = tuple[Tensor, Tensor]


def constructors() -> None:
    fastrnn.LSTM(1, 2, peephole=True, recompute=True)
    fastrnn.LSTM(1, 2, reset_after=False)  # pyright: ignore[reportCallIssue]
    fastrnn.GRU(1, 2, gates="io")  # pyright: ignore[reportCallIssue]
    fastrnn.RNN(1, 2, learned_input=True)  # pyright: ignore[reportCallIssue]
    fastrnn.MUT1(1, 2, reset_after=False)  # pyright: ignore[reportCallIssue]
    fastrnn.MUT3(1, 2, learned_input=True)  # pyright: ignore[reportCallIssue]
    fastrnn.LSTMCell(1, 2, recompute=True)  # pyright: ignore[reportCallIssue]


def lstm(layer: fastrnn.LSTM, x: Tensor, packed: PackedSequence, hx: Pair, n: Tensor) -> None:
    assert_type(layer.forward(x), tuple[Tensor, Pair])
    assert_type(layer.forward(x, hx, lengths=n, return_states=False), tuple[Tensor, Pair])
    assert_type(layer.forward(packed, hx), tuple[PackedSequence, Pair])
    assert_type(layer.forward(x, return_states=True), tuple[Tensor, Pair, Pair])
    layer.forward(x, resets=n, reset_to=hx)
    layer.forward(x, x)  # pyright: ignore[reportCallIssue, reportArgumentType]
    layer.forward(packed, lengths=n)  # pyright: ignore[reportArgumentType]
    layer.forward(x, reset_to="ones")  # pyright: ignore[reportArgumentType]


def others(
    layer: fastrnn.GRU | fastrnn.RNN | fastrnn.MUT1 | fastrnn.MUT2 | fastrnn.MUT3,
    x: Tensor,
    packed: PackedSequence,
    hx: Tensor,
) -> None:
    assert_type(layer.forward(x, hx), tuple[Tensor, Tensor])
    assert_type(layer.forward(packed), tuple[PackedSequence, Tensor])
    assert_type(layer.forward(x, return_states=True), tuple[Tensor, Tensor, Tensor])
    layer.forward(x, (hx, hx))  # pyright: ignore[reportCallIssue, reportArgumentType]


def cells(
    lstm: fastrnn.LSTMCell,
    others: fastrnn.GRUCell | fastrnn.RNNCell | fastrnn.MUT1Cell | fastrnn.MUT3Cell,
    x: Tensor,
    hx: Pair,
) -> None:
    assert_type(lstm.forward(x, hx), Pair)
    assert_type(others.forward(x), Tensor)
    lstm.forward(x, x)  # pyright: ignore[reportArgumentType]
    others.forward(x, hx)  # pyright: ignore[reportArgumentType]
