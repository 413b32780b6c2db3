"""Exported programs that run without fastrnn: decompositions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from . import reference, sequences
from .reference import CELLS, Inputs, Run, Weights

__all__ = ["decompositions"]


def decompositions(target: Literal["aten", "loop"] = "aten") -> dict[Any, Callable[..., Any]]:
    """What the layers of an exported program become in torch's own operators.

        program = torch.export.export(model.eval(), args).run_decompositions(
            fastrnn.export.decompositions()
        )

    is a program that torch, or what takes torch's programs, runs without fastrnn. The results are
    equal but for rounding; 16-bit types compute in float32. To decompose other operators, too:
    torch.export.default_decompositions() | fastrnn.export.decompositions().

    Args:
        target: "aten" unrolls the steps, of which there must be a fixed number: a step is some
            twenty operators. "loop" makes a torch.ops.higher_order.scan of each direction of a
            layer, for any number of steps, fixed or dynamic. Run it under torch.no_grad(): torch
            traces the gradient of such a loop in every call, which takes seconds.

    The functions raise:
        RuntimeError: "aten" with a dynamic number of steps; a packed batch; weights of int8.
    """
    if target not in _LOOPS:
        raise ValueError(f"target must be 'aten' or 'loop', got {target!r}")
    loop = _LOOPS[target]

    def scan(*args: Any, **kwargs: Any) -> list[Tensor]:
        return _scan(loop, *args, **kwargs)

    return {torch.ops.fastrnn.scan.default: scan, torch.ops.fastrnn.scan_int8.default: _scan_int8}


def _scan_int8(cell: str, *_: Any) -> None:
    raise RuntimeError(f"weights of int8 have no decomposition, here of the cell {cell}")


# A step takes the states, what there is of the step (the parts W_ih x + b_ih, and masks) and the
# weights, all flat, and returns the states after it and what to keep of it.
Step = Callable[..., tuple[Tensor, ...]]
Loop = Callable[[Step, Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]


def _unrolled(
    step: Step, states: Sequence[Tensor], xs: Sequence[Tensor], weights: Sequence[Tensor]
) -> Sequence[Tensor]:
    steps, count = xs[0].shape[0], len(states)
    if not isinstance(steps, int):
        raise RuntimeError(
            "the number of steps is dynamic, and target='aten' unrolls them: "
            "fastrnn.export.decompositions(target='loop') does not"
        )
    kept = []
    for t in range(steps):
        out = step(*states, *(x[t] for x in xs), *weights)
        states = out[:count]
        kept.append(out[count:])
    return [*states, *map(torch.stack, zip(*kept, strict=True))]


def _looped(
    step: Step, states: Sequence[Tensor], xs: Sequence[Tensor], weights: Sequence[Tensor]
) -> Sequence[Tensor]:
    return torch.ops.higher_order.scan(step, [*states], [*xs], tuple(weights))


_LOOPS: dict[str, Loop] = {"aten": _unrolled, "loop": _looped}


def _scan(
    loop: Loop, *args: Any, allow_tf32: bool = False, all_states: bool = False
) -> list[Tensor]:
    """fastrnn::scan in torch's operators."""
    inputs, (save, *flags) = Inputs(*args[: len(Inputs._fields)]), args[len(Inputs._fields) :]
    all_states = save or all_states or flags[1:] == [True]
    x = inputs.x
    if inputs.batch_sizes is not None:
        raise RuntimeError(
            "a packed batch has no decomposition: export a padded one and its lengths"
        )
    single = x.dim() == 2
    if single:
        states = [s[None] for s in inputs.states]
        resets = None if inputs.resets is None else inputs.resets[None]
        inputs = inputs._replace(
            x=x[None], states=states, resets=resets, bidirectional=False, batch_first=False
        )
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    inputs = inputs._replace(
        x=inputs.x.to(compute),
        states=[s.to(compute) for s in inputs.states],
        weights=[w.to(compute) for w in inputs.weights],
    )
    out = reference.by_direction(inputs, partial(_direction, loop, all_states))
    assert out.steps is not None
    # What the op returns is contiguous, and what follows may count on it.
    found = [out.y.to(x.dtype).contiguous(), *(s.to(x.dtype) for s in out.last)]
    found += [s.contiguous() for s in out.steps]
    if single:
        found = [t[0] for t in found]
    # With save there is one more, for a backward pass, which an exported program does not have.
    return [*found, x.new_empty(0)] if save else found


def _direction(loop: Loop, all_states: bool, one: Inputs, direction: int) -> Run:
    """One direction, as reference.by_direction asks for it, with all states of every step or with
    h only."""
    form, own = CELLS[one.cell], Weights.of(one.cell, one.weights)
    hidden_size = own.hh.shape[0] // len(form.h)
    blocks = own.ih.shape[0] // hidden_size
    masks = []
    if one.lengths is not None:
        runs = sequences.running(one.lengths.to(one.x.device), one.x.shape[0])
        masks.append(runs[..., None])
    if one.resets is not None:
        masks.append(one.resets[..., None])
    xs = [linear(one.x, own.ih, own.bias_ih), *masks]
    if blocks < len(form.x):
        xs.append(one.x)
    if direction:
        xs = [x.flip(0) for x in xs]
    recurrent = [w for w in (own.hh, own.bias_hh, own.hr, own.peephole) if w is not None]

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        states = [next(given) for _ in range(form.states)]
        from_x = list(next(given).chunk(blocks, -1))
        runs = None if one.lengths is None else next(given)
        starts = None if one.resets is None else next(given)
        if blocks < len(form.x):
            from_x.insert(form.x.index(form.itself), next(given))
        hh = next(given)
        bias_hh, hr, peephole = (
            None if w is None else next(given) for w in (own.bias_hh, own.hr, own.peephole)
        )
        peepholes = () if peephole is None else (peephole.chunk(len(form.peepholes)),)

        def products(operand: Tensor, first: int, count: int) -> Sequence[Tensor]:
            rows = slice(first * hidden_size, (first + count) * hidden_size)
            bias = None if bias_hh is None else bias_hh[rows]
            return linear(operand, hh[rows], bias).chunk(count, -1)

        before = states
        if starts is not None:
            before = [torch.where(starts, 0.0, s) for s in states]
        after = form.step(from_x, products, before, *peepholes)
        if hr is not None:
            after = (linear(after[0], hr), *after[1:])
        kept = after if all_states else after[:1]
        if runs is not None:
            kept = [torch.where(runs, s, 0.0) for s in kept]
            after = [torch.where(runs, s, old) for s, old in zip(after, states, strict=True)]
        return (*after, *(s.clone() for s in kept))  # a loop's results must not share memory

    out = loop(step, one.states, xs, recurrent)
    last, every = out[: form.states], out[form.states :]
    return [s.flip(0) for s in every] if direction else every, last
