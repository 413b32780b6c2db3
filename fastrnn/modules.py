"""torch.nn.RNN, LSTM, GRU and their cells, on fused kernels, and variants of them.

Constructors, parameters, initial weights, state_dict, repr and pickling are torch.nn's own, by
inheritance; only forward is ours. The layers derive from torch.nn.RNNBase rather than from
torch.nn.LSTM and its like, because Dynamo refuses to trace through those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar, overload

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence
from torch.types import Device

from . import functional, ops, variants
from .cells import GRUCell, LSTMCell, MUT1Cell, MUT2Cell, MUT3Cell, RNNCell
from .jagged import Jagged

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


def _pair(hx: Any) -> tuple[Any, ...]:
    if type(hx) is not tuple:
        raise TypeError
    return hx


def _unsqueezed(tensors: Sequence[Tensor], dim: int) -> list[Tensor]:
    return [t.unsqueeze(dim) for t in tensors]


Pair = tuple[Tensor, Tensor]
# What hx is: a tensor, or the pair (h, c).
States = TypeVar("States", Tensor, Pair)
_T = TypeVar("_T")

_ZEROS: Literal["zeros"] = "zeros"


class _Layers(variants.Variant, nn.RNNBase, Generic[States]):
    """All of the layers but their options; hx is a tuple where the cell has several states."""

    _mode: str
    _states = 1
    recompute: bool = False  # the class's where it is off, as other options

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        recompute: bool = False,
    ) -> None:
        if recompute:
            self.recompute = True
        if proj_size and not ops.CELLS[self._cell].projects:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        sizes = (input_size, hidden_size, num_layers, bias)
        others = (batch_first, dropout, bidirectional, proj_size)
        if self._cell in variants.TORCH_CELLS:
            nn.RNNBase.__init__(self, self._mode, *sizes, *others, device, dtype)
            return
        # torch.nn checks the arguments, in a layer that is thrown away.
        variants.take_arguments(self, nn.RNNBase("LSTM", *sizes, *others, "meta", dtype))
        self.mode: str = self._mode
        self._flat_weights_names, self._all_weights = [], []
        directions = ("", "_reverse") if self.bidirectional else ("",)
        inputs = self.input_size
        for layer in range(self.num_layers):
            for suffix in directions:
                names = []
                for name, shape in self._shapes(inputs, self.proj_size).items():
                    names.append(f"{name}_l{layer}{suffix}")
                    setattr(self, names[-1], variants.empty_parameter(shape, device, dtype))
                self._flat_weights_names += names
                self._all_weights.append(names)
            inputs = len(directions) * (self.proj_size or self.hidden_size)
        self._init_flat_weights()
        self.reset_parameters()

    @overload
    def forward(
        self,
        input: Tensor,
        hx: States | None = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        reset_to: Literal["zeros", "hx"] | States = _ZEROS,
        return_states: Literal[False] = False,
    ) -> tuple[Tensor, States]: ...

    @overload
    def forward(
        self, input: PackedSequence, hx: States | None = None
    ) -> tuple[PackedSequence, States]: ...

    @overload
    def forward(
        self,
        input: Tensor,
        hx: States | None = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        reset_to: Literal["zeros", "hx"] | States = _ZEROS,
        return_states: Literal[True],
    ) -> tuple[Tensor, States, States]: ...

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
        reset_to: Any = _ZEROS,
        return_states: bool = False,
    ) -> tuple[Any, ...]:
        """Runs all layers over the sequence.

        L is num_layers, D is 2 if bidirectional and 1 otherwise. Unbatched input has no B in any of
        these shapes.

        Args:
            input: [T, B, I], or [B, T, I] with batch_first, or unbatched [T, I]; or a
                PackedSequence; or a NestedTensor of layout torch.jagged, [B, T, I] with rows of
                different T, whatever batch_first says.
            hx: the initial states, [L * D, B, H] each; zeros if not given. For LSTM the tuple
                (h_0, c_0), h_0 with proj_size features if set.
            lengths: how many steps each row has, [B] of any integer type, within [0, T]. Behind its
                end a row's output is 0, and its states stand still. For input on a GPU, lengths are
                fastest on the CPU. On the GPU they cost no synchronisation, but every row runs all
                T steps, and they are not checked: numbers outside [0, T] count as 0 or T.
            resets: at which steps an episode begins, bool, [T, B], or [B, T] with batch_first; for
                a NestedTensor also one of its shape. In both directions, each episode gives what it
                gives alone.
            reset_to: the states that episodes begin with: "zeros"; or "hx", the initial ones of the
                row; or states for every step, like hx with a leading T: [T, L * D, B, H]. Of these,
                the forward direction reads those of the steps where an episode begins, and the
                reverse direction, which begins an episode at its end, those of the steps where one
                ends. The first episode of a row begins with hx, unless resets is set at step 0; the
                last one does in reverse. With anything but "zeros" the kernels are called for each
                step, which is several times slower, and 16-bit types round an LSTM's c after each
                step.
            return_states: whether to return the states after every step, too.

        Returns:
            The output, shaped like input with D * H features, and the last states, like hx. With
            return_states also the states of all layers after every step, like hx with a leading T:
            [T, L * D, B, H]. Of these, hs[t], or (hs[t], cs[t]) for LSTM, is the hx with which
            another call goes on from step t + 1. The reverse direction's part of it has seen step t
            and all later steps of the episode, and goes on with step t - 1. Behind the end of a row
            the states stand still: forward at the last ones, in reverse at those of hx.

        Raises:
            ValueError: input is neither 2-D nor 3-D, or its dtype is not that of the weights;
                reset_to is another word, or comes without resets; a PackedSequence comes with
                lengths, resets, reset_to or return_states, or a NestedTensor with lengths.
            TypeError: hx or reset_to of an LSTM is a tensor.
            RuntimeError: any other shape, type or device that does not fit, or lengths outside
                [0, T]; in grad mode, a reset_to other than "zeros" of a layer with recompute.
        """
        padded = lengths is None and resets is None and reset_to is _ZEROS and not return_states
        if (
            padded
            and not (self.dropout and self.training and self.num_layers > 1)
            and not (self.recompute and torch.is_grad_enabled())
            and ops.is_plain(input)
            and input.dim() == 3
            and input.shape[-1] == self.input_size
        ):
            try:
                count = self._states
                states = () if hx is None else (hx,) if count == 1 else _pair(hx)
                run = self._run if self.num_layers == 1 else self._run_layers
                out = run(input, states)
                return out[0], out[1] if count == 1 else (out[1], out[2])
            except variants.REFUSED:
                pass  # what follows says why, as torch.nn does
        if isinstance(input, Proxy):
            how = {"lengths": lengths, "resets": resets, "reset_to": reset_to}
            how["return_states"] = return_states
            return variants.as_leaf(self, input, hx, **({} if padded else how))
        if isinstance(input, PackedSequence):
            if not padded:
                raise ValueError(
                    "a PackedSequence has lengths of its own, and takes no lengths, resets or "
                    "return_states: pass the padded batch and its lengths"
                )
            return self._packed(input, hx)
        how = {"resets": resets, "reset_to": reset_to, "return_states": return_states}
        if isinstance(input, Tensor) and input.is_nested:
            if lengths is not None:
                raise ValueError("a NestedTensor has lengths of its own, and takes no others")
            return self._jagged(input, hx, **how)
        return self._padded(input, hx, lengths=lengths, **how)

    def _run(self, x: Tensor, states: Sequence[Tensor], layer: int = 0) -> Sequence[Tensor]:
        """ops.run of a layer's weights."""
        parameters: dict[str, Any] = self._parameters
        weights = [parameters[name] for name in self._of_layer(self._flat_weights_names, layer)]
        return ops.run(self._cell, x, states, weights, self.bidirectional, self.batch_first)

    def _run_layers(self, x: Tensor, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """What _run returns, of all layers without dropout between them."""
        each = [s.split(2 if self.bidirectional else 1) for s in states]
        if any(len(s) != self.num_layers for s in each):
            raise RuntimeError("there are other layers' states")
        ends = []
        for layer in range(self.num_layers):
            x, *last = self._run(x, [s[layer] for s in each], layer)
            ends.append(last[: self._states])
        return x, *map(torch.cat, zip(*ends, strict=True))

    def _of_layer(self, flat: list[_T], layer: int) -> list[_T]:
        """What belongs to it, in a list of what belongs to all of them."""
        if self.num_layers == 1:
            return flat
        count = len(flat) // self.num_layers
        return flat[layer * count : (layer + 1) * count]

    def _stack(self, x: Tensor, states: Sequence[Tensor], **how: Any) -> tuple[Any, ...]:
        """functional.stack of the module's weights."""
        flat, scales = self._weights()
        self._check_call(x, flat[0])
        return functional.stack(
            self._cell,
            x,
            states,
            self._by_layer(flat),
            scales=self._by_layer(scales),
            bidirectional=self.bidirectional,
            dropout_p=self.dropout,
            training=self.training,
            recompute=self.recompute,
            **how,
        )

    def _as_given(self, states: Sequence[Tensor]) -> Any:
        """States in the form of hx."""
        return states[0] if self._states == 1 else tuple(states)

    def _packed(self, input: PackedSequence, hx: Any) -> tuple[Any, ...]:
        x, batch_sizes, order, back = input
        states = self._checked(x, hx, batch_sizes)
        if order is not None:
            states = [s.index_select(1, order) for s in states]
        y, last, _ = self._stack(x, states, batch_sizes=batch_sizes)
        if back is not None:
            last = [s.index_select(1, back) for s in last]
        return PackedSequence(y, batch_sizes, order, back), self._as_given(last)

    def _padded(
        self,
        x: Tensor,
        hx: Any,
        lengths: Tensor | None,
        resets: Tensor | None,
        reset_to: Any,
        return_states: bool,
    ) -> tuple[Any, ...]:
        states = self._checked(x, hx, None)
        if lengths is not None:
            batch = [] if x.dim() == 2 else [x.shape[0 if self.batch_first else 1]]
            if list(lengths.shape) != batch:
                raise RuntimeError(f"Expected lengths of shape {batch}, got {list(lengths.shape)}")
        if resets is not None and resets.shape != x.shape[:-1]:
            raise RuntimeError(
                f"Expected resets of shape {list(x.shape[:-1])}, got {list(resets.shape)}"
            )
        starts = self._starts(x, states, resets, reset_to)
        unbatched = x.dim() == 2
        if unbatched:
            x, states, starts = x.unsqueeze(1), _unsqueezed(states, 1), _unsqueezed(starts, 2)
            lengths = None if lengths is None else lengths.reshape(1)
            resets = None if resets is None else resets.unsqueeze(1)
        y, last, every = self._stack(
            x,
            states,
            lengths=lengths,
            resets=resets,
            reset_to=starts,
            all_states=return_states,
            batch_first=self.batch_first and not unbatched,
        )
        if unbatched:
            y, last = y.squeeze(1), [s.squeeze(1) for s in last]
            every = None if every is None else [s.squeeze(2) for s in every]
        if every is None:
            return y, self._as_given(last)
        return y, self._as_given(last), self._as_given(every)

    def _jagged(self, input: Tensor, hx: Any, resets: Tensor | None, **how: Any) -> tuple[Any, ...]:
        """Runs the padded batch that it stands for."""
        batch = Jagged(input, self.batch_first)
        if resets is not None and resets.is_nested:
            resets = batch.padded(resets.contiguous().values())
        y, *rest = self._padded(batch.x, hx, lengths=batch.lengths, resets=resets, **how)
        return batch.nested(y), *rest

    def _starts(
        self, x: Tensor, states: Sequence[Tensor], resets: Tensor | None, reset_to: Any
    ) -> Sequence[Tensor]:
        """reset_to as states for each step; none where it says zeros."""
        if isinstance(reset_to, str) and reset_to not in (_ZEROS, "hx"):
            raise ValueError(f"reset_to must be 'zeros', 'hx' or states, got {reset_to!r}")
        if isinstance(reset_to, str) and reset_to == _ZEROS:
            return ()
        if resets is None:
            raise ValueError("reset_to says what episodes begin with, and needs resets")
        steps = x.shape[1 if self.batch_first and x.dim() == 3 else 0]
        if isinstance(reset_to, str):
            return [s.expand(steps, *s.shape) for s in states]
        if self._states > 1:
            variants.check_pair(self, reset_to, "reset_to")
        given = (reset_to,) if self._states == 1 else tuple(reset_to)
        for i, (s, expected) in enumerate(zip(given, self._state_shapes(x, None), strict=True)):
            if s.shape != (steps, *expected):
                name = "reset_to" if self._states == 1 else f"reset_to[{i}]"
                raise RuntimeError(
                    f"Expected {name} size {(steps, *expected)}, got {list(s.shape)}"
                )
        return given

    def _weights(self) -> tuple[list[Tensor], list[Tensor]]:
        """All of them in their order, and the scales of those of int8."""
        return variants.named_weights(self, self._flat_weights_names), []

    def _by_layer(self, flat: list[Tensor]) -> list[list[Tensor]]:
        return [self._of_layer(flat, i) for i in range(self.num_layers)] if flat else []

    def _check_call(self, x: Tensor, weight: Tensor) -> None:
        variants.check_dtype(x, weight, ValueError)

    def extra_repr(self) -> str:
        return super().extra_repr() + (", recompute=True" if self.recompute else "")

    def flatten_parameters(self) -> None:
        """Does nothing: the kernels take the weights as they lie."""

    def _checked(self, x: Tensor, hx: Any, batch_sizes: Tensor | None) -> tuple[Tensor, ...]:
        """The states in hx, once the shapes fit; raises what torch.nn raises."""
        dims = x.dim()
        if batch_sizes is None and dims not in (2, 3):
            name = variants.name_of(self)
            tensor = " tensor" if name == "RNN" else ""
            raise ValueError(
                f"{name}: Expected input to be 2D or 3D, got {dims}D{tensor} instead, of shape "
                f"{list(x.shape)}"
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
            names, found = (
                ("hx", f"{found} tensor")
                if self._states == 1
                else ("hx and cx", f"({found}) tensors")
            )
            raise RuntimeError(f"For {want} input, {names} should also be {got} but got {found}")
        if self._states > 1:
            variants.check_pair(self, hx)
        expected = self._state_shapes(x, batch_sizes)
        for i, (s, shape) in enumerate(zip(states, expected, strict=True)):
            if s.shape != shape:
                name = "hidden" if self._states == 1 else f"hidden[{i}]"
                message = f"Expected {name} size {shape}, got {list(s.shape)}"
                if not batched:  # torch.nn speaks of the batch of one that it stands for
                    depth, size = shape
                    one = f"Expected {name} size {(depth, 1, size)}, got {list(s[:, None].shape)}"
                    message = f"{one}. Unbatched: {message}"
                raise RuntimeError(message)
        return states

    def _state_shapes(self, x: Tensor, batch_sizes: Tensor | None) -> list[tuple[int, ...]]:
        """Of the initial states of an input."""
        leading: tuple[int, ...] = (self.num_layers * (2 if self.bidirectional else 1),)
        if batch_sizes is not None:
            leading += (int(batch_sizes[0]),)
        elif x.dim() == 3:
            leading += (x.shape[0 if self.batch_first else 1],)
        sizes = [self.proj_size or self.hidden_size] + [self.hidden_size] * (self._states - 1)
        return [(*leading, size) for size in sizes]


# ---- layers --------------------------------------------------------------------------------------


class LSTM(variants.LSTMOptions, _Layers[Pair]):
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
        recompute: whether forward keeps, for the gradient, no more than the output and the states
            at eleven steps, and backward computes the rest again, a twelfth of the steps at a time.
            A training step then takes 1.3 to 2.1 times as long, and 0.4 to 0.56 of the memory for
            an LSTM or a GRU; an RNN saves little but its output, and gains little. The results are
            the same to the bit, and so are the gradients of the input and of the states, but for
            roundings of an LSTM's c in 16-bit types and of sums over both directions. Gradients of
            weights are summed over the parts in float32.

    Raises:
        ValueError: there are no such gates; peephole without all of them; forget_bias without a
            forget gate or without biases; and what torch.nn.LSTM raises.
    """

    _mode = "LSTM"
    _states = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        forget_bias: float | None = None,
        gates: str = "ifo",
        peephole: bool = False,
        recompute: bool = False,
    ) -> None:
        self._set_gates(forget_bias, gates, peephole)
        sizes = (input_size, hidden_size, num_layers, bias)
        others = (batch_first, dropout, bidirectional, proj_size, device, dtype)
        super().__init__(*sizes, *others, recompute=recompute)

    # What subclasses of torch.nn.LSTM call; the others are torch.nn.RNNBase's. Of any type, because
    # torch.nn.LSTM's take pairs where RNNBase's take tensors.
    check_forward_args: Any = nn.LSTM.check_forward_args
    get_expected_cell_size: Any = nn.LSTM.get_expected_cell_size
    permute_hidden: Any = nn.LSTM.permute_hidden


class GRU(variants.GRUOptions, _Layers[Tensor]):
    """torch.nn.GRU, fused: the same arguments, parameters and results; and the GRU as published.

        r = sigmoid(W_ir x + W_hr h)    n = tanh(W_in x + r * (W_hn h))
        z = sigmoid(W_iz x + W_hz h)    h' = (1 - z) * n + z * h

    with biases.

    Args:
        reset_after: whether the reset gate acts after the product, as in torch.nn. If not, it acts
            before it, n = tanh(W_in x + W_hn (r * h)): Cho et al. 2014.
        recompute: as of LSTM.

    Raises:
        ValueError: proj_size is given; and what torch.nn.GRU raises.
    """

    _mode = "GRU"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
        recompute: bool = False,
    ) -> None:
        self._set_reset(reset_after)
        sizes = (input_size, hidden_size, num_layers, bias)
        others = (batch_first, dropout, bidirectional, proj_size, device, dtype)
        super().__init__(*sizes, *others, recompute=recompute)


class _LearnedInput(variants.MUTOptions, _Layers[Tensor]):
    """A layer with x itself, or a learned product of it, in a gate."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        learned_input: bool = False,
        recompute: bool = False,
    ) -> None:
        self._set_options(learned_input=learned_input)
        sizes = (input_size, hidden_size, num_layers, bias)
        others = (batch_first, dropout, bidirectional, proj_size, device, dtype)
        super().__init__(*sizes, *others, recompute=recompute)


class MUT1(_LearnedInput):
    """MUT1 of Jozefowicz et al. 2015, with the arguments of torch.nn.GRU.

        r = sigmoid(W_ir x + W_hr h)    n = tanh(W_hn (r * h) + tanh(x))
        z = sigmoid(W_iz x)             h' = n * z + h * (1 - z)

    with biases. weight_ih and bias_ih have the blocks r z, weight_hh and bias_hh r n, of H rows
    each.

    Args:
        learned_input: takes W_in x in place of x itself, and weight_ih has the blocks r z n. So
            does every layer whose input is not of H features, such as the second one of both
            directions.
        recompute: as of LSTM.

    Raises:
        ValueError: proj_size is given; and what torch.nn.GRU raises.
    """

    _cell, _mode = "mut1", "MUT1"


class MUT2(_LearnedInput):
    """MUT2 of Jozefowicz et al. 2015, with the arguments of torch.nn.GRU.

        r = sigmoid(x + W_hr h)         n = tanh(W_in x + W_hn (r * h))
        z = sigmoid(W_iz x + W_hz h)    h' = n * z + h * (1 - z)

    with biases. weight_ih and bias_ih have the blocks z n, weight_hh and bias_hh r z n, of H rows
    each.

    Args:
        learned_input: takes W_ir x in place of x itself, and weight_ih has the blocks r z n. So
            does every layer whose input is not of H features, such as the second one of both
            directions.
        recompute: as of LSTM.

    Raises:
        ValueError: proj_size is given; and what torch.nn.GRU raises.
    """

    _cell, _mode = "mut2", "MUT2"


class MUT3(_Layers[Tensor]):
    """MUT3 of Jozefowicz et al. 2015, with the arguments of torch.nn.GRU.

        r = sigmoid(W_ir x + W_hr h)          n = tanh(W_in x + W_hn (r * h))
        z = sigmoid(W_iz x + W_hz tanh(h))    h' = n * z + h * (1 - z)

    with biases. All weights and biases have the blocks r z n, of H rows each.

    Args:
        recompute: as of LSTM.

    Raises:
        ValueError: proj_size is given; and what torch.nn.GRU raises.
    """

    _cell, _mode = "mut3", "MUT3"


class RNN(_Layers[Tensor]):
    """torch.nn.RNN, fused: the same arguments, parameters and results.

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu with nonlinearity="relu"

    Elman 1990.

    Args:
        recompute: as of LSTM.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        recompute: bool = False,
    ) -> None:
        if nonlinearity not in variants.RNNS:
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        self.nonlinearity = nonlinearity
        sizes = (input_size, hidden_size, num_layers, bias)
        others = (batch_first, dropout, bidirectional, proj_size, device, dtype)
        super().__init__(*sizes, *others, recompute=recompute)

    # Read only, because nonlinearity says it.
    @property
    def _cell(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.nonlinearity not in variants.RNNS:  # set later; the constructor has its own error
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return variants.RNNS[self.nonlinearity]

    @property
    def _mode(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"RNN_{self.nonlinearity.upper()}"
