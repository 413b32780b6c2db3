"""torch.nn.RNN, LSTM, GRU and their cells, on fused kernels, and variants of them.

Constructors, parameters, initial weights, state_dict, repr and pickling are torch.nn's own, by
inheritance; only forward is ours. The layers derive from torch.nn.RNNBase rather than from
torch.nn.LSTM and its like, because Dynamo refuses to trace through those.

A variant is another layer under torch.nn's signature: an option that changes the equations, or a
class that torch.nn does not have. It has parameters of its own shapes in torch.nn's order, with
torch.nn's initial distribution. Its state_dict has one entry more, "_extra_state", which says what
it is, because layers that compute something else may have parameters of the same shapes: loading
one of ours into another raises RuntimeError; torch.nn's own layers refuse it where they are strict.
A subclass with an extra state of its own keeps that, and no name. LSTM-i, -f, -o, MUT1, MUT2 and
MUT3 are those of Jozefowicz, Zaremba & Sutskever, "An Empirical Exploration of Recurrent Network
Architectures" (2015).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils.rnn import PackedSequence

from . import functional, ops

__all__ = [
    "GRU",
    "LSTM",
    "MUT1",
    "MUT2",
    "MUT3",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "MUT1Cell",
    "MUT2Cell",
    "MUT3Cell",
    "RNNCell",
]

_TORCH_CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def _named_weights(module: nn.Module, names: Iterable[str]) -> list[Tensor]:
    """The weights as they are now; a parametrization may compute some of them."""
    parameters = module._parameters
    try:
        return [parameters[name] for name in names]
    except KeyError:
        return [getattr(module, name) for name in names]


# What a call raises that is wrong, or that is not plain after all.
_REFUSED = (AttributeError, KeyError, RuntimeError, TypeError)


def _pair(hx: Any) -> tuple[Any, ...]:
    if type(hx) is not tuple:
        raise TypeError
    return hx


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


class _Variant(nn.Module):
    """What lets a layer, or a cell, be another one than torch.nn's."""

    _cell: str  # its name for the ops
    _options: dict[str, Any] = {}  # noqa: RUF012  (that a class adds to torch.nn's, off)
    learned_input: bool = False

    def _set_options(self, **options: Any) -> None:
        """Those that are off stay the class's: the module has no more attributes than torch.nn's.
        Before torch.nn's constructor, which makes the parameters."""
        for name, value in options.items():
            if value != self._options[name]:
                setattr(self, name, value)

    def extra_repr(self) -> str:
        chosen = ((name, getattr(self, name), off) for name, off in self._options.items())
        shown = [f", {name}={value!r}" for name, value, off in chosen if value != off]
        return super().extra_repr() + "".join(shown)

    def _shapes(self, input_size: int, proj_size: int = 0) -> dict[str, tuple[int, ...]]:
        """The names and shapes of the weights of one direction of a layer, or of a cell."""
        cell, hidden_size = ops.CELLS[self._cell], self.hidden_size
        takes_x = cell.takes_x and input_size == hidden_size and not self.learned_input
        return cell.shapes(input_size, hidden_size, proj_size, self.bias, takes_x)

    def _keeps_another_state(self) -> bool:
        return type(self).get_extra_state is not nn.Module.get_extra_state

    def _own_name(self) -> str | None:
        """What its state_dict says that it is."""
        plain = self._cell in _TORCH_CELLS or self._keeps_another_state()
        return None if plain else self._cell

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._own_name():  # as a tensor: many formats and tools know nothing else
            name = torch.tensor(list(self._cell.encode()), dtype=torch.uint8, device="cpu")
            destination[f"{prefix}_extra_state"] = name

    def _load_from_state_dict(
        self,
        state_dict: dict,
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = f"{prefix}_extra_state"
        own, found = self._own_name(), _name_in(state_dict.get(key))
        concerned = found or any(prefix + name in state_dict for name in self._parameters)
        if concerned and found not in (own, _UNREADABLE) and not self._keeps_another_state():
            theirs, ours = (f"'{name}'" if name else "torch.nn's" for name in (found, own))
            error_msgs.append(
                f"The weights of {prefix.removesuffix('.') or 'the module'} are those of another "
                f"layer, even where their shapes agree: the equations are {theirs} in the "
                f"state_dict, and {ours} in this {type(self).__name__}. A state_dict says so by "
                f"the key '{key}', and has none for torch.nn's."
            )
            return
        rest = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if own and key in unexpected_keys:
            unexpected_keys.remove(key)


_NO_PROJECTION = "proj_size argument is only supported for LSTM, not RNN or GRU"

# Of a state_dict on meta, or of a fake one, which has shapes only.
_UNREADABLE = "?"


def _name_in(state: Any) -> str | None:
    """The cell that an extra state of ours names, if it is one. Its numbers are of another type
    where someone averaged or cast all of a state_dict."""
    if not isinstance(state, Tensor):
        return None
    if state.is_meta or isinstance(state, FakeTensor):
        return _UNREADABLE
    name = bytes(state.round().to(torch.uint8).flatten().tolist()).decode(errors="replace")
    return name if name in ops.CELLS else None


def _bound(init: Callable[..., None], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """All arguments of torch.nn's constructor by name, given or not."""
    bound = signature(init).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def _checked_on_meta(given: dict[str, Any]) -> dict[str, Any]:
    return {name: v for name, v in given.items() if name != "self"} | {"device": "meta"}


def _take_arguments(module: nn.Module, other: nn.Module) -> None:
    """Makes it a module with the other's attributes, but without its parameters."""
    nn.Module.__init__(module)
    for name, value in vars(other).items():
        if not name.startswith("_"):
            setattr(module, name, value)


def _empty(shape: tuple[int, ...], given: dict[str, Any]) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device=given["device"], dtype=given["dtype"]))


class _Layers(_Variant, nn.RNNBase):
    """All of the layers but their options; hx is a tuple where the cell has several states."""

    _mode: str
    _states = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self._cell in _TORCH_CELLS:
            super().__init__(self._mode, *args, **kwargs)
            return
        # torch.nn checks the arguments, in a layer that is thrown away.
        given = _bound(nn.RNNBase.__init__, self, "LSTM", *args, **kwargs)
        if given["proj_size"] and not ops.CELLS[self._cell].projects:
            raise ValueError(_NO_PROJECTION)
        _take_arguments(self, nn.RNNBase(**_checked_on_meta(given)))
        self.mode = self._mode
        self._flat_weights_names, self._all_weights = [], []
        directions = ("", "_reverse") if self.bidirectional else ("",)
        inputs = self.input_size
        for layer in range(self.num_layers):
            for suffix in directions:
                names = []
                for name, shape in self._shapes(inputs, self.proj_size).items():
                    names.append(f"{name}_l{layer}{suffix}")
                    setattr(self, names[-1], _empty(shape, given))
                self._flat_weights_names += names
                self._all_weights.append(names)
            inputs = len(directions) * (self.proj_size or self.hidden_size)
        self._init_flat_weights()
        self.reset_parameters()

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
        if (
            self.num_layers == 1
            and ops.is_plain(input)
            and input.dim() == 3
            and input.shape[-1] == self.input_size
        ):
            try:
                parameters, count = self._parameters, self._states
                weights = [parameters[name] for name in self._flat_weights_names]
                states = () if hx is None else (hx,) if count == 1 else _pair(hx)
                out = ops.run(
                    self._cell, input, states, weights, self.bidirectional, self.batch_first
                )
                return out[0], out[1] if count == 1 else (out[1], out[2])
            except _REFUSED:
                pass  # what follows says why, as torch.nn does
        return self._run(input, hx)

    def _run(self, input: Tensor | PackedSequence, hx: Any) -> tuple[Any, Any]:
        """forward in full."""
        flat, flat_scales = self._weights()
        weights, scales = self._by_layer(flat), self._by_layer(flat_scales)
        x, batch_sizes, order, back = (
            input if isinstance(input, PackedSequence) else (input, None, None, None)
        )
        states = self._checked(x, hx, batch_sizes)
        self._check_dtype(x, flat[0])
        unbatched = batch_sizes is None and x.dim() == 2
        if unbatched:
            x, states = x.unsqueeze(1), [s.unsqueeze(1) for s in states]
        if order is not None:
            states = [s.index_select(1, order) for s in states]
        y, last = functional.stack(
            self._cell,
            x,
            states,
            weights,
            scales=scales,
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

    def _weights(self) -> tuple[list[Tensor], list[Tensor]]:
        """All of them in their order, and the scales of those of int8."""
        return _named_weights(self, self._flat_weights_names), []

    def _by_layer(self, flat: list[Tensor]) -> list[list[Tensor]]:
        count = len(flat) // self.num_layers
        return [flat[i : i + count] for i in range(0, len(flat), count)] if flat else []

    def _check_dtype(self, x: Tensor, weight: Tensor) -> None:
        _check_dtype(x, weight, ValueError)

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


class _Unprojected(_Layers):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError(_NO_PROJECTION)
        super().__init__(*args, **kwargs)


# ---- options -------------------------------------------------------------------------------------

_LSTMS = {"fio": "lstm", "io": "lstm_f", "fo": "lstm_i", "fi": "lstm_o"}


class _LSTMOptions(_Variant):
    _cell = "lstm"
    _options = {"forget_bias": None, "gates": "ifo", "peephole": False}  # noqa: RUF012
    forget_bias: float | None = None
    gates: str = "ifo"
    peephole: bool = False

    def __init__(
        self,
        *args: Any,
        forget_bias: float | None = None,
        gates: str = "ifo",
        peephole: bool = False,
        **kwargs: Any,
    ) -> None:
        letters = "".join(sorted(gates)) if isinstance(gates, str) else ""
        if letters not in _LSTMS:
            raise ValueError(f"gates must be 'ifo', 'io', 'fo' or 'if', got {gates!r}")
        if peephole and letters != "fio":
            raise ValueError(f"peephole needs gates='ifo', got {gates!r}")
        if forget_bias is not None and "f" not in letters:
            raise ValueError(f"forget_bias needs a forget gate, got gates={gates!r}")
        gates = "".join(gate for gate in "ifo" if gate in letters)
        self._set_options(forget_bias=forget_bias, gates=gates, peephole=peephole)
        cell = "lstm_peephole" if peephole else _LSTMS[letters]
        if cell != "lstm":
            self._cell = cell
        super().__init__(*args, **kwargs)

    def reset_parameters(self) -> None:
        """Draws the parameters from U(-1/sqrt(H), 1/sqrt(H)), as torch.nn does; with forget_bias,
        the forget gate's bias is that in bias_ih, and 0 in bias_hh."""
        super().reset_parameters()
        if self.forget_bias is None:
            return
        if not self.bias:
            raise ValueError("forget_bias needs bias=True")
        start = self.hidden_size if "i" in self.gates else 0
        with torch.no_grad():
            for name, p in self.named_parameters(recurse=False):
                if name.startswith("bias_"):
                    value = self.forget_bias if name.startswith("bias_ih") else 0.0
                    p[start : start + self.hidden_size] = value


class _GRUOptions(_Variant):
    _cell = "gru"
    _options = {"reset_after": True}  # noqa: RUF012
    reset_after: bool = True

    def __init__(self, *args: Any, reset_after: bool = True, **kwargs: Any) -> None:
        self._set_options(reset_after=reset_after)
        if not reset_after:
            self._cell = "gru_before"
        super().__init__(*args, **kwargs)


class _MUTOptions(_Variant):
    _options = {"learned_input": False}  # noqa: RUF012

    def __init__(self, *args: Any, learned_input: bool = False, **kwargs: Any) -> None:
        self._set_options(learned_input=learned_input)
        super().__init__(*args, **kwargs)


# ---- layers --------------------------------------------------------------------------------------


class LSTM(_LSTMOptions, _Layers):
    """torch.nn.LSTM, fused: the same arguments, parameters and results; and variants of it.

        i = sigmoid(W_ii x + W_hi h)    g = tanh(W_ig x + W_hg h)       c' = f c + i g
        f = sigmoid(W_if x + W_hf h)    o = sigmoid(W_io x + W_ho h)    h' = o tanh(c')

    with biases. Hochreiter & Schmidhuber 1997; the forget gate is that of Gers et al. 2000.

    Args:
        forget_bias: what the forget gate's bias begins with. At 1 or more the gate begins open, and
            gradients flow through c; None leaves it to torch.nn's distribution.
        gates: the gates that there are, in any order: "ifo", or "io", "fo", "if" for LSTM-f, LSTM-i
            and LSTM-o, where the one left out is 1. Weights and biases have the blocks i f g o, of
            H rows each, but for that one's.
        peephole: adds p_i c, p_f c and p_o c' to the sums of i, f and o: Gers & Schmidhuber 2000.
            weight_peephole_l{k}, of shape [3 * H], is p_i, p_f, p_o.

    Raises:
        ValueError: there are no such gates; peephole without all of them; forget_bias without a
            forget gate or without biases; and what torch.nn.LSTM raises.
    """

    _mode = "LSTM"
    _states = 2


class GRU(_GRUOptions, _Unprojected):
    """torch.nn.GRU, fused: the same arguments, parameters and results; and the GRU as published.

        r = sigmoid(W_ir x + W_hr h)    n = tanh(W_in x + r * (W_hn h))
        z = sigmoid(W_iz x + W_hz h)    h' = (1 - z) * n + z * h

    with biases.

    Args:
        reset_after: whether the reset gate acts after the product, as in torch.nn. If not, it acts
            before it, n = tanh(W_in x + W_hn (r * h)): Cho et al. 2014.

    Raises:
        ValueError: proj_size is given; and what torch.nn.GRU raises.
    """

    _mode = "GRU"


class MUT1(_MUTOptions, _Unprojected):
    """MUT1 of Jozefowicz et al. 2015, with the arguments of torch.nn.GRU.

        r = sigmoid(W_ir x + W_hr h)    n = tanh(W_hn (r * h) + tanh(x))
        z = sigmoid(W_iz x)             h' = n * z + h * (1 - z)

    with biases. weight_ih and bias_ih have the blocks r z, weight_hh and bias_hh r n, of H rows
    each.

    Args:
        learned_input: takes W_in x in place of x itself, and weight_ih has the blocks r z n. So
            does every layer whose input is not of H features, such as the second one of both
            directions.

    Raises:
        ValueError: proj_size is given; and what torch.nn.GRU raises.
    """

    _cell, _mode = "mut1", "MUT1"


class MUT2(_MUTOptions, _Unprojected):
    """MUT2 of Jozefowicz et al. 2015, with the arguments of torch.nn.GRU.

        r = sigmoid(x + W_hr h)         n = tanh(W_in x + W_hn (r * h))
        z = sigmoid(W_iz x + W_hz h)    h' = n * z + h * (1 - z)

    with biases. weight_ih and bias_ih have the blocks z n, weight_hh and bias_hh r z n, of H rows
    each.

    Args:
        learned_input: takes W_ir x in place of x itself, and weight_ih has the blocks r z n. So
            does every layer whose input is not of H features, such as the second one of both
            directions.

    Raises:
        ValueError: proj_size is given; and what torch.nn.GRU raises.
    """

    _cell, _mode = "mut2", "MUT2"


class MUT3(_Unprojected):
    """MUT3 of Jozefowicz et al. 2015, with the arguments of torch.nn.GRU.

        r = sigmoid(W_ir x + W_hr h)          n = tanh(W_in x + W_hn (r * h))
        z = sigmoid(W_iz x + W_hz tanh(h))    h' = n * z + h * (1 - z)

    with biases. All weights and biases have the blocks r z n, of H rows each.

    Raises:
        ValueError: proj_size is given; and what torch.nn.GRU raises.
    """

    _cell, _mode = "mut3", "MUT3"


_RNNS = {"tanh": "rnn_tanh", "relu": "rnn_relu"}


class RNN(_Unprojected):
    """torch.nn.RNN, fused: the same arguments, parameters and results.

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu with nonlinearity="relu"

    Elman 1990.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if len(args) > 3:
            self.nonlinearity, args = args[3], args[:3] + args[4:]
        else:
            self.nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if self.nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{self.nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(*args, **kwargs)

    @property
    def _cell(self) -> str:
        if self.nonlinearity not in _RNNS:  # set later; the constructor has its own error
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return _RNNS[self.nonlinearity]

    @property
    def _mode(self) -> str:
        return f"RNN_{self.nonlinearity.upper()}"


# ---- cells ---------------------------------------------------------------------------------------


class _Cell(_Variant, nn.RNNCellBase):
    """The parameters of a cell."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self._cell in _TORCH_CELLS:
            super().__init__(*args, **kwargs)
            return
        given = _bound(nn.GRUCell.__init__, self, *args, **kwargs)
        checked = nn.RNNCellBase(**_checked_on_meta(given), num_chunks=1)
        _take_arguments(self, checked)
        for name, shape in self._shapes(self.input_size).items():
            setattr(self, name, _empty(shape, given))
        self.reset_parameters()


# The names of a cell's weights, by whether it has biases.
_CELL_WEIGHTS = {
    name: tuple(tuple(cell.shapes(1, 1, bias=bias)) for bias in (False, True))
    for name, cell in ops.CELLS.items()
}


def _cell_step(
    module: nn.RNNCellBase, cell: str, input: Tensor, states: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """One step of a cell on [B, I] or [I]. Raises what torch.nn raises."""
    names = _CELL_WEIGHTS[cell][1 if module.bias else 0]
    if ops.is_plain(input) and input.dim() == 2 and input.shape[-1] == module.input_size:
        try:
            parameters = module._parameters
            out = ops.run(cell, input, states, [parameters[name] for name in names])
            return out[1 : 1 + ops.CELLS[cell].states]
        except _REFUSED:
            pass  # what follows says why, as torch.nn does
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
    weights = _named_weights(module, names)
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


class LSTMCell(_LSTMOptions, _Cell, nn.LSTMCell):
    """torch.nn.LSTMCell, fused: the same arguments, parameters and results; and its variants, by
    the options of LSTM. The peepholes are weight_peephole, [3 * H]."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype, **options)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step: input [B, I] or [I], hx (h, c) of [B, H] or [H] each. Returns (h, c)."""
        if hx is not None:
            _check_pair(self, hx)
        h, c = _cell_step(self, self._cell, input, () if hx is None else tuple(hx))
        return h, c


class _CellOfH(_Cell):
    """A cell whose only state is h."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step: input [B, I] or [I], hx [B, H] or [H]. Returns h."""
        return _cell_step(self, self._cell, input, () if hx is None else (hx,))[0]


class GRUCell(_GRUOptions, _CellOfH, nn.GRUCell):
    """torch.nn.GRUCell, fused: the same arguments, parameters and results; and the GRU as
    published, by the option of GRU."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, device, dtype, **options)


class MUT1Cell(_MUTOptions, _CellOfH):
    """A step of MUT1, which says what its arguments are; the others are torch.nn.GRUCell's."""

    _cell = "mut1"


class MUT2Cell(_MUTOptions, _CellOfH):
    """A step of MUT2, which says what its arguments are; the others are torch.nn.GRUCell's."""

    _cell = "mut2"


class MUT3Cell(_CellOfH):
    """A step of MUT3, with the arguments of torch.nn.GRUCell."""

    _cell = "mut3"


class RNNCell(nn.RNNCell):
    """torch.nn.RNNCell, fused: the same arguments, parameters and results."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step: input [B, I] or [I], hx [B, H] or [H]. Returns h."""
        if self.nonlinearity not in _RNNS:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        states = () if hx is None else (hx,)
        return _cell_step(self, _RNNS[self.nonlinearity], input, states)[0]
