"""Layers with weights of int8, for inference: quantize_.

The kernels take a matrix packed, and the scale of each of its rows. Packed it is [unit blocks,
gates, bytes] of int8: a block has 16 units, and the bytes are [ceil(K / 4), 16, 4], four
neighbouring columns of each unit, and behind them the sum of each unit's row, [16] of int32. What
does not exist is 0. The format is the same for every instruction set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from . import conversion, functional, modules, ops
from .variants import UNREADABLE, tensor_of, text_in

__all__ = ["Quantized", "dequantize", "pack", "quantize_", "quantize_rows", "unpack"]

UNITS, COLUMNS = 16, 4  # of a block; side by side
LARGEST = 127
LONGEST = (2**31 - 1) // LARGEST**2  # columns whose products int32 can sum up


def quantize_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """q of int8 and s of float32, [rows], with s q close to the matrix: s = max |row| / 127."""
    matrix = matrix.detach().float()
    scale = matrix.abs().amax(1) / LARGEST
    q = (matrix / scale.where(scale > 0, 1.0)[:, None]).round().clamp(-LARGEST, LARGEST)
    return q.to(torch.int8), scale


def pack(q: Tensor, gates: int) -> Tensor:
    """[gates * units, K] of int8 as the kernels take it."""
    units, columns = q.shape[0] // gates, q.shape[1]
    q = pad(q.view(gates, units, columns), (0, -columns % COLUMNS, 0, -units % UNITS))
    blocks = q.view(gates, -1, UNITS, q.shape[2] // COLUMNS, COLUMNS).permute(1, 0, 3, 2, 4)
    sums = q.sum(2, dtype=torch.int32).view(gates, -1, UNITS).transpose(0, 1).contiguous()
    return torch.cat([blocks.flatten(2), sums.view(torch.int8)], 2)


def unpack(packed: Tensor, units: int, columns: int) -> Tensor:
    """The inverse of pack."""
    blocks, gates, _ = packed.shape
    values = packed[:, :, : -4 * UNITS].view(blocks, gates, -1, UNITS, COLUMNS)
    q = values.permute(1, 0, 3, 2, 4).reshape(gates, blocks * UNITS, -1)
    return q[:, :units, :columns].reshape(gates * units, columns)


def dequantize(packed: Tensor, scale: Tensor, columns: int) -> Tensor:
    """The matrix that int8 weights stand for, [rows, columns] of float32."""
    units = len(scale) // packed.shape[1]
    return unpack(packed, units, columns) * scale[:, None]


def quantize_(model: nn.Module, dtype: torch.dtype = torch.int8) -> nn.Module:
    """Gives the recurrent layers of a model weights of int8, in place, for inference.

    Every LSTM, GRU and RNN of torch.nn's and of fastrnn's in the model, and every MUT1, MUT2 and
    MUT3, becomes a Quantized layer; so does the model itself if it is such a layer. It is called as
    before, and takes whatever fastrnn's layers take, such as lengths and resets, even if it was
    torch.nn's. Subclasses, cells and all other modules stay what they are.

    A matrix W becomes integers q of int8 and a scale s of float32 for each row, and what it
    multiplies, x and h and whatever else a cell multiplies, is quantised at every step, each row a
    of a batch by itself:

        W_rk = s_r q_rk                    s_r = max_k |W_rk| / 127    q_rk = round(W_rk / s_r)
        a_k  = t p_k                       t   = max_k |a_k| / 127     p_k  = round(a_k / t)
        (W a)_r + b_r = s_r t sum_k q_rk p_k + b_r

    The sum is exact, in int32. Biases, peepholes, states and gates are float32. A layer takes
    input of float32, bfloat16 or float16, whatever its weights were, and returns that type, as
    long as the CPU computes. The weights take a quarter of float32's memory, and a step of few
    rows as much less time as it waits for them.

    A state_dict has, for each matrix, the packed int8 under the matrix's name and the scale under
    that name and "_scale", and "_extra_state", which says what layer it is of. A quantised layer
    loads that of another quantised one of the same sizes and no other. `.to(dtype)`, `.half()` and
    the like change no quantised layer: it keeps int8 and float32, and takes input of either type.

    Args:
        model: changed in place, on any device; the kernels are the CPU's.
        dtype: torch.int8.

    Returns:
        The model.

    Raises:
        ValueError: dtype is not torch.int8; there is no layer to quantise; or one has weights that
            are not finite, not parameters of its own, or of more than 133144 columns. Then no
            layer is changed.

    A quantised layer raises a RuntimeError where a gradient would be needed, which it does not
    have: in grad mode, if it is in training mode or if its input or a state requires one; and
    where its input is not on the CPU.
    """
    if dtype != torch.int8:
        raise ValueError(f"quantize_ knows torch.int8 only, got {dtype}")
    recurrent = (m for m in model.modules() if isinstance(m, nn.RNNBase))
    found = [m for m in recurrent if type(m) in _LAYERS]
    if not found and not any(isinstance(m, Quantized) for m in model.modules()):
        raise ValueError(
            f"there is no layer to quantise in this {type(model).__name__}: quantize_ takes LSTM, "
            "GRU and RNN of torch.nn and of fastrnn, but no subclasses of them and no cells"
        )
    for layer, buffers in [(layer, _buffers_of(layer)) for layer in found]:
        _convert(layer, buffers)
    return model


_LAYERS = (
    *(nn.LSTM, nn.GRU, nn.RNN),
    *(modules.LSTM, modules.GRU, modules.RNN, modules.MUT1, modules.MUT2, modules.MUT3),
    *(conversion.LSTM, conversion.GRU, conversion.RNN),
)


def _cell_of(layer: nn.RNNBase) -> str:
    return layer._cell if isinstance(layer, modules._Layers) else layer.mode.lower()


def _scale_name(name: str) -> str:
    return f"{name}_scale"


def _buffers_of(layer: nn.RNNBase) -> dict[str, Tensor]:
    """The tensors of the quantised layer."""
    found: dict[str, Tensor] = {}
    for name in layer._flat_weights_names:
        parameter = layer._parameters.get(name)
        if parameter is None:
            raise ValueError(
                f"{name} of a {type(layer).__name__} is not a parameter of its own: remove "
                "parametrizations and weight normalisation before quantize_"
            )
        if not parameter.is_meta and not parameter.isfinite().all():
            raise ValueError(f"{name} of a {type(layer).__name__} is not finite")
        if parameter.dim() == 1:
            found[name] = parameter.detach().to(torch.float32, copy=True)
            continue
        if parameter.shape[1] > LONGEST:
            raise ValueError(
                f"{name} of a {type(layer).__name__} has {parameter.shape[1]} columns; sums in "
                f"int32 are exact for up to {LONGEST}"
            )
        units = layer.proj_size if name.startswith("weight_hr") else layer.hidden_size
        q, found[_scale_name(name)] = quantize_rows(parameter)
        found[name] = pack(q, len(q) // units)
    return found


def _convert(layer: nn.RNNBase, buffers: dict[str, Tensor]) -> None:
    vars(layer).pop("recompute", None)  # which is for gradients
    cell, kind, shown = _cell_of(layer), type(layer).__name__, layer.extra_repr()
    for name in layer._flat_weights_names:
        del layer._parameters[name]
    layer.__class__ = Quantized
    scales = [_scale_name(n) for n in layer._flat_weights_names if _scale_name(n) in buffers]
    vars(layer).update(_cell=cell, _states=ops.CELLS[cell].states)
    vars(layer).update(_scale_names=scales, _kind=kind, _shown=shown)
    for name, buffer in buffers.items():
        layer.register_buffer(name, buffer)
    layer._init_flat_weights()


class Quantized(modules._Layers[Any]):
    """An LSTM, GRU, RNN or one of their variants with weights of int8: what quantize_ makes.

    It is called like the layers of fastrnn, without gradients and on the CPU only.
    """

    _scale_names: list[str]  # in the order of the matrices
    _kind: str  # the name of the layer's class before
    _shown: str  # and its extra_repr

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("a Quantized layer is made by fastrnn.quantize_")

    def _run(self, x: Tensor, states: Sequence[Tensor], layer: int = 0) -> Sequence[Tensor]:
        self._check_mode()
        weights, scales = (self._of_layer(flat, layer) for flat in self._weights())
        how = (self.bidirectional, self.batch_first)
        return ops.run_int8(self._cell, x, states, weights, scales, *how)

    def _weights(self) -> tuple[list[Tensor], list[Tensor]]:
        buffers: dict[str, Any] = self._buffers
        weights = [buffers[name] for name in self._flat_weights_names]
        return weights, [buffers[name] for name in self._scale_names]

    def _check_call(self, x: Tensor, weight: Tensor) -> None:
        self._check_mode()
        if x.dtype not in functional.INT8_INPUTS:
            raise ValueError(
                "layers of int8 take input of float32, bfloat16 or float16, got "
                f"{str(x.dtype).removeprefix('torch.')}"
            )

    def _check_mode(self) -> None:
        if self.training and torch.is_grad_enabled():
            raise RuntimeError(
                "layers of int8 have no gradient: call eval() on the model, or use "
                "torch.no_grad() or inference_mode()"
            )

    def _apply(self, fn: Any, recurse: bool = True) -> Quantized:
        """Moves, but keeps the types: half precision would spoil the scales."""

        def keep_type(t: Tensor) -> Tensor:
            moved = fn(t)
            return moved if moved.dtype == t.dtype else t.to(moved.device)

        return super()._apply(keep_type, recurse)

    def reset_parameters(self) -> None:
        """Raises RuntimeError: weights of int8 are not drawn, but made of others."""
        raise RuntimeError("weights of int8 are made by quantize_ of those of another layer")

    def _get_name(self) -> str:
        return f"Quantized{self._kind}"

    def extra_repr(self) -> str:
        return f"{self._shown}, dtype=torch.int8"

    # ---- state_dict ------------------------------------------------------------------------------

    def _description(self) -> str:
        """What padded weights do not say by their shapes."""
        proj = f", {self.proj_size}" if self.proj_size else ""
        return f"int8 {self._cell}({self.input_size}, {self.hidden_size}{proj})"

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        nn.Module._save_to_state_dict(self, destination, prefix, keep_vars)
        destination[f"{prefix}_extra_state"] = tensor_of(self._description())

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
        concerned = key in state_dict or any(prefix + name in state_dict for name in self._buffers)
        found, own = text_in(state_dict.get(key)), self._description()
        if concerned and found not in (own, UNREADABLE):
            error_msgs.append(
                f"{prefix.removesuffix('.') or 'The module'} is '{own}', and the state_dict has "
                f"{found!r}, by the key '{key}': a quantised layer loads weights of a quantised "
                "layer of its own kind and sizes only."
            )
            return
        rest = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)
        if key in unexpected_keys:
            unexpected_keys.remove(key)
