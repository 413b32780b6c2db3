"""What torch's tools make of the layers: torch.fx, torch.jit.trace, FLOP counter, profiler."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest
import torch
from cases import tensors_in
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_fx
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import fastrnn

T, B, I, H = 5, 2, 3, 6  # noqa: E741


class Model(nn.Module):
    """Layers and a cell among torch.nn's modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(I, I)
        self.lstm = fastrnn.LSTM(I, H)
        self.gru = fastrnn.GRU(H, H, num_layers=2, bidirectional=True)
        self.cell = fastrnn.LSTMCell(2 * H, H)
        self.rnn_cell = fastrnn.RNNCell(H, H)
        self.last = nn.Linear(H, 1)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        y, (h, c) = self.lstm(self.first(x))
        z, _ = self.gru(y, lengths=lengths)
        cell, _ = self.cell(z[-1], (h[0], c[0]))
        return self.last(self.rnn_cell(cell, h[0]))


# ---- torch.fx ------------------------------------------------------------------------------------


def test_fx_takes_layers_as_leaves() -> None:
    model, x, lengths = Model(), torch.randn(T, B, I), torch.tensor([T, 2])
    traced = torch.fx.symbolic_trace(model)
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert called == ["first", "lstm", "gru", "cell", "rnn_cell", "last"]
    assert torch.equal(traced(x, lengths), model(x, lengths))
    assert traced.lstm is model.lstm


@pytest.mark.parametrize("name", ["LSTM", "GRUCell"])
def test_fx_cannot_trace_a_layer_by_itself(name: str) -> None:
    with pytest.raises(RuntimeError, match=f"torch.fx cannot trace {name} by itself"):
        torch.fx.symbolic_trace(getattr(fastrnn, name)(I, H))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_fx_quantises_what_is_around_layers() -> None:
    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(T, B, I)
    prepared = quantize_fx.prepare_fx(model, get_default_qconfig_mapping("x86"), (x,))
    prepared(x)
    converted = quantize_fx.convert_fx(prepared)
    assert isinstance(converted.first, torch.ao.nn.quantized.Linear)
    assert isinstance(converted.lstm, fastrnn.LSTM)
    torch.testing.assert_close(converted(x), model(x), rtol=0, atol=0.02)


# ---- torch.jit.trace -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["LSTM", "two layers", "GRUCell"])
def test_traced_saved_and_loaded_with_gradients_enabled(name: str) -> None:
    options = {"num_layers": 2, "bidirectional": True} if name == "two layers" else {}
    module = getattr(fastrnn, "LSTM" if options else name)(I, H, **options)
    shape = (B, I) if name == "GRUCell" else (T, B, I)
    assert torch.is_grad_enabled()
    file = BytesIO()
    torch.jit.save(torch.jit.trace(module, (torch.randn(shape),)), file)
    file.seek(0)
    x = torch.randn(shape[0] + 2, *shape[1:])
    for found, expected in zip(
        tensors_in(torch.jit.load(file)(x)), tensors_in(module(x)), strict=True
    ):
        assert torch.equal(found, expected)


# ---- FLOPs ---------------------------------------------------------------------------------------

# Module, options, and the elements of the matrices of a step: of x, and of h.
FLOPS = {
    "LSTM": ("LSTM", {}, 4 * H * I, 4 * H * H),
    "LSTM-o": ("LSTM", {"gates": "if"}, 3 * H * I, 3 * H * H),
    "projected": ("LSTM", {"proj_size": 2}, 4 * H * I, 4 * H * 2 + 2 * H),
    "peepholes": ("LSTM", {"peephole": True}, 4 * H * I, 4 * H * H),
    "GRU": ("GRU", {}, 3 * H * I, 3 * H * H),
    "GRU before": ("GRU", {"reset_after": False}, 3 * H * I, 2 * H * H + H * H),
    "RNN": ("RNN", {"bidirectional": True}, 2 * H * I, 2 * H * H),
    "MUT1": ("MUT1", {}, 3 * H * I, H * H + H * H),
    "MUT3": ("MUT3", {"bias": False}, 3 * H * I, H * H + H * H + H * H),
}


@pytest.mark.parametrize("name, options, from_x, from_h", FLOPS.values(), ids=FLOPS)
def test_flops(name: str, options: dict[str, Any], from_x: int, from_h: int) -> None:
    module = getattr(fastrnn, name)(I, H, **options)
    for needs_x in (True, False):
        for needs_weights in (True, False) if needs_x else (True,):
            x = torch.randn(T, B, I, requires_grad=needs_x)
            module.requires_grad_(needs_weights)
            with FlopCounterMode(display=False) as forward:
                y, _ = module(x)
            with FlopCounterMode(display=False) as backward:
                y.sum().backward()
            assert forward.get_total_flops() == 2 * T * B * (from_x + from_h)
            # The gradients of h and x, and those of the weights.
            products = from_h + needs_x * from_x + needs_weights * (from_x + from_h)
            assert backward.get_total_flops() == 2 * T * B * products


def test_flops_of_a_layer_that_recomputes() -> None:
    module, x = fastrnn.GRU(I, H, recompute=True), torch.randn(T, B, I)
    with FlopCounterMode(display=False) as forward:
        y, _ = module(x)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    all_weights, recurrent = 3 * H * (I + H), 3 * H * H
    assert forward.get_total_flops() == 2 * T * B * all_weights
    # Forward again, the gradients of h and those of the weights.
    assert backward.get_total_flops() == 2 * T * B * (2 * all_weights + recurrent)


def test_flops_of_members_side_by_side() -> None:
    members, x = 3, torch.randn(T, B, I)
    modules = [fastrnn.GRU(I, H) for _ in range(members)]
    parameters, _ = torch.func.stack_module_state(modules)

    def call(own: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(modules[0], own, (x,))[0]

    with FlopCounterMode(display=False) as forward:
        y = torch.vmap(call)(parameters)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    all_weights, recurrent = 3 * H * (I + H), 3 * H * H
    assert forward.get_total_flops() == members * 2 * T * B * all_weights
    assert backward.get_total_flops() == members * 2 * T * B * (all_weights + recurrent)


# ---- the profiler --------------------------------------------------------------------------------


def test_the_profiler_shows_cells() -> None:
    lstm, gru = fastrnn.LSTM(I, H), fastrnn.GRU(I, H, num_layers=2)
    quantized, x = fastrnn.quantize_(fastrnn.RNN(I, H)).eval(), torch.randn(T, B, I)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        (lstm(x)[0].sum() + gru(x)[0].sum()).backward()
        with torch.no_grad():
            quantized(x)
    counts = {event.key: event.count for event in found.key_averages()}
    named = {key: count for key, count in counts.items() if "(" in key and "fastrnn" in key}
    assert named == {
        "fastrnn::scan(lstm)": 1,
        "fastrnn::scan(gru)": 2,
        "fastrnn::scan_int8(rnn_tanh)": 1,
        "fastrnn::scan_backward(lstm)": 1,
        "fastrnn::scan_backward(gru)": 2,
    }
