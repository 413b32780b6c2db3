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


@register_flop_formula(torch.ops.fastrnn.scan)
def scan(cell: str, x: Shape, states: Any, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    """Every weight once for each step of its direction."""
    return 2 * _steps(x) * _matrices(weights)


@register_flop_formula(torch.ops.fastrnn.scan_backward)
def scan_backward(
    grads: Any,
    cell: str,
    x: Shape,
    states: Any,
    weights: Sequence[Shape],
    lengths: Any,
    batch_sizes: Any,
    resets: Any,
    bidirectional: bool,
    batch_first: bool,
    outputs: Any,
    needs_x: bool,
    needs_states: bool,
    needs_weights: bool,
    *_: Any,
    **__: Any,
) -> int:
    """The gradients of the states go through all recurrent weights, that of x through weight_ih,
    and those of the weights take as many products as forward."""
    each = len(weights) // (2 if bidirectional else 1)
    from_x, all_ = _matrices(weights[::each]), _matrices(weights)
    return 2 * _steps(x) * (all_ - from_x + needs_x * from_x + needs_weights * all_)
