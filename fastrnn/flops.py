"""What torch.utils.flop_counter counts of the ops: their matrix products, of all phases of a cell.

A product of a matrix of R rows and K columns is 2 R K floating-point operations for each step of
each row of the batch, padding included: the counter sees shapes, and no lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

Shape = Sequence[int]


def _steps(x: Shape) -> int:
    """Of all rows."""
    return prod(x[:-1])


def _matrices(weights: Sequence[Shape]) -> int:
    return sum(prod(shape) for shape in weights if len(shape) == 2)


def _forward(x: Shape, weights: Sequence[Shape]) -> int:
    """Every weight once for each step of its direction."""
    return 2 * _steps(x) * _matrices(weights)


def _backward(x: Shape, weights: Sequence[Shape], each: int, needs: Sequence[bool]) -> int:
    """The gradients of the states go through all recurrent weights, that of x through weight_ih,
    which is the first of each direction's, and those of the weights take as many products as
    forward."""
    needs_x, _, needs_weights = needs
    from_x, all_ = _matrices(weights[::each]), _matrices(weights)
    return 2 * _steps(x) * (all_ - from_x + needs_x * from_x + needs_weights * all_)


def _backward_of(
    grads: Any,
    cell: str,
    x: Any,
    states: Any,
    weights: Sequence[Shape],
    lengths: Any,
    batch_sizes: Any,
    resets: Any,
    bidirectional: bool,
    batch_first: bool,
    outputs: Any,
    *needs: bool,
    members: int = 1,
    **_: Any,
) -> int:
    """Of the arguments of an op, which may have members side by side."""
    each = len(weights) // members // (2 if bidirectional else 1)
    return _backward(x, weights, each, needs[:3])


@register_flop_formula(torch.ops.fastrnn.scan)
def _(cell: str, x: Shape, states: Any, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    return _forward(x, weights)


@register_flop_formula(torch.ops.fastrnn.scan_each)
def _(cell: str, x: Any, states: Any, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    return _forward(x[0], weights)


@register_flop_formula(torch.ops.fastrnn.scan_backward)
def _(*args: Any, **how: Any) -> int:
    return _backward_of(*args, **how)


@register_flop_formula(torch.ops.fastrnn.scan_each_backward)
def _(*args: Any, **how: Any) -> int:
    x = args[2]
    return _backward_of(*args[:2], x[0], *args[3:], **how, members=len(x))


@register_flop_formula(torch.ops.fastrnn.recompute_backward)
def _(
    grads: Any, cell: str, x: Shape, states: Any, weights: Sequence[Shape], *args: Any, **how: Any
) -> int:
    """Forward once more, and the gradients."""
    return _forward(x, weights) + _backward_of(grads, cell, x, states, weights, *args, **how)
