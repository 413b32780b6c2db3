"""Layers as ONNX's own LSTM, GRU and RNN: export."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.export import ExportedProgram

from .reference import CELLS, Weights

__all__ = ["NODES", "Unsupported", "export"]

_INT32, _BOOL = 6, 9  # of onnx.TensorProto

Value = Any  # onnx_ir's, which says of shapes and types that there may be none


class NodeType(NamedTuple):
    """ONNX's node for a cell."""

    name: str
    gates: str  # in ONNX's order, by their letters in fastrnn.reference
    attributes: dict[str, int] = {}  # noqa: RUF012
    activation: str = ""  # of each direction, where it is not the default
    peepholes: str = ""


NODES = {
    "lstm": NodeType("LSTM", "iofg"),
    "lstm_peephole": NodeType("LSTM", "iofg", peepholes="iof"),
    "gru": NodeType("GRU", "zrn", {"linear_before_reset": 1}),
    "gru_before": NodeType("GRU", "zrn", {"linear_before_reset": 0}),
    "rnn_tanh": NodeType("RNN", "h"),
    "rnn_relu": NodeType("RNN", "h", activation="Relu"),
}


class Unsupported(RuntimeError):  # noqa: N818  (as torch.onnx names it)
    """What ONNX's recurrent nodes cannot say."""


def export(
    model: nn.Module | ExportedProgram,
    args: tuple[Any, ...] = (),
    f: str | os.PathLike[str] | None = None,
    *,
    dynamic_shapes: Any = None,
    external_data: bool = True,
    **options: Any,
) -> torch.onnx.ONNXProgram:
    """torch.onnx.export of a model that holds layers or cells of fastrnn, for inference.

    Each layer becomes a node LSTM, GRU or RNN of ONNX, whose weights are constants: all directions
    and layers, with and without biases, initial states, lengths and batch_first, of float32,
    float64 and float16. The model is traced in eval mode and without gradients, and is in its
    former mode afterwards. It needs the packages onnx and onnxscript: pip install "fastrnn[onnx]".

    Args:
        model, args, f, dynamic_shapes, external_data: as of torch.onnx.export. The numbers of steps
            and of rows may be dynamic.
        options: others of torch.onnx.export, such as kwargs, input_names or opset_version.

    Returns:
        The program, which was saved to f if f was given.

    Raises:
        Unsupported: ONNX has no node for what a layer does: MUT1, MUT2, MUT3, an LSTM without one
            of its gates, proj_size, resets, a packed batch, the c of every step, bfloat16 and int8.
            fastrnn.export.decompositions makes loops of all of these but packed batches and int8.
        torch.onnx.errors.OnnxExporterError: torch cannot export the rest of the model.
    """
    modules = [*model.modules()] if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    table = {**_translations(), **(options.pop("custom_translation_table", None) or {})}
    try:
        if isinstance(model, nn.Module):
            model.eval()
        with torch.no_grad():
            program: Any = torch.onnx.export(
                model,
                args,
                dynamo=True,
                dynamic_shapes=dynamic_shapes,
                custom_translation_table=table,
                **options,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        if own := _own_error(error):
            raise own from None
        raise
    finally:
        for module, training in zip(modules, modes):
            module.training = training
    _fold_weights(program)
    if f is not None:
        program.save(f, external_data=external_data)
    return program


def _own_error(error: BaseException | None) -> Unsupported | None:
    """The error of ours that torch's has for its cause."""
    while error is not None and not isinstance(error, Unsupported):
        error = error.__cause__
    return error


def _translations() -> dict[Any, Callable[..., Any]]:
    return {torch.ops.fastrnn.scan.default: _scan, torch.ops.fastrnn.scan_int8.default: _scan_int8}


def _scan_int8(cell: str, *_: Any) -> None:
    raise Unsupported(f"ONNX has no node for weights of int8, here of the cell {cell}")


def _scan(
    cell: str,
    x: Value,
    states: Sequence[Value],
    weights: Sequence[Value],
    lengths: Value | None,
    batch_sizes: Value | None,
    resets: Value | None,
    bidirectional: bool,
    batch_first: bool,
    save: bool,
    allow_tf32: bool = False,
    all_states: bool = False,
) -> list[Value]:
    """fastrnn::scan in ONNX."""
    from onnxscript import opset18

    op: Any = opset18
    half = len(weights) // 2
    halves = (weights[:half], weights[half:]) if bidirectional else (weights,)
    directions = [Weights.of(cell, own) for own in halves]
    first = directions[0]
    _check(cell, x, first, batch_sizes, resets, save or all_states)
    kind, form = NODES[cell], CELLS[cell]

    def ordered(weight: Value, ours: str, theirs: str) -> Value:
        """[1, ...] with its blocks of H rows in ONNX's order."""
        blocks = op.Reshape(weight, [len(ours), -1])
        blocks = op.Gather(blocks, [ours.index(gate) for gate in theirs], axis=0)
        return op.Reshape(blocks, [1, *weight.shape])

    def stacked(parts: Iterable[Value], axis: int = 0) -> Value:
        return op.Concat(*parts, axis=axis)

    w = stacked(ordered(d.ih, form.x, kind.gates) for d in directions)
    r = stacked(ordered(d.hh, form.h, kind.gates) for d in directions)
    b = p = None
    if first.bias_ih is not None:
        b = stacked(
            stacked((ordered(t, form.x, kind.gates) for t in (d.bias_ih, d.bias_hh)), 1)
            for d in directions
        )
    if kind.peepholes:
        p = stacked(ordered(d.peephole, form.peepholes, kind.peepholes) for d in directions)
    for weight in (w, r, b, p):
        _mark(weight)

    single = len(x.shape) == 2
    if single:
        x, states = op.Unsqueeze(x, [0]), [op.Unsqueeze(s, [0]) for s in states]
    elif batch_first:
        x = op.Transpose(x, perm=[1, 0, 2])
    attributes: dict[str, Any] = {"hidden_size": first.hh.shape[1], **kind.attributes}
    if bidirectional:
        attributes["direction"] = "bidirectional"
    if kind.activation:
        attributes["activations"] = [kind.activation] * len(directions)
    counts = None if lengths is None else op.Cast(lengths, to=_INT32)
    inputs = [x, w, r, b, counts, *(states or [None] * form.states)]
    y, *last = getattr(op, kind.name)(*inputs, *([p] if kind.peepholes else []), **attributes)
    if lengths is not None and states:
        # ONNX does not say what follows from no steps; ONNX Runtime returns zeros.
        any_step = op.Unsqueeze(op.Cast(lengths, to=_BOOL), [1])
        last = [op.Where(any_step, s, old) for s, old in zip(last, states, strict=True)]
    # y is [T, D, B, H].
    if bidirectional:
        y = op.Transpose(y, perm=[2, 0, 1, 3] if batch_first else [0, 2, 1, 3])
        return [op.Reshape(y, [0, 0, -1]), *last]
    y = op.Squeeze(y, [1])
    if single:
        return [op.Squeeze(t, [0]) for t in (y, *last)]
    return [op.Transpose(y, perm=[1, 0, 2]) if batch_first else y, *last]


def _check(
    cell: str,
    x: Value,
    weights: Weights,
    batch_sizes: Value | None,
    resets: Value | None,
    save: bool,
) -> None:
    """Raises Unsupported for what ONNX cannot say."""
    if batch_sizes is not None:
        raise Unsupported("ONNX has no node for a packed batch: pass a padded one and its lengths")
    found = {
        f"the cell {cell}": cell not in NODES,
        "a projection (proj_size)": weights.hr is not None,
        "resets": resets is not None,
        "the c of every step (return_states)": save and CELLS[cell].states > 1,
        "layers of bfloat16": x.dtype.name == "BFLOAT16",
    }
    for what, is_there in found.items():
        if is_there:
            raise Unsupported(
                f"ONNX has no node for {what}: torch.export.export the model, run_decompositions("
                "fastrnn.export.decompositions('loop')), and export that program"
            )


_WEIGHTS = "fastrnn: weights"


def _mark(weights: Value | None) -> None:
    """Marks the nodes that compute them."""
    node = None if weights is None else weights.producer()
    if node is not None:
        node.meta[_WEIGHTS] = True
        for value in node.inputs:
            _mark(value)


def _fold_weights(program: torch.onnx.ONNXProgram) -> None:
    """Makes constants of the weights, whatever their size: what quantises a model looks for them
    there."""
    from onnxscript import optimizer

    optimizer.fold_constants(program.model, should_fold=lambda node: _WEIGHTS in node.meta)
    optimizer.remove_unused_nodes(program.model)
