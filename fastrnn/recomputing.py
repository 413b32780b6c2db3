"""The gradient of a layer that has kept its states only: backward by parts of its steps.

The kernels' backward needs what forward saved of every step's gates, which takes several times as
much memory as the states. Here a part of the steps is computed anew from the states before it, its
gradient follows, and what was saved for it is forgotten before the next part. Directions go one
after the other, because each begins with the part that the other one ends with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .reference import Inputs, starts_over

PARTS = 8
SCHEMA = (
    "(Tensor?[] grads, str cell, Tensor x, Tensor[] states, Tensor[] weights, Tensor? lengths, "
    "Tensor? batch_sizes, Tensor? resets, bool bidirectional, bool batch_first, Tensor[] outputs, "
    "bool needs_x, bool needs_states, bool needs_weights, bool allow_tf32=False) -> Tensor[]"
)


class _Padded:
    """A part of a sequence's steps, [steps, B, features]."""

    def __init__(self, call: Inputs) -> None:
        self._batch_first = call.batch_first
        self.lengths = call.lengths
        x = self.steps_of(call.x)
        self.steps, self.batch = x.shape[:2]

    def steps_of(self, t: Tensor) -> Tensor:
        return t.transpose(0, 1) if self._batch_first else t

    def part(self, t: Tensor, begin: int, end: int) -> Tensor:
        return self.steps_of(t)[begin:end]

    def add(self, t: Tensor, begin: int, end: int, part: Tensor) -> None:
        self.part(t, begin, end).add_(part)


class _Packed:
    """The same of a packed batch, which has lengths in its place."""

    def __init__(self, call: Inputs) -> None:
        sizes = call.batch_sizes
        self.steps, self.batch = len(sizes), int(sizes[0])
        rows, device = torch.arange(self.batch), call.x.device
        runs = rows < sizes[:, None]
        self.lengths = runs.sum(0)
        self._places = ((sizes.cumsum(0) - sizes)[:, None] + rows).where(runs, 0).to(device)
        self._runs = runs.to(device)

    def part(self, t: Tensor, begin: int, end: int) -> Tensor:
        runs = self._runs[begin:end]
        found = t[self._places[begin:end]]
        return found.masked_fill(~runs.view(*runs.shape, *[1] * (found.dim() - 2)), 0)

    def add(self, t: Tensor, begin: int, end: int, part: Tensor) -> None:
        runs = self._runs[begin:end]
        t.index_add_(0, self._places[begin:end][runs], part[runs])


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
    """fastrnn::scan_backward, of outputs without the saved values: y, and the states 1 and on of
    every step. It takes no single step."""
    call = Inputs(
        cell, x, states, weights, lengths, batch_sizes, resets, bidirectional, batch_first
    )
    sequence = _Padded(call) if batch_sizes is None else _Packed(call)
    if resets is not None:
        resets = sequence.part(resets, 0, sequence.steps)
    directions, count = 2 if bidirectional else 1, len(outputs)
    each = len(weights) // directions
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    # Directions are added up before they are rounded.
    grad_x = x.new_zeros(x.shape, dtype=compute if bidirectional else None) if needs_x else None
    grad_states, grad_weights = [], []
    for d in range(directions):
        one = _Direction(
            call._replace(
                states=[s[d] for s in states],
                weights=weights[d * each :][:each],
                lengths=sequence.lengths,
                resets=None if resets is None else starts_over(resets, sequence.lengths, d),
            ),
            sequence,
            d,
            [t.chunk(directions, -1)[d] for t in outputs],
            [None if g is None else g.chunk(directions, -1)[d] for g in _of_steps(grads, count)],
        )
        last = [None if g is None else g[d][None] for g in grads[1 : 1 + count]]
        found, sums = one.run(last, grad_x, needs_weights, allow_tf32)
        grad_states.append(found)
        grad_weights += sums
    results = [] if grad_x is None else [grad_x.to(x.dtype)]
    if needs_states:
        results += map(torch.cat, zip(*grad_states, strict=True))
    return results + [g.to(x.dtype) for g in grad_weights]


def _of_steps(grads: Sequence[Tensor | None], count: int) -> list[Tensor | None]:
    """The gradients of outputs, without those of the last states."""
    return [grads[0], *grads[1 + count :]]


class _Direction:
    """One direction of a call, which goes through its steps from the first or the last one."""

    def __init__(
        self,
        call: Inputs,
        sequence: _Padded | _Packed,
        direction: int,
        outputs: Sequence[Tensor],
        grads: Sequence[Tensor | None],
    ) -> None:
        self._call, self._sequence, self._reverse = call, sequence, direction == 1
        self._outputs, self._grads = outputs, grads

    def run(
        self,
        last: list[Tensor | None],
        grad_x: Tensor | None,
        needs_weights: bool,
        allow_tf32: bool,
    ) -> tuple[list[Tensor], list[Tensor]]:
        """From the gradients of the last states, [1, B, features] each, those of the initial states
        and of the weights, which are summed in float32 at least. Adds that of x to grad_x."""
        call, steps = self._call, self._sequence.steps
        edges = sorted({steps * i // PARTS for i in range(PARTS + 1)})
        parts = list(pairwise(edges))
        carry, sums = last, []
        for begin, end in parts if self._reverse else reversed(parts):
            lengths, turn = self._turned(begin, end)
            x, *grads = (
                None if t is None else turn(self._sequence.part(t, begin, end))
                for t in (call.x, *self._grads)
            )
            resets = None if call.resets is None else turn(call.resets[begin:end])
            given = (call.cell, x, self._before(begin, end), call.weights, lengths, None, resets)
            how = (False, False)
            out = torch.ops.fastrnn.scan(*given, *how, True, allow_tf32)
            kept = [out[0], *out[1 + len(carry) :]]
            found = torch.ops.fastrnn.scan_backward(
                *([grads[0], *carry, *grads[1:]], *given, *how, kept),
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

    def _before(self, begin: int, end: int) -> list[Tensor]:
        """The states before a part, [1, B, features]."""
        call, sequence = self._call, self._sequence
        at = end if self._reverse else begin - 1
        if not 0 <= at < sequence.steps:
            return [s[None] for s in call.states]
        found = [sequence.part(t, at, at + 1).to(call.x.dtype) for t in self._outputs]
        if not self._reverse or call.lengths is None:
            return found
        runs = (call.lengths > at)[:, None].to(call.x.device, non_blocking=True)
        initial = call.states or [torch.zeros_like(s[0]) for s in found]
        return [torch.where(runs, s, i) for s, i in zip(found, initial, strict=True)]


_library = torch.library.Library("fastrnn", "FRAGMENT")
_library.define(f"recompute_backward{SCHEMA}")
_library.impl("recompute_backward", torch.no_grad()(backward), "CompositeExplicitAutograd")
