"""torch.nn.RNN, LSTM, GRU and their cells, on fused kernels.

Constructors, parameters, initial weights, state_dict, repr and pickling are torch.nn's own, by
inheritance; only forward is ours. The layers derive from torch.nn.RNNBase rather than from
torch.nn.LSTM and its like, because Dynamo refuses to trace through those.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from . import functional

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]


def _named_weights(module: nn.Module, names: Iterable[str]) -> list[Tensor]:
    """The weights as they are now; a parametrization may compute some of them."""
    parameters = module._parameters
    try:
        return [parameters[name] for name in names]
    except KeyError:
        return [getattr(module, name) for name in names]


def _check_dtype(x: Tensor, weight: Tensor, error: type[Exception]) -> None:
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise error(
            f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
        )


def _check_pair(module: nn.Module, hx: Any) -> None:
    if isinstance(hx, Tensor):
        raise TypeError(f"{type(module).__name__}: hx must be a tuple of Tensors, not Tensor")
    if len(hx) != 2:
        raise RuntimeError(f"{type(module).__name__} expects two hidden states, got {len(hx)}")


class _Layers(nn.RNNBase):
    """forward of all layers; hx is a tensor, or a tuple where the cell has several states."""

    _states = 1

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> tuple[Any, Any]:
        """Runs all layers over the sequence.

        Args:
            input: [T, B, I], or [B, T, I] with batch_first, or [T, I], or a PackedSequence.
            hx: the initial states, [L * D, B, H] each, or [L * D, H] for unbatched input; zeros if
                not given. For LSTM the tuple (h_0, c_0), h_0 with proj_size features if set.

        Returns:
            The output, shaped like input with D * H features, and the last states, like hx.

        Raises:
            ValueError: input is neither 2-D nor 3-D, or its dtype is not that of the weights.
            RuntimeError: any other shape, type or device that does not fit.
        """
        flat = _named_weights(self, self._flat_weights_names)
        count = len(flat) // self.num_layers
        weights = [flat[i : i + count] for i in range(0, len(flat), count)]
        x, batch_sizes, order, back = (
            input if isinstance(input, PackedSequence) else (input, None, None, None)
        )
        states = self._checked(x, hx, batch_sizes)
        _check_dtype(x, flat[0], ValueError)
        unbatched = batch_sizes is None and x.dim() == 2
        if unbatched:
            x, states = x.unsqueeze(1), [s.unsqueeze(1) for s in states]
        if order is not None:
            states = [s.index_select(1, order) for s in states]
        y, last = functional.stack(
            self.mode.lower(),
            x,
            states,
            weights,
            batch_sizes=batch_sizes,
            bidirectional=self.bidirectional,
            batch_first=self.batch_first and batch_sizes is None and not unbatched,
            dropout_p=self.dropout,
            training=self.training,
        )
        if unbatched:
            y, last = y.squeeze(1), tuple(s.squeeze(1) for s in last)
        if back is not None:
            last = tuple(s.index_select(1, back) for s in last)
        if batch_sizes is not None:
            y = PackedSequence(y, batch_sizes, order, back)
        return y, last if self._states > 1 else last[0]

    def flatten_parameters(self) -> None:
        """Does nothing: the kernels take the weights as they lie."""

    def _checked(self, x: Tensor, hx: Any, batch_sizes: Tensor | None) -> tuple[Tensor, ...]:
        """The states in hx, once the shapes fit; raises what torch.nn raises."""
        dims = x.dim()
        if batch_sizes is None and dims not in (2, 3):
            raise ValueError(
                f"{type(self).__name__}: Expected input to be 2D or 3D, got {dims}D instead, of "
                f"shape {list(x.shape)}"
            )
        if batch_sizes is not None and dims != 2:
            raise RuntimeError(f"input must have 2 dimensions, got {dims}, of {list(x.shape)}")
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got "
                f"{x.shape[-1]}, in an input of shape {list(x.shape)}"
            )
        if hx is None:
            return ()
        states = (hx,) if self._states == 1 else tuple(hx)
        batched = batch_sizes is not None or dims == 3
        if batch_sizes is None and any(s.dim() != dims for s in states):
            want, got = ("batched 3-D", "3-D") if batched else ("unbatched 2-D", "2-D")
            found = ", ".join(f"{s.dim()}-D" for s in states)
            names = "hx" if self._states == 1 else "hx and cx"
            raise RuntimeError(
                f"For {want} input, {names} should also be {got} but got ({found}) tensors"
            )
        if self._states > 1:
            _check_pair(self, hx)
        directions = 2 if self.bidirectional else 1
        sizes = [self.proj_size or self.hidden_size] + [self.hidden_size] * (self._states - 1)
        for i, (s, size) in enumerate(zip(states, sizes, strict=True)):
            expected: tuple[int, ...] = (self.num_layers * directions, size)
            if batch_sizes is not None:
                expected = (expected[0], int(batch_sizes[0]), size)
            elif batched:
                expected = (expected[0], x.shape[0 if self.batch_first else 1], size)
            if s.shape != expected:
                name = "hidden" if self._states == 1 else f"hidden[{i}]"
                raise RuntimeError(f"Expected {name} size {expected}, got {list(s.shape)}")
        return states


class LSTM(_Layers):
    """torch.nn.LSTM, fused: the same arguments, parameters and results."""

    _states = 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(_Layers):
    """torch.nn.GRU, fused: the same arguments, parameters and results."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        super().__init__("GRU", *args, **kwargs)


class RNN(_Layers):
    """torch.nn.RNN, fused: the same arguments, parameters and results."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        if len(args) > 3:
            self.nonlinearity, args = args[3], args[:3] + args[4:]
        else:
            self.nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{self.nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(f"RNN_{self.nonlinearity.upper()}", *args, **kwargs)


def _cell_step(
    module: nn.RNNCellBase, cell: str, input: Tensor, states: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """One step of a cell on [B, I] or [I]. Raises what torch.nn raises."""
    name = type(module).__name__
    if input.dim() not in (1, 2):
        raise ValueError(
            f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead, of shape "
            f"{list(input.shape)}"
        )
    for i, s in enumerate(states):
        if s.dim() not in (1, 2):
            which = "hidden" if len(states) == 1 else f"hx[{i}]"
            raise ValueError(
                f"{name}: Expected {which} to be 1D or 2D, got {s.dim()}D instead, of shape "
                f"{list(s.shape)}"
            )
    if input.shape[-1] != module.input_size:
        raise RuntimeError(
            f"input has inconsistent input_size: got {input.shape[-1]}, expected "
            f"{module.input_size}, in an input of shape {list(input.shape)}"
        )
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = _named_weights(module, names if module.bias else names[:2])
    _check_dtype(input, weights[0], RuntimeError)
    unbatched = input.dim() == 1
    if unbatched:
        input, states = input.unsqueeze(0), tuple(s.unsqueeze(0) for s in states)
    for i, s in enumerate(states):
        expected = (input.shape[0], module.hidden_size)
        if s.shape == expected:
            continue
        if s.shape[0] != expected[0]:
            raise RuntimeError(
                f"Input batch size {expected[0]} doesn't match hidden{i} batch size {s.shape[0]}: "
                f"got {list(s.shape)}, expected {list(expected)}"
            )
        raise RuntimeError(
            f"hidden{i} has inconsistent hidden_size: got {list(s.shape)}, expected "
            f"{list(expected)}"
        )
    after = functional.step(cell, input, states, weights)
    return tuple(s.squeeze(0) for s in after) if unbatched else after


class LSTMCell(nn.LSTMCell):
    """torch.nn.LSTMCell, fused: the same arguments, parameters and results."""

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step: input [B, I] or [I], hx (h, c) of [B, H] or [H] each. Returns (h, c)."""
        if hx is not None:
            _check_pair(self, hx)
        h, c = _cell_step(self, "lstm", input, () if hx is None else tuple(hx))
        return h, c


class GRUCell(nn.GRUCell):
    """torch.nn.GRUCell, fused: the same arguments, parameters and results."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step: input [B, I] or [I], hx [B, H] or [H]. Returns h."""
        return _cell_step(self, "gru", input, () if hx is None else (hx,))[0]


class RNNCell(nn.RNNCell):
    """torch.nn.RNNCell, fused: the same arguments, parameters and results."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step: input [B, I] or [I], hx [B, H] or [H]. Returns h."""
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        states = () if hx is None else (hx,)
        return _cell_step(self, f"rnn_{self.nonlinearity}", input, states)[0]
