"""torch.nn's layers as ONNX graphs."""

from __future__ import annotations

import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from fastrnn import reference
from fastrnn.onnx import NODES

CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn_tanh"}
OPSET, IR = 14, 8


def states_of(module: nn.RNNBase) -> str:
    return "hc" if module.mode == "LSTM" else "h"


def input_names(module: nn.RNNBase) -> list[str]:
    """The states, as hx stacks them: h of each layer, then c of each."""
    return [f"{state}{i}" for state in states_of(module) for i in range(module.num_layers)]


def output_names(module: nn.RNNBase) -> list[str]:
    return [f"next_{name}" for name in input_names(module)]


def graph_of(module: nn.RNNBase, steps: int, batch: int, takes_states: bool) -> ModelProto:
    """From x [T, B, I], and the states [1, B, H] where it takes them, to y [T, 1, B, H] of the last
    layer and every layer's next states."""
    nodes: list[NodeProto] = []
    weights: list[TensorProto] = []
    for layer in range(module.num_layers):
        nodes += _layer(module, layer, takes_states, weights)
    hidden = module.hidden_size
    inputs = [_declared("x", steps, batch, module.input_size)]
    if takes_states:
        inputs += [_declared(name, 1, batch, hidden) for name in input_names(module)]
    outputs = [_declared("y", steps, 1, batch, hidden)]
    outputs += [_declared(name, 1, batch, hidden) for name in output_names(module)]
    graph = helper.make_graph(nodes, "layers", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    onnx.checker.check_model(model)
    return model


def _layer(
    module: nn.RNNBase, layer: int, takes_states: bool, weights: list[TensorProto]
) -> list[NodeProto]:
    """The layer's nodes; its weights are added to the list."""
    kind = type(module).__name__
    cell = CELLS[kind]

    def constant(name: str, value: Tensor) -> str:
        weights.append(numpy_helper.from_array(value.numpy(), name))
        return name

    def blocks(name: str) -> Tensor:
        ours, theirs = reference.CELLS[cell].x, NODES[cell].gates
        weight = getattr(module, f"{name}_l{layer}").detach()
        of_gate = dict(zip(ours, weight.chunk(len(ours)), strict=True))
        return torch.cat([of_gate[gate] for gate in theirs])

    taken = [
        "x" if layer == 0 else f"x{layer}",
        constant(f"W{layer}", blocks("weight_ih")[None]),
        constant(f"R{layer}", blocks("weight_hh")[None]),
        constant(f"B{layer}", torch.cat([blocks("bias_ih"), blocks("bias_hh")])[None]),
        "",  # all rows have all steps
    ]
    if takes_states:
        taken += [f"{state}{layer}" for state in states_of(module)]
    last = layer == module.num_layers - 1
    made = ["y" if last else f"y{layer}"]
    made += [f"next_{state}{layer}" for state in states_of(module)]
    node = helper.make_node(
        kind, taken, made, hidden_size=module.hidden_size, **NODES[cell].attributes
    )
    if last:
        return [node]
    axis = constant(f"axis{layer}", torch.tensor([1]))
    return [node, helper.make_node("Squeeze", [made[0], axis], [f"x{layer + 1}"])]


def _declared(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
