"""Keras 3 on torch with fastrnn's kernels.

Keras runs LSTM and GRU on the CPU by a loop in Python over the steps, at every step some ten
operations of torch's. Its layers ask their backend first whether it has the whole layer in one
piece. After install it has: layers, weights, files and results stay Keras' own.

    os.environ["KERAS_BACKEND"] = "torch"
    import fastrnn.keras
    fastrnn.keras.install()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import functional

__all__ = ["install", "uninstall"]

_Results = tuple[Tensor, Tensor, list[Tensor]]  # the last output, outputs, and states
_replaced: dict[str, Callable[..., _Results]] = {}


def install() -> None:
    """Lets keras.layers.LSTM and GRU run on fastrnn, in all models, until uninstall.

    It takes layers with tanh and sigmoid as activations, with and without biases, with
    go_backwards, in Bidirectional, stateful, and with a mask that pads each row at its end; GRU
    with both values of reset_after. What it does not take (other activations, recurrent dropout,
    masks with holes or with go_backwards, unroll=True, and types and devices without kernels) runs
    as it did before.

    Raises:
        RuntimeError: Keras runs on another backend than torch.
    """
    backend = _backend()
    for name, prepare in (("lstm", _of_lstm), ("gru", _of_gru)):
        if name not in _replaced:
            _replaced[name] = getattr(backend, name)
            setattr(backend, name, _instead_of(_replaced[name], prepare))


def uninstall() -> None:
    """Undoes install."""
    for name in [*_replaced]:
        setattr(_backend(), name, _replaced.pop(name))


def _backend() -> ModuleType:
    name = import_module("keras.backend").backend()
    if name != "torch":
        raise RuntimeError(
            f"Keras runs on {name}, and fastrnn needs torch: set the environment variable "
            "KERAS_BACKEND to torch before Keras is imported"
        )
    return import_module("keras.src.backend")


def _instead_of(
    theirs: Callable[..., _Results], prepare: Callable[..., tuple[str, list[Tensor]]]
) -> Callable[..., _Results]:
    """A function that Keras' layers call as they call theirs, for the layers that fastrnn takes.
    prepare makes the cell's name and torch's weights of Keras' arguments."""

    def run(inputs: Any, *states_and_mask: Any, **given: Any) -> _Results:
        *states, mask = states_and_mask
        (kernel,) = _tensors(given["kernel"])
        lengths = _lengths(mask)
        if (
            not _is_plain(given)
            or (mask is not None and (lengths is None or given["go_backwards"]))
            or kernel.dtype not in functional.DTYPES
            or functional.why_no_kernels(kernel.device)
        ):
            return theirs(inputs, *states_and_mask, **given)
        x, *states = (t.to(kernel.dtype) for t in _tensors(inputs, *states))
        cell, weights = prepare(**given)
        if given["go_backwards"]:
            x = x.flip(1)
        return _layer(cell, x, states, weights, lengths, given["return_sequences"])

    return run


def _layer(
    cell: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    return_sequences: bool,
) -> _Results:
    output = functional.layer(
        cell, x, [s[None] for s in states], weights, lengths=lengths, batch_first=True
    )
    last = [state[0] for state in output.last]
    if not return_sequences:
        return last[0], last[0][:, None], last
    y = output.y
    if lengths is not None:  # behind its end Keras repeats a row's last output
        ended = torch.arange(x.shape[1], device=x.device) >= lengths[:, None]
        y = torch.where(ended[..., None], last[0][:, None], y)
    return last[0], y, last


def _of_lstm(kernel: Any, recurrent_kernel: Any, bias: Any, **_: Any) -> tuple[str, list[Tensor]]:
    weights = [w.t().contiguous() for w in _tensors(kernel, recurrent_kernel)]
    if bias is not None:
        (b,) = _tensors(bias)
        weights += [b, torch.zeros_like(b)]
    return "lstm", weights


def _of_gru(
    kernel: Any, recurrent_kernel: Any, bias: Any, reset_after: bool, **_: Any
) -> tuple[str, list[Tensor]]:
    weights = [_r_first(w).t().contiguous() for w in _tensors(kernel, recurrent_kernel)]
    if bias is not None:
        b = _r_first(_tensors(bias)[0])
        weights += [*b] if reset_after else [b, torch.zeros_like(b)]
    return "gru" if reset_after else "gru_before", weights


def _r_first(weights: Tensor) -> Tensor:
    """Keras' z r n as torch's r z n, along the last axis."""
    z, r, n = weights.chunk(3, -1)
    return torch.cat([r, z, n], -1)


def _tensors(*values: Any) -> list[Tensor]:
    convert = import_module("keras.ops").convert_to_tensor
    return [convert(value) for value in values]


def _is_plain(given: dict[str, Any]) -> bool:
    activations = import_module("keras.activations")
    return (
        given["activation"] is activations.tanh
        and given["recurrent_activation"] is activations.sigmoid
        and not given["unroll"]
    )


def _lengths(mask: Any) -> Tensor | None:
    """How many steps a mask leaves of each row, at least one; None if it leaves others than the
    first ones."""
    if mask is None:
        return None
    (mask,) = _tensors(mask)
    lengths = mask.sum(-1)
    first = torch.arange(mask.shape[-1], device=mask.device) < lengths[:, None]
    return lengths if bool((mask == first).all() & (lengths > 0).all()) else None
