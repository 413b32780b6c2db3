"""The gradient of a layer that has kept states only: backward by parts of its steps.

The kernels' backward needs what forward saved of every step, which takes several times as much
memory as the output. Here a part of the steps is computed anew from the states before it, its
gradient follows, and what was saved for it is forgotten before the next part. Directions go one
after the other, because each begins with the part that the other one ends with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .reference import Inputs, starts_over

PARTS = 12
SCHEMA = (
    "(Tensor?[] grads, str cell, Tensor x, Tensor[] states, Tensor[] weights, Tensor? lengths, "
    "Tensor? batch_sizes, Tensor? resets, bool bidirectional, bool batch_first, Tensor[] outputs, "
    "bool needs_x, bool needs_states, bool needs_weights, bool allow_tf32=False) -> Tensor[]"
)


class _Padded:
    """The steps of a padded batch."""

    def __init__(self, t: Tensor, lengths: Tensor | None, batch_first: bool) -> None:
        self.lengths, self._batch_first = lengths, batch_first
        self.steps = t.shape[1 if batch_first else 0]

    def part(self, t: Tensor, begin: int, end: int) -> Tensor:
        """Some steps of a sequence, [steps, B, features]."""
        return (t.transpose(0, 1) if self._batch_first else t)[begin:end]

    def add(self, t: Tensor, begin: int, end: int, part: Tensor) -> None:
        self.part(t, begin, end).add_(part)


class _Packed:
    """The steps of a packed batch, as those of the padded one that it stands for."""

    def __init__(self, t: Tensor, batch_sizes: Tensor) -> None:
        self.steps, rows = len(batch_sizes), torch.arange(int(batch_sizes[0]))
        runs = rows < batch_sizes[:, None]
        self.lengths = runs.sum(0)
        first = batch_sizes.cumsum(0) - batch_sizes
        self._places = (first[:, None] + rows).where(runs, 0).to(t.device)
        self._runs = runs.to(t.device)

    def part(self, t: Tensor, begin: int, end: int) -> Tensor:
        runs, found = self._runs[begin:end], t[self._places[begin:end]]
        return found.masked_fill(~runs.view(*runs.shape, *[1] * (found.dim() - 2)), 0)

    def add(self, t: Tensor, begin: int, end: int, part: Tensor) -> None:
        runs = self._runs[begin:end]
        t.index_add_(0, self._places[begin:end][runs], part[runs])


def _steps_of(
    t: Tensor, lengths: Tensor | None, batch_sizes: Tensor | None, batch_first: bool
) -> _Padded | _Packed:
    if batch_sizes is not None:
        return _Packed(t, batch_sizes)
    return _Padded(t, lengths, batch_first)


def _edges(steps: int) -> list[int]:
    """Where parts begin and end. Of few steps, some parts have none."""
    return [steps * i // PARTS for i in range(PARTS + 1)]


def states_at_edges(
    states: Tensor, batch_sizes: Tensor | None, batch: int, bidirectional: bool, batch_first: bool
) -> Tensor:
    """Of a state after every step, [T, B, D * H], what is before the parts in each direction,
    [PARTS - 1, D, B, H]: at edge i, of direction 0 before part i, of direction 1 before i - 1."""
    sequence = _steps_of(states, None, batch_sizes, batch_first)
    parts = states.chunk(2 if bidirectional else 1, -1)
    found = []
    for edge in _edges(sequence.steps)[1:-1]:
        places = (max(edge - 1, 0), edge)
        found += [sequence.part(t, at, at + 1)[0] for t, at in zip(parts, places)]
    return torch.stack(found).unflatten(0, (PARTS - 1, len(parts)))


def backward(
    grads: Sequence[Tensor | None],
    cell: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    batch_sizes: Tensor | None,
    resets: Tensor | None,
    bidirectional: bool,
    batch_first: bool,
    outputs: Sequence[Tensor],
    needs_x: bool,
    needs_states: bool,
    needs_weights: bool,
    allow_tf32: bool = False,
) -> list[Tensor]:
    """fastrnn::scan_backward, but its outputs are y and the states 1 and on at the parts' edges. It
    takes no single step."""
    sequence = _steps_of(x, lengths, batch_sizes, batch_first)
    if resets is not None:
        resets = sequence.part(resets, 0, sequence.steps)
    (y, *kept), directions, count = outputs, 2 if bidirectional else 1, len(outputs)
    each = len(weights) // directions
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    # Directions are added up before they are rounded.
    grad_x = x.new_zeros(x.shape, dtype=compute if bidirectional else None) if needs_x else None
    grad_states, grad_weights = [], []
    for d in range(directions):
        own = Inputs(
            cell,
            x,
            [s[d] for s in states],
            weights[d * each :][:each],
            sequence.lengths,
            resets=None if resets is None else starts_over(resets, sequence.lengths, d),
        )
        of_steps = (grads[0], *grads[1 + count :])
        one = _Direction(
            own,
            sequence,
            d,
            [y.chunk(directions, -1)[d], *(t[:, d] for t in kept)],
            [None if g is None else g.chunk(directions, -1)[d] for g in of_steps],
        )
        last = [None if g is None else g[d][None] for g in grads[1 : 1 + count]]
        found, sums = one.run(last, grad_x, needs_weights, allow_tf32)
        grad_states.append(found)
        grad_weights += sums
    results = [] if grad_x is None else [grad_x.to(x.dtype)]
    if needs_states:
        results += map(torch.cat, zip(*grad_states, strict=True))
    return results + [g.to(x.dtype) for g in grad_weights]


class _Direction:
    """One direction of a call, which goes through its steps from the first or the last one."""

    def __init__(
        self,
        call: Inputs,
        sequence: _Padded | _Packed,
        direction: int,
        kept: Sequence[Tensor],
        grads: Sequence[Tensor | None],
    ) -> None:
        self._call, self._sequence, self._reverse = call, sequence, direction == 1
        (self._y, *self._kept), self._grads = kept, grads

    def run(
        self,
        last: list[Any],  # tensors or None
        grad_x: Tensor | None,
        needs_weights: bool,
        allow_tf32: bool,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """From the gradients of the last states, [1, B, features] each, those of the initial states
        and of the weights, which are summed in float32 at least. Adds that of x to grad_x."""
        call, carry, sums = self._call, last, []
        parts = list(enumerate(pairwise(_edges(self._sequence.steps))))
        for i, (begin, end) in parts if self._reverse else reversed(parts):
            if begin == end:
                continue
            before = self._before(i + 1, end) if self._reverse else self._before(i, begin - 1)
            lengths, turn = self._turned(begin, end)
            x, *grads = (
                None if t is None else turn(self._sequence.part(t, begin, end))
                for t in (call.x, *self._grads)
            )
            resets = None if call.resets is None else turn(call.resets[begin:end])
            given = (call.cell, x, before, call.weights, lengths, None, resets)
            how = (False, False)
            out = torch.ops.fastrnn.scan(*given, *how, True, allow_tf32)
            outputs = [out[0], *out[1 + len(carry) :]]
            found = torch.ops.fastrnn.scan_backward(
                *([grads[0], *carry, *grads[1:]], *given, *how, outputs),
                *(grad_x is not None, True, needs_weights, allow_tf32),
            )
            if grad_x is not None:
                self._sequence.add(grad_x, begin, end, turn(found.pop(0)))
            carry, found = found[: len(carry)], found[len(carry) :]
            if sums:
                for total, part in zip(sums, found, strict=True):
                    total.add_(part)
            else:
                sums = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in found]
        return carry, sums

    def _turned(self, begin: int, end: int) -> tuple[Tensor | None, Callable[[Tensor], Tensor]]:
        """The rows' lengths within a part; and what reverses each row up to its end, where the
        direction does so. It is its own inverse."""
        lengths = self._call.lengths
        if lengths is not None:
            lengths = (lengths - begin).clamp(0, end - begin)
        if not self._reverse:
            return lengths, lambda t: t
        if lengths is None:
            return None, lambda t: t.flip(0)
        times = torch.arange(end - begin)[:, None]
        turned = torch.where(times < lengths, lengths - 1 - times, times)
        turned = turned.to(self._call.x.device, non_blocking=True)

        def turn(t: Tensor) -> Tensor:
            return t.gather(0, turned.view(*turned.shape, *[1] * (t.dim() - 2)).expand_as(t))

        return lengths, turn

    def _before(self, edge: int, at: int) -> list[Tensor]:
        """The states before a part, [1, B, features]: at an edge, after step `at`."""
        call = self._call
        if not 0 <= at < self._sequence.steps:
            return [s[None] for s in call.states]
        found = [self._sequence.part(self._y, at, at + 1)]
        found += [t[edge - 1][None].to(call.x.dtype) for t in self._kept]
        if not self._reverse or call.lengths is None:
            return found
        # Where a row ends before the part does, the direction begins in it.
        runs = (call.lengths > at)[:, None].to(call.x.device, non_blocking=True)
        initial = call.states or [torch.zeros_like(s[0]) for s in found]
        return [torch.where(runs, s, i) for s, i in zip(found, initial, strict=True)]


_library = torch.library.Library("fastrnn", "FRAGMENT")
_library.define(
    "states_at_edges(Tensor states, Tensor? batch_sizes, SymInt batch, bool bidirectional, "
    "bool batch_first) -> Tensor"
)
_library.impl("states_at_edges", torch.no_grad()(states_at_edges), "CompositeExplicitAutograd")
_library.define(f"recompute_backward{SCHEMA}")
_library.impl("recompute_backward", torch.no_grad()(backward), "CompositeExplicitAutograd")
