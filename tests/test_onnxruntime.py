"""The architectures that ONNX has, as ONNX Runtime computes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastrnn

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

T, B, I, H = 7, 4, 3, 6  # noqa: E741
LENGTHS = [7, 5, 1, 3]

# Module, its options, ONNX's node and attributes, and ONNX's gates among ours.
LAYERS = {
    "GRU before": ("GRU", {"reset_after": False}, {"linear_before_reset": 0}, "rzn", "zrn"),
    "GRU after": ("GRU", {"reset_after": True}, {"linear_before_reset": 1}, "rzn", "zrn"),
    "LSTM peephole": ("LSTM", {"peephole": True}, {}, "ifgo", "iofg"),
    "LSTM": ("LSTM", {}, {}, "ifgo", "iofg"),
}


def reordered(weight: Tensor, ours: str, theirs: str) -> Tensor:
    blocks = dict(zip(ours, weight.chunk(len(ours)), strict=True))
    return torch.cat([blocks[gate] for gate in theirs])


def node_of(module: torch.nn.Module, attributes: dict, ours: str, theirs: str) -> tuple:
    """The node, and its weights as ONNX has them: W, R, B, and P."""
    suffixes = ("_l0", "_l0_reverse") if module.bidirectional else ("_l0",)

    def stacked(*names: str, gates: tuple[str, str] = (ours, theirs)) -> Tensor:
        rows = (
            torch.cat([reordered(getattr(module, name + suffix), *gates) for name in names])
            for suffix in suffixes
        )
        return torch.stack(list(rows)).detach()

    weights = {
        "W": stacked("weight_ih"),
        "R": stacked("weight_hh"),
        "B": stacked("bias_ih", "bias_hh"),
    }
    inputs = ["X", "W", "R", "B", "lengths", "h"]
    outputs = ["Y", "Y_h"]
    if isinstance(module, fastrnn.LSTM):
        inputs.append("c")
        outputs.append("Y_c")
        if module.peephole:
            inputs.append("P")
            weights["P"] = stacked("weight_peephole", gates=("ifo", "iof"))
    direction = "bidirectional" if module.bidirectional else "forward"
    kind = type(module).__name__
    node = onnx.helper.make_node(
        kind, inputs, outputs, hidden_size=H, direction=direction, **attributes
    )
    return node, weights


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_equals_onnx_runtime(layer: tuple, bidirectional: bool) -> None:
    name, options, attributes, ours, theirs = layer
    torch.manual_seed(0)
    module = getattr(fastrnn, name)(I, H, bidirectional=bidirectional, **options)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(3)
    node, weights = node_of(module, attributes, ours, theirs)
    directions = 1 + bidirectional
    states = [torch.randn(directions, B, H) for _ in range(2 if name == "LSTM" else 1)]
    x, lengths = torch.randn(T, B, I), torch.tensor(LENGTHS)
    feed = {"X": x, **weights, "lengths": lengths.int(), **dict(zip("hc", states))}
    kinds = onnx.TensorProto
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [
            onnx.helper.make_tensor_value_info(
                key, kinds.INT32 if key == "lengths" else kinds.FLOAT, t.shape
            )
            for key, t in feed.items()
        ],
        [
            onnx.helper.make_tensor_value_info(key, kinds.FLOAT, [None] * rank)
            for key, rank in zip(node.output, (4, 3, 3))
        ],
    )
    opsets = [onnx.helper.make_opsetid("", 14)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    y, *last = map(torch.tensor, session.run(None, {k: t.numpy() for k, t in feed.items()}))
    y = y.transpose(1, 2).flatten(2)  # [T, D, B, H]

    found = fastrnn.functional.layer(
        module._cell, x, states, module._flat_weights, lengths=lengths, bidirectional=bidirectional
    )
    torch.testing.assert_close(found.y, y, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(list(found.last), last, rtol=1e-5, atol=1e-6)

    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    out, ends = module(packed, tuple(states) if name == "LSTM" else states[0])
    padded, _ = torch.nn.utils.rnn.pad_packed_sequence(out)
    torch.testing.assert_close(padded, y, rtol=1e-5, atol=1e-6)
    ends = list(ends) if name == "LSTM" else [ends]
    torch.testing.assert_close(ends, last, rtol=1e-5, atol=1e-6)
