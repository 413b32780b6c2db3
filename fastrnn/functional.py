"""Layers as functions of their tensors: one layer, a stack of layers, one step of a cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import dropout

from . import ops
from .reference import Inputs, Output

__all__ = ["Output", "layer", "stack", "step"]

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
    bidirectional: bool = False,
    batch_first: bool = False,
    all_states: bool = False,
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
        lengths: [B] of int64 on the CPU, each within [0, T]: how many steps of each row count. The
            output beyond them is zero.
        batch_sizes: [T] of int64 on the CPU, as in a PackedSequence.
        resets: bool, [T, B] or like x without its features: where set, the states before that step
            are zeros.
        all_states: whether the output's steps hold the states but h of every step even where
            autograd does not record.

    Raises:
        RuntimeError: the device has no kernels, or a shape, type or device does not fit; the
            message names the argument.
    """
    how = (lengths, batch_sizes, resets, bidirectional, batch_first)
    return _layer(Inputs(cell, x, states, weights, *how), scales, all_states)


def _layer(inputs: Inputs, scales: Sequence[Tensor] = (), all_states: bool = False) -> Output:
    if scales:
        return _int8_layer(inputs, scales, all_states)
    x = inputs.x
    _check_device(x)
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        states, weights = _cast_all(inputs.states, dtype), _cast_all(inputs.weights, dtype)
        inputs = inputs._replace(x=_cast(x, dtype), states=states, weights=weights)
    if torch.compiler.is_exporting() and not inputs.states and inputs.batch_sizes is None:
        rows, output_size = inputs.weights[1].shape
        inputs = inputs._replace(states=_zeros(inputs, rows, output_size))
    return ops.scan(inputs, all_states)


def _int8_layer(inputs: Inputs, scales: Sequence[Tensor], all_states: bool) -> Output:
    x, states = inputs.x, inputs.states
    if x.device.type not in ("cpu", "meta"):
        raise RuntimeError(f"layers of int8 run on the CPU only, and the input is on {x.device}")
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        inputs = inputs._replace(x=_cast(x, dtype), states=_cast_all(states, dtype))
    if inputs.x.dtype not in INT8_INPUTS:
        raise RuntimeError(
            f"layers of int8 take input of float32, bfloat16 or float16, got {inputs.x.dtype}"
        )
    if torch.compiler.is_exporting() and not states and inputs.batch_sizes is None:
        rows, output_size = ops.int8_sizes(inputs, scales)
        inputs = inputs._replace(states=_zeros(inputs, rows, output_size))
    return ops.scan_int8(inputs, scales, all_states)


def _check_device(x: Tensor) -> None:
    if not x.is_cpu and x.device.type not in DEVICES:
        reason = f" ({ops.WHY_NO_CUDA})" if x.is_cuda else ""
        raise RuntimeError(
            f"fastrnn has no kernels for the device {x.device} in this build{reason}; it has them "
            f"for {', '.join(DEVICES)}"
        )


def _zeros(inputs: Inputs, rows: int, output_size: int) -> list[Tensor]:
    """The states that an exported program names: AOTInductor calls no op with an empty list. rows
    and output_size: of weight_hh."""
    x, info = inputs.x, ops.CELLS[inputs.cell]
    sizes = [output_size] + [rows // info.h_blocks] * (info.states - 1)
    batch = x.shape[0 if x.dim() == 2 or inputs.batch_first else 1]
    leading = (batch,) if x.dim() == 2 else (2 if inputs.bidirectional else 1, batch)
    return [x.new_zeros(*leading, size) for size in sizes]


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
    bidirectional: bool = False,
    batch_first: bool = False,
    dropout_p: float = 0.0,
    training: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Layers on top of each other, with dropout between them.

    Args:
        states: the initial states, [L * D, B, P] for h and [L * D, B, H] for the others; empty for
            zeros.
        weights, scales: for each layer, what layer takes.

    Returns:
        y of the last layer, and the last states of all layers, shaped like states.

    Raises:
        RuntimeError: as of layer; or x is a single step, which has no stack.
    """
    if x.dim() != (3 if batch_sizes is None else 2):
        raise RuntimeError(f"a stack takes [T, B, I] or a packed batch, got {list(x.shape)}")
    layers, batch_first = len(weights), batch_first and batch_sizes is None
    scales = scales or ((),) * layers
    if layers == 1:
        how = (lengths, batch_sizes, resets, bidirectional, batch_first)
        y, last, _ = _layer(Inputs(cell, x, states, weights[0], *how), scales[0])
        return y, last
    # Between the layers time comes first, which gives dropout the mask that torch.nn draws.
    if batch_first:
        x = x.transpose(0, 1)
        resets = None if resets is None else resets.transpose(0, 1)
    directions = 2 if bidirectional else 1
    ends: list[tuple[Tensor, ...]] = []
    for i, own in enumerate(weights):
        if i and dropout_p:
            x = dropout(x, dropout_p, training)
        own_states = [s[i * directions : (i + 1) * directions] for s in states]
        top = batch_first and i == layers - 1
        if top:
            x = x.transpose(0, 1)
            resets = None if resets is None else resets.transpose(0, 1)
        how = (lengths, batch_sizes, resets, bidirectional, top)
        x, last, _ = _layer(Inputs(cell, x, own_states, own, *how), scales[i])
        ends.append(last)
    return x, tuple(map(torch.cat, zip(*ends, strict=True)))


def step(
    cell: str, x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """One step: x [B, I], states [B, H] each, or none for zeros. Returns the states after it.

    Under autocast it computes in the type of the weights, so that states which go from step to step
    are not rounded each time.
    """
    _check_device(x)
    if torch._C._is_any_autocast_enabled() and torch.is_autocast_enabled(x.device.type):
        dtype = weights[0].dtype
        x, states = _cast(x, dtype), _cast_all(states, dtype)
    return ops.scan(Inputs(cell, x, states, weights)).last
