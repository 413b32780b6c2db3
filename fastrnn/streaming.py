"""Stream: a layer or a model fed step by step, or in chunks of steps, with its states kept.

The layers in a model are called by the model, which passes no states on. While a Stream runs, hooks
on the layers do: one gives a layer its states, the other takes those that it returns.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from . import conversion

__all__ = ["Stream"]

Rows = int | slice | Sequence[int] | Sequence[bool] | Tensor


class Stream:
    """A recurrent layer, or a model that has some, with the states that it is in.

        stream = fastrnn.Stream(model.eval(), batch_size=8)
        for x in steps:  # [8, I] each
            y = stream(x)

    A call goes on where the last one ended. However a sequence is cut into calls, fastrnn's layers
    give the bits that they give for the whole, but for an LSTM of a 16-bit type, whose c is rounded
    to that type between calls. Nothing of the weights is kept: the next call sees what changed.

    What reaches a recurrent layer is told apart by its dimensions:

        a step     [B, I], or [I] where batch_size is 1; the output has no time either
        a chunk    [t, B, I], or [B, t, I] where the layer has batch_first

    A layer is called with these, and gives its output without the states. A model is called with
    what it takes itself, and gives what it returns. Its recurrent layers are those of fastrnn and
    of torch.nn; it has to call them without hx, and each of them once at most. One that it does not
    call keeps its states. All else in a model sees the steps of the call and no others: a
    convolution over time, or attention, has to keep what it needs by itself.

    Calls run without gradients, and in the mode of the model: call its eval() before. A call that
    raises leaves the states as they were. Several Streams may share a model, in several threads,
    too; of those of models, one call runs at a time. A Stream itself is for one thread at a time.

    Args:
        model: a layer of fastrnn's or of torch.nn's, or a module with such layers in it.
        batch_size: the rows of every call, B.

    Raises:
        ValueError: batch_size is less than 1; or there is no recurrent layer in the model, or one
            of both directions, a cell, another kind of recurrent module, such as a scripted one, or
            a compiled part.
        RuntimeError: of a call: a layer is given other rows than batch_size, something else than a
            step or a chunk, or an hx by the model; it is called twice; or no layer is called.
    """

    def __init__(self, model: nn.Module, batch_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.model: nn.Module = model
        self.batch_size: int = batch_size
        self._layers = _layers_of(model)
        self._states: dict[
            str, Any
        ] = {}  # by layer, as it returned them; zeros where there is none

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Runs the model on the next step or chunk.

        What is given goes on to the model, or to the layer, which takes lengths, resets and what
        else it takes with a chunk, but no hx.
        """
        run = _Run(self._states, self.batch_size)
        with torch.no_grad():
            layer = self._layers.get("")
            if layer is not None and layer is self.model:
                inputs, options = run.before("", layer, inputs, options)
                y, _, *more = run.after("", layer, inputs, layer(*inputs, **options))
                result = (y, *more) if more else y
            else:
                result = run.model(self.model, self._layers, inputs, options)
        self._states = run.states()
        return result

    @property
    def state(self) -> Any:
        """The states after the last call, in the form of hx: [L, B, H], or the tuple (h, c).

        For a model, a dict of these by the names of its layers, as named_modules has them. It is a
        copy, and what is assigned is copied: the Stream goes on from what it was at that time.
        Assigning raises a ValueError where a name or a shape does not fit, and a TypeError where it
        takes a tuple, or a tensor, and is given the other.
        """
        found = {
            name: _map(torch.clone, self._state_of(name, layer))
            for name, layer in self._layers.items()
        }
        return found.get("", found)

    @state.setter
    def state(self, state: Any) -> None:
        self.reset(to=state)

    def reset(self, rows: Rows | None = None, to: Any = None) -> None:
        """Begins anew, in all rows or in some.

        Args:
            rows: which ones: a number, several, a slice, or a bool for each row; all if not given.
            to: the states to begin with, in the form of state, with the n rows that are set,
                [L, n, H], or with one for all of them; zeros if not given.

        Raises:
            IndexError: there is no such row.
            ValueError, TypeError: to does not fit, as of state.
        """
        if rows is None and to is None:
            self._states = {}  # in whatever type and place the next call needs them
            return
        device = rows.device if isinstance(rows, Tensor) else None
        every = torch.arange(self.batch_size, device=device)
        index = every if rows is None else every[rows].reshape(-1)
        given = self._by_layer(to)
        states = dict(self._states)
        for name, layer in self._layers.items():
            if to is None and name not in states:
                continue  # zeros as they are
            old = self._state_of(name, layer)
            if to is None:
                states[name] = _map(lambda s: s.index_fill(1, index.to(s.device), 0), old)
            elif rows is None:
                new = _checked(name, old, given[name], self.batch_size)
                states[name] = _map(torch.clone, new)
            else:
                new = _checked(name, old, given[name], len(index))
                states[name] = _map(lambda s, n: s.index_copy(1, index.to(s.device), n), old, new)
        self._states = states

    def _by_layer(self, state: Any) -> Any:
        """What is given in the form of state."""
        if "" in self._layers:
            return {"": state}
        if not isinstance(state, dict | None):
            raise TypeError(f"states of a model are a dict by layers, got a {type(state).__name__}")
        if state is not None and set(state) != set(self._layers):
            raise ValueError(f"the layers are {list(self._layers)}, got states of {list(state)}")
        return state

    def _state_of(self, name: str, layer: nn.RNNBase) -> Any:
        return self._states[name] if name in self._states else _zeros(layer, self.batch_size)


class _Run:
    """One call of a Stream: what its layers begin with, and what they return."""

    def __init__(self, states: dict[str, Any], batch_size: int) -> None:
        self._before, self._batch_size = states, batch_size
        self._after: dict[str, Any] = {}
        self._dims: dict[str, int] = {}  # of what each layer was given
        self._thread = threading.get_ident()

    def model(
        self,
        model: nn.Module,
        layers: dict[str, nn.RNNBase],
        inputs: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """Calls it with the hooks on its layers."""
        hooks = []
        with _HOOKS:
            try:
                for name, layer in layers.items():
                    # Ours are next to the layer, so that others see what they always see.
                    before, after = partial(self.before, name), partial(self.after, name)
                    hooks.append(layer.register_forward_pre_hook(before, with_kwargs=True))
                    hooks.append(layer.register_forward_hook(after, prepend=True))
                result = model(*inputs, **options)
            finally:
                for hook in hooks:
                    hook.remove()
        if not self._after:
            raise RuntimeError(
                "the model called none of its recurrent layers: it has to call them as modules, "
                "layer(x), not by layer.forward(x)"
            )
        return result

    def states(self) -> dict[str, Any]:
        return self._before | self._after

    def before(
        self,
        name: str,
        layer: nn.RNNBase,
        inputs: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Any:
        """The arguments of a layer, as a chunk with its states."""
        if threading.get_ident() != self._thread:
            return None  # of a Stream, or a plain call, of the same model in another thread
        x, hx = (*inputs, None, None)[:2]
        options = dict(options)
        x, hx = options.pop("input", x), options.pop("hx", hx)
        if hx is not None:
            raise RuntimeError(f"{_shown(name)} was given an hx, which a Stream gives it by itself")
        if name in self._dims:
            raise RuntimeError(
                f"{_shown(name)} was called twice in one call of a Stream, which keeps the states "
                "of one sequence for each layer"
            )
        dims = x.dim() if isinstance(x, Tensor) and not x.is_nested else None
        if dims not in (2, 3) and not (dims == 1 and self._batch_size == 1):
            found = type(x).__name__ if dims is None else f"a tensor of shape {list(x.shape)}"
            raise RuntimeError(
                f"{_shown(name)} takes a step [B, I] or a chunk {_chunk(layer)} in a Stream, or "
                f"[I] where batch_size is 1, got {found}"
            )
        time = 1 if layer.batch_first else 0
        if dims < 3:
            x = x.reshape(-1 if dims == 2 else 1, x.shape[-1]).unsqueeze(time)
        if x.shape[1 - time] != self._batch_size:
            kind = f"a chunk {_chunk(layer)}" if dims == 3 else "a step [B, I]"
            raise RuntimeError(
                f"{_shown(name)} was given {kind} of {x.shape[1 - time]} rows, and batch_size is "
                f"{self._batch_size}"
            )
        self._dims[name] = dims
        return (x, self._before.get(name)), options

    def after(self, name: str, layer: nn.RNNBase, inputs: Any, output: Any) -> Any:
        """Its output in the form of what it was given."""
        if threading.get_ident() != self._thread:
            return None
        if not isinstance(output, tuple):
            raise RuntimeError(f"{_shown(name)} returned no states")
        y, self._after[name], *more = output
        if self._dims[name] < 3:
            y = y.squeeze(1 if layer.batch_first else 0)
        return y.squeeze(0) if self._dims[name] == 1 else y, self._after[name], *more


# A module goes through its hooks while it is called, and fails if another thread adds one.
_HOOKS = threading.RLock()


def _layers_of(model: nn.Module) -> dict[str, nn.RNNBase]:
    """The recurrent layers of a model, by name; raises where a Stream cannot keep its states."""
    found = {}
    for name, module in model.named_modules():
        if module._compiled_call_impl is not None or "_orig_mod" in module._modules:
            raise ValueError(
                f"{_shown(name, 'module')} is compiled, and calls no hooks: give a Stream the "
                "module that it was made of"
            )
        if isinstance(module, nn.RNNCellBase):
            raise ValueError(
                f"{_shown(name, 'module')} is a cell, whose states its caller keeps: a "
                "Stream takes layers"
            )
        if isinstance(module, nn.RNNBase):
            if module.bidirectional:
                raise ValueError(
                    f"{_shown(name)} is bidirectional: its outputs need the end of the sequence"
                )
            found[name] = module
        elif conversion._is_recurrent(module):
            raise ValueError(
                f"{_shown(name, 'module')} is a {conversion._class_name(module)}: a Stream "
                "takes layers of fastrnn's and of torch.nn's"
            )
    if not found:
        raise ValueError(f"there is no recurrent layer in this {type(model).__name__}")
    return found


def _zeros(layer: nn.RNNBase, rows: int) -> Any:
    """The states that a layer begins with by itself."""
    some = next(t for t in chain(layer.parameters(), layer.buffers()) if t.is_floating_point())
    sizes = [layer.proj_size or layer.hidden_size]
    if layer.mode == "LSTM":
        sizes.append(layer.hidden_size)
    made = [
        torch.zeros(layer.num_layers, rows, size, dtype=some.dtype, device=some.device)
        for size in sizes
    ]
    return tuple(made) if len(made) > 1 else made[0]


def _checked(name: str, old: Any, new: Any, rows: int) -> Any:
    """States that are given for some rows, one for each, in the form of the old ones."""
    if isinstance(new, tuple) != isinstance(old, tuple):
        kind = "a tuple (h, c)" if isinstance(old, tuple) else "a tensor"
        raise TypeError(f"{_shown(name)} takes {kind} as its states, got a {type(new).__name__}")
    if isinstance(old, tuple) and len(new) != len(old):
        raise ValueError(f"{_shown(name)} takes {len(old)} states, got {len(new)}")

    def fit(expected: Tensor, given: Tensor) -> Tensor:
        layers, _, size = expected.shape
        if given.shape not in ((layers, rows, size), (layers, 1, size)):
            raise ValueError(
                f"{_shown(name)} takes states of shape {[layers, rows, size]}, got "
                f"{list(given.shape)}"
            )
        return given.detach().expand(layers, rows, size)

    return _map(fit, old, new)


def _map(function: Any, *states: Any) -> Any:
    """Of each tensor of states in the form of hx."""
    if isinstance(states[0], tuple):
        return tuple(map(function, *states))
    return function(*states)


def _chunk(layer: nn.RNNBase) -> str:
    return "[B, t, I]" if layer.batch_first else "[t, B, I]"


def _shown(name: str, kind: str = "layer") -> str:
    return f"the {kind} {name!r}" if name else f"the {kind}"
