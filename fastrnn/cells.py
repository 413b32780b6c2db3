"""torch.nn's cells, and the variants' own, on the fused kernels: one step of one layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.types import Device

from . import functional, ops, variants

__all__ = ["GRUCell", "LSTMCell", "MUT1Cell", "MUT2Cell", "MUT3Cell", "RNNCell"]


class _Cell(variants.Variant, nn.RNNCellBase):
    """The parameters of a cell."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if self._cell in variants.TORCH_CELLS:
            chunks = ops.CELLS[self._cell].h_blocks
            nn.RNNCellBase.__init__(self, input_size, hidden_size, bias, chunks, device, dtype)
            return
        # torch.nn checks the arguments, in a cell that is thrown away.
        checked = nn.RNNCellBase(input_size, hidden_size, bias, 1, "meta", dtype)
        variants.take_arguments(self, checked)
        for name, shape in self._shapes(self.input_size).items():
            setattr(self, name, variants.empty_parameter(shape, device, dtype))
        self.reset_parameters()


# The names of a cell's weights, by whether it has biases.
_CELL_WEIGHTS = {
    name: tuple(tuple(cell.shapes(1, 1, bias=bias)) for bias in (False, True))
    for name, cell in ops.CELLS.items()
}


def _cell_step(
    module: nn.RNNCellBase, cell: str, input: Tensor, states: tuple[Tensor, ...]
) -> Sequence[Tensor]:
    """One step of a cell on [B, I] or [I]. Raises what torch.nn raises."""
    names = _CELL_WEIGHTS[cell][1 if module.bias else 0]
    if ops.is_plain(input) and input.dim() == 2 and input.shape[-1] == module.input_size:
        try:
            parameters: dict[str, Any] = module._parameters
            out = ops.run(cell, input, states, [parameters[name] for name in names])
            return out[1 : 1 + ops.CELLS[cell].states]
        except variants.REFUSED:
            pass  # what follows says why, as torch.nn does
    name = variants.name_of(module)
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
            f"input has inconsistent input_size: got {input.shape[-1]} expected "
            f"{module.input_size}, in an input of shape {list(input.shape)}"
        )
    weights = variants.named_weights(module, names)
    variants.check_dtype(input, weights[0], RuntimeError)
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
            f"hidden{i} has inconsistent hidden_size: got {s.shape[1]}, expected "
            f"{module.hidden_size}: got {list(s.shape)}, expected {list(expected)}"
        )
    after = functional.step(cell, input, states, weights)
    return tuple(s.squeeze(0) for s in after) if unbatched else after


class LSTMCell(variants.LSTMOptions, _Cell, nn.LSTMCell):
    """torch.nn.LSTMCell, fused: the same arguments, parameters and results; and its variants, by
    the options of LSTM. The peepholes are weight_peephole, [3 * H]."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        forget_bias: float | None = None,
        gates: str = "ifo",
        peephole: bool = False,
    ) -> None:
        self._set_gates(forget_bias, gates, peephole)
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step: input [B, I] or [I], hx (h, c) of [B, H] or [H] each. Returns (h, c)."""
        if isinstance(input, Proxy):
            return variants.as_leaf(self, input, hx)
        if hx is not None:
            variants.check_pair(self, hx)
        h, c = _cell_step(self, self._cell, input, () if hx is None else tuple(hx))
        return h, c


class _CellOfH(_Cell):
    """A cell whose only state is h."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step: input [B, I] or [I], hx [B, H] or [H]. Returns h."""
        if isinstance(input, Proxy):
            return variants.as_leaf(self, input, hx)
        return _cell_step(self, self._cell, input, () if hx is None else (hx,))[0]


class GRUCell(variants.GRUOptions, _CellOfH, nn.GRUCell):
    """torch.nn.GRUCell, fused: the same arguments, parameters and results; and the GRU as
    published, by the option of GRU."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
    ) -> None:
        self._set_reset(reset_after)
        super().__init__(input_size, hidden_size, bias, device, dtype)


class _LearnedInput(variants.MUTOptions, _CellOfH):
    """A cell with x itself, or a learned product of it, in a gate."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Device = None,
        dtype: torch.dtype | None = None,
        *,
        learned_input: bool = False,
    ) -> None:
        self._set_options(learned_input=learned_input)
        super().__init__(input_size, hidden_size, bias, device, dtype)


class MUT1Cell(_LearnedInput):
    """A step of MUT1, which says what its arguments are; the others are torch.nn.GRUCell's."""

    _cell = "mut1"


class MUT2Cell(_LearnedInput):
    """A step of MUT2, which says what its arguments are; the others are torch.nn.GRUCell's."""

    _cell = "mut2"


class MUT3Cell(_CellOfH):
    """A step of MUT3, with the arguments of torch.nn.GRUCell."""

    _cell = "mut3"


class RNNCell(nn.RNNCell):
    """torch.nn.RNNCell, fused: the same arguments, parameters and results."""

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """One step: input [B, I] or [I], hx [B, H] or [H]. Returns h."""
        if isinstance(input, Proxy):
            return variants.as_leaf(self, input, hx)
        if self.nonlinearity not in variants.RNNS:
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        states = () if hx is None else (hx,)
        return _cell_step(self, variants.RNNS[self.nonlinearity], input, states)[0]
