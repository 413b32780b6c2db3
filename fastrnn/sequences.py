"""Sequences that the kernels do not take, computed by calls that they do take.

There are two kinds. Lengths on a GPU: the kernels' host needs the numbers, and would have to wait
for them. And episodes that begin with other states than zeros. Both ways are slower than a call of
the kernels, and neither synchronises with the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from . import ops
from .reference import Inputs, Output, Run, by_direction

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_INTEGERS += (torch.uint16, torch.uint32, torch.uint64)


def scan(
    inputs: Inputs,
    scales: Sequence[Tensor] = (),
    reset_to: Sequence[Tensor] = (),
    all_states: bool = False,
    recompute: bool = False,
) -> Output:
    """functional.layer without autocast."""
    if inputs.lengths is not None:
        inputs = inputs._replace(lengths=placed(inputs.lengths, inputs.x))
    if reset_to:
        _check(inputs, scales, reset_to)
        if recompute and torch.is_grad_enabled():
            raise RuntimeError(
                "recompute needs the kernels' own episodes, which begin with zeros: with reset_to "
                "the kernels are called for each step, and each step saves its gates"
            )
        if inputs.lengths is not None:
            lengths = inputs.lengths.to(inputs.x.device, non_blocking=True)
            inputs = inputs._replace(lengths=lengths)
        each = len(scales) // (2 if inputs.bidirectional else 1)

        def run(one: Inputs, direction: int) -> Run:
            own = scales[direction * each :][:each]
            return _step_by_step(one, own, direction, [s[:, direction] for s in reset_to])

    elif inputs.lengths is not None and _on_gpu(inputs.lengths) and inputs.x.dim() == 3:
        run = partial(_masked, recompute=recompute)
    else:
        return ops.scan(inputs, scales, all_states, recompute)
    if not inputs.states:
        inputs = inputs._replace(states=ops.zeros(inputs, scales))
    out = by_direction(inputs, run)
    return out if all_states else out._replace(steps=None)


def _on_gpu(lengths: Tensor) -> bool:
    return lengths.is_cuda


def placed(lengths: Tensor, x: Tensor) -> Tensor:
    """As int64 on the CPU, where the op takes them; on the GPU they stay if x is there, too."""
    if lengths.dtype not in _INTEGERS:
        raise RuntimeError(f"lengths must be integers, got {lengths.dtype}")
    stays = (_on_gpu(lengths) and x.is_cuda) or (lengths.is_meta and x.is_meta)
    return lengths.to(lengths.device if stays else "cpu", torch.int64)


def _check(inputs: Inputs, scales: Sequence[Tensor], reset_to: Sequence[Tensor]) -> None:
    """Checks what the op cannot check when it sees one step at a time."""
    x, resets, lengths = inputs.x, inputs.resets, inputs.lengths
    if resets is None or x.dim() != 3 or inputs.batch_sizes is not None:
        raise RuntimeError("reset_to needs resets, and input of shape [T, B, I] or [B, T, I]")
    steps, batch = x.shape[:2] if not inputs.batch_first else (x.shape[1], x.shape[0])
    if not steps:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if resets.shape != x.shape[:2] or resets.dtype != torch.bool:
        raise RuntimeError(
            f"resets must be a bool tensor of shape {list(x.shape[:2])}, got {list(resets.shape)} "
            f"of {resets.dtype}"
        )
    if lengths is not None and lengths.shape != (batch,):
        raise RuntimeError(f"Expected lengths of shape [{batch}], got {list(lengths.shape)}")
    for s in reset_to:
        if s.dtype != x.dtype:
            raise RuntimeError(
                f"Input and reset_to tensors are not the same dtype, expected {x.dtype}, got "
                f"{s.dtype}"
            )
    leading = (steps, 2 if inputs.bidirectional else 1, batch)
    expected = [(*leading, size) for size in ops.state_sizes(inputs, scales)]
    if [tuple(s.shape) for s in reset_to] != expected:
        found = ", ".join(str(list(s.shape)) for s in reset_to)
        wanted = ", ".join(str(list(shape)) for shape in expected)
        raise RuntimeError(f"Expected reset_to of shape {wanted}, got {found}")


def running(lengths: Tensor, steps: int) -> Tensor:
    """Which rows run at which step, [T, B]."""
    return torch.arange(steps, device=lengths.device)[:, None] < lengths


def _masked(one: Inputs, direction: int, recompute: bool) -> Run:
    """Runs all rows for all steps; x and the results are set to zero behind a row's end. In reverse
    each row is turned around its own length first, so that its last step comes first."""
    assert one.lengths is not None
    lengths = one.lengths.clamp(0, one.x.shape[0])
    runs, any_step = running(lengths, one.x.shape[0])[..., None], (lengths > 0)[:, None]
    times = torch.arange(one.x.shape[0], device=lengths.device)[:, None]
    turned = torch.where(runs[..., 0], lengths - 1 - times, times)[..., None]

    def turn(t: Tensor) -> Tensor:
        """Reverses each row up to its end, and leaves the rest in place. It is its own inverse."""
        return t.gather(0, turned.expand_as(t)) if direction else t

    out = ops.scan(
        Inputs(
            one.cell,
            turn(torch.where(runs, one.x, 0.0)),
            [torch.where(any_step, s, 0.0)[None] for s in one.states],
            one.weights,
            resets=None if one.resets is None else turn(one.resets[..., None])[..., 0],
        ),
        all_states=True,
        recompute=recompute,
    )
    assert out.steps is not None
    every, last = [out.y, *out.steps], []
    for t, initial in zip(every, one.states, strict=True):
        end = (lengths - 1).clamp_min(0)[None, :, None].expand(1, -1, t.shape[-1])
        last.append(torch.where(any_step, t.gather(0, end)[0].to(initial.dtype), initial))
    return [torch.where(runs, turn(t), 0.0) for t in every], last


def _step_by_step(
    one: Inputs, scales: Sequence[Tensor], direction: int, reset_to: Sequence[Tensor]
) -> Run:
    """One call for each step, from the states before it or those that its episode begins with."""
    x, states, resets, runs = one.x, one.states, one.resets, None
    assert resets is not None
    if one.lengths is not None:
        runs = running(one.lengths, x.shape[0])[..., None]
        x = torch.where(runs, x, 0.0)
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    every: list[Sequence[Tensor]] = [()] * len(x)
    for t in reversed(range(len(x))) if direction else range(len(x)):
        starts = resets[t][:, None]
        before = [torch.where(starts, r[t], s) for r, s in zip(reset_to, states, strict=True)]
        if runs is not None:
            before = [torch.where(runs[t], s, 0.0) for s in before]
        after = ops.scan(Inputs(one.cell, x[t], before, one.weights), scales).last
        every[t] = after
        if runs is not None:
            every[t] = [torch.where(runs[t], s, 0.0) for s in after]
            after = [torch.where(runs[t], s, old) for s, old in zip(after, states, strict=True)]
        states = after
    y, *steps = map(torch.stack, zip(*every, strict=True))
    return [y, *(s.to(compute) for s in steps)], states
