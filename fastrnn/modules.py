"""torch.nn.RNN, LSTM, GRU and their cells, on fused kernels, and variants of them.

Constructors, parameters, initial weights, state_dict, repr and pickling are torch.nn's own, by
inheritance; only forward is ours. The layers derive from torch.nn.RNNBase rather than from
torch.nn.LSTM and its like, because Dynamo refuses to trace through those.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from . import functional, ops, variants
from .cells import GRUCell, LSTMCell, MUT1Cell, MUT2Cell, MUT3Cell, RNNCell

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


_NO_PROJECTION = "proj_size argument is only supported for LSTM, not RNN or GRU"


class _Layers(variants.Variant, nn.RNNBase):
    """All of the layers but their options; hx is a tuple where the cell has several states."""

    _mode: str
    _states = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if self._cell in variants.TORCH_CELLS:
            super().__init__(self._mode, *args, **kwargs)
            return
        # torch.nn checks the arguments, in a layer that is thrown away.
        given = variants.bound_arguments(nn.RNNBase.__init__, self, "LSTM", *args, **kwargs)
        if given["proj_size"] and not ops.CELLS[self._cell].projects:
            raise ValueError(_NO_PROJECTION)
        variants.take_arguments(self, nn.RNNBase(**variants.checked_on_meta(given)))
        self.mode = self._mode
        self._flat_weights_names, self._all_weights = [], []
        directions = ("", "_reverse") if self.bidirectional else ("",)
        inputs = self.input_size
        for layer in range(self.num_layers):
            for suffix in directions:
                names = []
                for name, shape in self._shapes(inputs, self.proj_size).items():
                    names.append(f"{name}_l{layer}{suffix}")
                    setattr(self, names[-1], variants.empty_parameter(shape, given))
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
            except variants.REFUSED:
                pass  # what follows says why, as torch.nn does
        flat = variants.named_weights(self, self._flat_weights_names)
        count = len(flat) // self.num_layers
        weights = [flat[i : i + count] for i in range(0, len(flat), count)]
        x, batch_sizes, order, back = (
            input if isinstance(input, PackedSequence) else (input, None, None, None)
        )
        states = self._checked(x, hx, batch_sizes)
        variants.check_dtype(x, flat[0], ValueError)
        unbatched = batch_sizes is None and x.dim() == 2
        if unbatched:
            x, states = x.unsqueeze(1), [s.unsqueeze(1) for s in states]
        if order is not None:
            states = [s.index_select(1, order) for s in states]
        y, last, _ = functional.stack(
            self._cell,
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
            variants.check_pair(self, hx)
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


# ---- layers --------------------------------------------------------------------------------------


class LSTM(variants.LSTMOptions, _Layers):
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


class GRU(variants.GRUOptions, _Unprojected):
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


class MUT1(variants.MUTOptions, _Unprojected):
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


class MUT2(variants.MUTOptions, _Unprojected):
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
        if self.nonlinearity not in variants.RNNS:  # set later; the constructor has its own error
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return variants.RNNS[self.nonlinearity]

    @property
    def _mode(self) -> str:
        return f"RNN_{self.nonlinearity.upper()}"
