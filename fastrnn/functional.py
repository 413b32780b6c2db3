"""Layers as functions of their tensors: one layer, a stack of layers, one step of a cell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.nn.functional import dropout

from . import ops, reference, sequences
from .reference import Inputs, Output

__all__ = ["Output", "layer", "stack", "step"]

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
INT8_INPUTS = (torch.float32, torch.bfloat16, torch.float16)
DEVICES = ("cpu", "meta") if ops.WHY_NO_CUDA else ("cpu", "cuda", "meta")


def layer(
    cell: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    scales: Sequence[Tensor] = (),
    lengths: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: Sequence[Tensor] = (),
    bidirectional: bool = False,
    batch_first: bool = False,
    all_states: bool = False,
    recompute: bool = False,
) -> Output:
    """One layer, both directions, over a whole sequence.

    Under autocast, x, the states and the weights are cast to its dtype, as torch does.

    Args:
        cell: its name; fastrnn.reference has its equations. These are its blocks of H rows in
            weight_ih and bias_ih, and, where others, in weight_hh and bias_hh:

            "lstm", "lstm_peephole"             i f g o
            "lstm_i", "lstm_f", "lstm_o"        i f g o without that gate, which is 1
            "gru", "gru_before", "mut3"         r z n
            "rnn_tanh", "rnn_relu"              h
            "mut1"                              r z, which takes x itself, or r z n; r n
            "mut2"                              z n, which takes x itself, or r z n; r z n

            Where weight_ih says that a cell takes x itself, I must be H.
        x: [T, B, I], or [B, T, I] with batch_first; packed: [N, I], with batch_sizes; a single
            step: [B, I].
        states: the initial states, [D, B, P] for h and [D, B, H] for the others ([B, P] and [B, H]
            for a single step), where D is 2 if bidirectional and P is H without a projection;
            empty for zeros.
        weights: for each direction weight_ih [blocks * H, I] and weight_hh [blocks * H, P], then,
            if there are any, bias_ih and bias_hh [blocks * H], weight_hr [P, H], which only the
            LSTMs take, and, of lstm_peephole, weight_peephole [3 * H] for i f o.
        scales: of int8 weights, which are inference's only: for each direction the scales of
            weight_ih, weight_hh and, if there is one, weight_hr, of float32, [rows] each. The
            matrices are packed then, as fastrnn.quantization does it, and the others float32.
        lengths: [B] of any integer type, each within [0, T]: how many steps of each row count. The
            output beyond them is zero. For x on a GPU they are fastest on the CPU. Lengths on the
            GPU cost no synchronisation, but every row runs all T steps, and they are not checked:
            numbers outside [0, T] count as 0 or T.
        batch_sizes: [T] of int64 on the CPU, as in a PackedSequence.
        resets: bool, like x without its features, on its device: at which steps an episode begins.
            Neither direction hears of another episode: forward, the states before such a step are
            zeros; in reverse they are zeros before the step that precedes it, which is the last
            one of the episode before.
        reset_to: the states to begin episodes with instead of zeros, [T, D, B, P] for h and
            [T, D, B, H] for the others; of step t, those before it in the direction. Only those of
            steps where an episode begins are read, or in reverse where one ends. They need resets,
            and x of 3 dimensions. The kernel is called for each step then, which is several times
            slower, and an LSTM's c is rounded to the type of x after each step.
        all_states: whether the output's steps hold the states but h after every step. They are
            None if not.
        recompute: whether to keep some states only for the gradient, and compute the gates again in
            backward, a twelfth of the steps at a time; see fastrnn.LSTM.

    Raises:
        RuntimeError: the device has no kernels, or a shape, type or device does not fit; the
            message names the argument. Or recompute comes with reset_to in grad mode.
    """
    how = (lengths, batch_sizes, resets, bidirectional, batch_first)
    inputs = Inputs(cell, x, states, weights, *how)
    return _layer(inputs, scales, reset_to, all_states, recompute)


def _layer(
    inputs: Inputs,
    scales: Sequence[Tensor],
    reset_to: Sequence[Tensor],
    all_states: bool,
    recompute: bool,
) -> Output:
    x = inputs.x
    _check_local((x,), inputs.states, inputs.weights, reset_to)
    if scales:
        _check_int8(x)
    else:
        _check_device(x)
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        weights = inputs.weights if scales else _cast_all(inputs.weights, dtype)
        states = _cast_all(inputs.states, dtype)
        inputs = inputs._replace(x=_cast(x, dtype), states=states, weights=weights)
        reset_to = _cast_all(reset_to, dtype)
    if torch.compiler.is_exporting() and not inputs.states and inputs.batch_sizes is None:
        # AOTInductor calls no op with an empty list.
        inputs = inputs._replace(states=ops.zeros(inputs, scales))
    return sequences.scan(inputs, scales, reset_to, all_states, recompute)


def why_no_kernels(device: torch.device) -> str:
    """Nothing where there are kernels for the device."""
    if device.type in DEVICES:
        return ""
    reason = f" ({ops.WHY_NO_CUDA})" if device.type == "cuda" else ""
    return (
        f"fastrnn has no kernels for the device {device} in this build{reason}; it has them "
        f"for {', '.join(DEVICES)}"
    )


def _check_local(*groups: Sequence[Tensor]) -> None:
    """The ops know nothing of how a DTensor is shared out, and torch's error does not say what to
    do. Asked by an attribute, because importing DTensor takes a second."""
    if torch.compiler.is_compiling():
        return
    for t in chain.from_iterable(groups):
        if type(t) not in (Tensor, torch.nn.Parameter) and hasattr(t, "device_mesh"):
            raise RuntimeError(
                "fastrnn takes no DTensor, as input, hx or weight: share the batch out by "
                "DistributedDataParallel or fully_shard, or call the layer on each process's part "
                "by torch.distributed.tensor.experimental.local_map; weights cannot be cut into "
                "parts (tensor parallel)"
            )


def _check_device(x: Tensor) -> None:
    if not x.is_cpu and (why := why_no_kernels(x.device)):
        raise RuntimeError(why)


def _check_int8(x: Tensor) -> None:
    if x.device.type not in ("cpu", "meta"):
        raise RuntimeError(f"layers of int8 run on the CPU only, and the input is on {x.device}")
    if x.dtype not in INT8_INPUTS:
        raise RuntimeError(
            f"layers of int8 take input of float32, bfloat16 or float16, got {x.dtype}"
        )


def _cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """As autocast does: floating-point types but float64."""
    return t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t


def _cast_all(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [_cast(t, dtype) for t in tensors]


def stack(
    cell: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Sequence[Tensor]],
    *,
    scales: Sequence[Sequence[Tensor]] = (),
    lengths: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: Sequence[Tensor] = (),
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout_p: float = 0.0,
    training: bool = False,
    all_states: bool = False,
    recompute: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...] | None]:
    """Layers on top of each other, with dropout between them.

    Args:
        states: the initial states, [L * D, B, P] for h and [L * D, B, H] for the others; empty for
            zeros.
        weights, scales: for each layer, what layer takes.
        lengths, batch_sizes, resets: as of layer.
        reset_to: as of layer, but [T, L * D, B, P] and [T, L * D, B, H].
        all_states: whether to return the states after every step; not for a packed batch.
        recompute: as of layer.

    Returns:
        y of the last layer; the last states of all layers, shaped like states; and, if asked for,
        the states after every step, shaped like reset_to and of the type of y, or else None. Behind
        the end of a row the states stand still: forward they stay the last ones; in reverse, which
        begins at the end, they are still the initial ones.

    Raises:
        RuntimeError: as of layer; or x is a single step, which has no stack.
    """
    if x.dim() != (3 if batch_sizes is None else 2):
        raise RuntimeError(f"a stack takes [T, B, I] or a packed batch, got {list(x.shape)}")
    if all_states and batch_sizes is not None:
        raise RuntimeError("all_states needs a padded batch, not a packed one")
    layers, batch_first = len(weights), batch_first and batch_sizes is None
    scales = scales or ((),) * layers
    if lengths is not None:
        lengths = sequences.placed(lengths, x)
    if layers == 1:
        how = (lengths, batch_sizes, resets, bidirectional, batch_first)
        inputs = Inputs(cell, x, states, weights[0], *how)
        out = _layer(inputs, scales[0], reset_to, all_states, recompute)
        return out.y, out.last, tuple(_states_of_steps(out, inputs)) if all_states else None
    # Between the layers time comes first, which gives dropout the mask that torch.nn draws.
    if batch_first:
        x = x.transpose(0, 1)
        resets = None if resets is None else resets.transpose(0, 1)
    directions = 2 if bidirectional else 1
    ends: list[tuple[Tensor, ...]] = []
    every: list[list[Tensor]] = []
    for i, own in enumerate(weights):
        if i and dropout_p:
            x = dropout(x, dropout_p, training)
        here = slice(i * directions, (i + 1) * directions)
        top = batch_first and i == layers - 1
        if top:
            x = x.transpose(0, 1)
            resets = None if resets is None else resets.transpose(0, 1)
        how = (lengths, batch_sizes, resets, bidirectional, top)
        inputs = Inputs(cell, x, [s[here] for s in states], own, *how)
        starts = [s[:, here] for s in reset_to]
        out = _layer(inputs, scales[i], starts, all_states, recompute)
        x = out.y
        ends.append(out.last)
        if all_states:
            every.append(_states_of_steps(out, inputs))
    last = tuple(map(torch.cat, zip(*ends, strict=True)))
    return x, last, tuple(torch.cat(s, 1) for s in zip(*every, strict=True)) if all_states else None


def _states_of_steps(out: Output, inputs: Inputs) -> list[Tensor]:
    """The states of one layer after every step, as stack returns them."""
    found = []
    assert out.steps is not None
    for k, (every, last) in enumerate(zip((out.y, *out.steps), out.last, strict=True)):
        if inputs.batch_first:
            every = every.transpose(0, 1)
        every = every.unflatten(-1, (len(last), -1)).transpose(1, 2).to(last.dtype)
        if inputs.lengths is not None:
            initial = inputs.states[k].to(last.dtype) if inputs.states else torch.zeros_like(last)
            lengths = inputs.lengths.to(every.device, non_blocking=True)
            runs = sequences.running(lengths, every.shape[0])[:, None, :, None]
            every = torch.where(runs, every, torch.cat([last[:1], initial[1:]]))
        found.append(every)
    return found


def step(
    cell: str, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """One step: x [B, I], states [B, H] each, or none for zeros. Returns the states after it.

    Under autocast it computes in the type of the weights, so that states which go from step to step
    are not rounded each time.
    """
    _check_local((x,), states, weights)
    _check_device(x)
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(x.device.type):
        dtype = weights[0].dtype
        x, states = _cast(x, dtype), _cast_all(states, dtype)
    if 0 in (x.shape[-1], weights[1].shape[-1]):  # which the kernels refuse
        return reference.step(Inputs(cell, x, states, weights))
    return ops.scan(Inputs(cell, x, states, weights)).last
