"""What lets a layer, or a cell, be another one than torch.nn's.

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
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import Proxy
from torch.types import Device

from . import ops

TORCH_CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
RNNS = {"tanh": "rnn_tanh", "relu": "rnn_relu"}  # by nonlinearity

# What a call raises that is wrong, or that is not plain after all.
REFUSED = (AttributeError, KeyError, RuntimeError, TypeError)


def named_weights(module: nn.Module, names: Iterable[str]) -> list[Tensor]:
    """The weights as they are now; a parametrization may compute some of them."""
    parameters: dict[str, Any] = module._parameters
    try:
        return [parameters[name] for name in names]
    except KeyError:
        return [getattr(module, name) for name in names]


def check_dtype(x: Tensor, weight: Tensor, error: type[Exception]) -> None:
    if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
        raise error(
            f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype}). "
            f"Convert input: input.to({weight.dtype}), or convert model: model.to({x.dtype})"
        )


def check_pair(module: nn.Module, states: Any, name: str = "hx") -> None:
    if isinstance(states, Tensor):
        raise TypeError(f"{name_of(module)}: {name} must be a tuple of Tensors, not Tensor")
    if len(states) != 2:
        op = "lstm_cell" if isinstance(module, nn.RNNCellBase) else "lstm"
        raise RuntimeError(f"{op} expects two hidden states, got {len(states)} as {name}")


def as_leaf(module: nn.Module, input: Proxy, *args: Any, **kwargs: Any) -> Any:
    """The call as one node of the graph that torch.fx traces, a Proxy: torch.fx goes into all
    modules but torch.nn's own."""
    tracer: Any = input.tracer
    if tracer.root is module:
        raise RuntimeError(
            f"torch.fx cannot trace {name_of(module)} by itself, only a module that holds it"
        )
    args = (input, *args)
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args, kwargs)


def name_of(module: nn.Module) -> str:
    """That of our class, which torch.nn names in errors of its subclasses, too."""
    ours = (c for c in type(module).__mro__ if c.__module__.startswith("fastrnn."))
    return next(ours).__name__


class Variant(nn.Module):
    """What lets a layer, or a cell, be another one than torch.nn's."""

    input_size: int
    hidden_size: int
    bias: bool
    reset_parameters: Callable[[], None]
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
        plain = self._cell in TORCH_CELLS or self._keeps_another_state()
        return None if plain else self._cell

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._own_name():
            destination[f"{prefix}_extra_state"] = tensor_of(self._cell)

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
        if concerned and found not in (own, UNREADABLE) and not self._keeps_another_state():
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


# Of a state_dict on meta, or of a fake one, which has shapes only.
UNREADABLE = "?"


def tensor_of(text: str) -> Tensor:
    """An extra state: many formats and tools know nothing but tensors."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")


def text_in(state: Any) -> str | None:
    """What tensor_of was given. The numbers are of another type where someone averaged or cast all
    of a state_dict."""
    if not isinstance(state, Tensor):
        return None
    if state.is_meta or isinstance(state, FakeTensor):
        return UNREADABLE
    return bytes(state.round().to(torch.uint8).flatten().tolist()).decode(errors="replace")


def _name_in(state: Any) -> str | None:
    """The cell that an extra state of ours names, if it is one."""
    name = text_in(state)
    return name if name == UNREADABLE or name in ops.CELLS else None


def take_arguments(module: nn.Module, other: nn.Module) -> None:
    """Makes it a module with the other's attributes, but without its parameters."""
    nn.Module.__init__(module)
    for name, value in vars(other).items():
        if not name.startswith("_"):
            setattr(module, name, value)


def empty_parameter(
    shape: tuple[int, ...], device: Device, dtype: torch.dtype | None
) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device=device, dtype=dtype))


_LSTMS = {"fio": "lstm", "io": "lstm_f", "fo": "lstm_i", "fi": "lstm_o"}


class LSTMOptions(Variant):
    _cell = "lstm"
    _options = {"forget_bias": None, "gates": "ifo", "peephole": False}  # noqa: RUF012
    forget_bias: float | None = None
    gates: str = "ifo"
    peephole: bool = False

    def _set_gates(self, forget_bias: float | None, gates: str, peephole: bool) -> None:
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


class GRUOptions(Variant):
    _cell = "gru"
    _options = {"reset_after": True}  # noqa: RUF012
    reset_after: bool = True

    def _set_reset(self, reset_after: bool) -> None:
        self._set_options(reset_after=reset_after)
        if not reset_after:
            self._cell = "gru_before"


class MUTOptions(Variant):
    _options = {"learned_input": False}  # noqa: RUF012
