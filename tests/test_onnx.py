"""Layers exported to ONNX, as ONNX Runtime computes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import tensors_in
from torch import Tensor, nn
from torch.export import Dim, export

import fastrnn

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

I, H = 3, 6  # noqa: E741
TRACED = (5, 3)  # steps and rows
OTHERS = ((9, 4), (1, 1), (2, 7))

# The layer, its options, and ONNX's node.
CELLS = {
    "lstm": ("LSTM", {}, "LSTM"),
    "peepholes": ("LSTM", {"peephole": True}, "LSTM"),
    "gru": ("GRU", {}, "GRU"),
    "gru_before": ("GRU", {"reset_after": False}, "GRU"),
    "tanh": ("RNN", {}, "RNN"),
    "relu": ("RNN", {"nonlinearity": "relu"}, "RNN"),
}
# The options of all of them, and whether initial states and lengths are given.
CALLS = {
    "plain": ({}, False, False),
    "lengths": ({"num_layers": 2, "batch_first": True}, False, True),
    "no biases": ({"bidirectional": True, "bias": False}, True, False),
    "all": ({"num_layers": 2, "bidirectional": True, "batch_first": True}, True, True),
}


class EveryCell(nn.Module):
    """A layer of each cell that ONNX has, with weights that make more of the gates than the usual
    ones."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleDict()
        for key, (name, variant, _) in CELLS.items():
            self.layers[key] = getattr(fastrnn, name)(I, H, **variant, **options)
        for p in self.parameters():
            p.data.mul_(3)

    def forward(
        self,
        x: Tensor,
        h: Tensor | None = None,
        c: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> list[Any]:
        found = []
        for layer in self.layers.values():
            hx = (h, c) if h is not None and isinstance(layer, fastrnn.LSTM) else h
            found.append(layer(x, hx, lengths=lengths))
        return found


def exported(model: nn.Module, *args: Any, **options: Any) -> torch.onnx.ONNXProgram:
    return fastrnn.onnx.export(model, args, verbose=False, **options)


def computed(program: torch.onnx.ONNXProgram, inputs: Sequence[Tensor]) -> list[Tensor]:
    """By ONNX Runtime."""
    model = program.model_proto
    onnx.checker.check_model(model, full_check=True)
    session = runtime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [given.name for given in session.get_inputs()]
    feed = {name: t.numpy() for name, t in zip(names, inputs, strict=True)}
    return [torch.from_numpy(t) for t in session.run(None, feed)]


def assert_equal(found: Sequence[Tensor], expected: Any) -> None:
    wanted = [t.detach() for t in tensors_in(expected)]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def nodes(program: torch.onnx.ONNXProgram) -> list[Any]:
    return [node for node in program.model.graph if node.op_type in ("LSTM", "GRU", "RNN")]


def arguments(options: dict, sizes: tuple[int, int], states: bool, lengths: bool) -> dict:
    """Those of a call."""
    steps, batch = sizes
    shape = (batch, steps, I) if "batch_first" in options else (steps, batch, I)
    given = {"x": torch.randn(shape)}
    if states:
        leading = options.get("num_layers", 1) * (2 if "bidirectional" in options else 1)
        given |= {name: torch.randn(leading, batch, H) for name in "hc"}
    if lengths:
        given["lengths"] = torch.randint(0, steps + 1, (batch,))
        given["lengths"][0] = steps
    return given


def dynamic(options: dict, given: dict) -> dict:
    """The names of the dimensions that change."""
    names = {0: "batch", 1: "steps"} if "batch_first" in options else {0: "steps", 1: "batch"}
    every = {"x": names, "h": {1: "batch"}, "c": {1: "batch"}, "lengths": {0: "batch"}}
    return {name: every[name] for name in given}


@pytest.mark.filterwarnings("ignore:# The axis name")  # several inputs have a batch
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_equals_onnx_runtime_at_every_size(call: tuple) -> None:
    options, *given = call
    model, traced = EveryCell(**options), arguments(options, TRACED, *given)
    program = exported(model, kwargs=traced, dynamic_shapes=dynamic(options, traced))
    kinds = [kind for _, _, kind in CELLS.values() for _ in range(options.get("num_layers", 1))]
    assert [node.op_type for node in nodes(program)] == kinds
    for sizes in (TRACED, *OTHERS):
        now = arguments(options, sizes, *given)
        assert_equal(computed(program, [*now.values()]), model(**now))


class Cells(nn.Module):
    """Single steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = fastrnn.LSTMCell(I, H), fastrnn.GRUCell(I, H, reset_after=False)

    def forward(self, x: Tensor, h: Tensor) -> Any:
        return self.lstm(x, (h, h)), self.gru(x, h), self.gru(x)


def test_cells() -> None:
    model = Cells()
    inputs = (torch.randn(4, I), torch.randn(4, H))
    program = exported(model, *inputs, dynamic_shapes=({0: "batch"}, {0: "batch"}))
    for batch in (4, 1, 9):
        inputs = (torch.randn(batch, I), torch.randn(batch, H))
        assert_equal(computed(program, inputs), model(*inputs))


def test_a_row_by_itself_and_every_h_of_a_gru() -> None:
    model = fastrnn.GRU(I, H)
    x = torch.randn(4, I)
    program = exported(model, x, kwargs={"return_states": True})
    assert_equal(computed(program, [x]), model(x, return_states=True))


def test_weights_are_constants_of_any_size(tmp_path: Path) -> None:
    model, x = fastrnn.LSTM(40, 300), torch.randn(2, 3, 40)
    program = exported(model, x, f=tmp_path / "model.onnx", external_data=False)
    (node,) = nodes(program)
    shapes = [[1, 1200, 40], [1, 1200, 300], [1, 2400]]
    assert all(given.is_initializer() for given in node.inputs[1:4])
    assert [list(given.shape) for given in node.inputs[1:4]] == shapes
    assert sum(t.const_value.size for t in program.model.graph.initializers.values()) < 1.01 * sum(
        p.numel() for p in model.parameters()
    )
    saved = onnx.load(tmp_path / "model.onnx")
    assert saved.SerializeToString() == program.model_proto.SerializeToString()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types(dtype: torch.dtype) -> None:
    """ONNX has them; ONNX Runtime on the CPU does not."""
    program = exported(fastrnn.GRU(I, H, dtype=dtype), torch.randn(2, 3, I, dtype=dtype))
    onnx.checker.check_model(program.model_proto, full_check=True)
    (node,) = nodes(program)
    name = str(dtype).removeprefix("torch.").replace("float64", "double").upper()
    assert {given.dtype.name for given in node.inputs if given is not None} == {name}


def test_the_mode_stays() -> None:
    model = nn.Sequential(fastrnn.GRU(I, H, num_layers=2, dropout=0.5))
    model[0].eval()
    exported(model, torch.randn(2, 3, I))
    assert model.training and not model[0].training
    assert torch.is_grad_enabled()


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = fastrnn.GRU(I, H)

    def forward(self, x: Tensor) -> Tensor:
        sizes = torch.tensor([2, 1])
        return fastrnn.functional.layer(
            "gru", x[0], (), [*self.layer.parameters()], batch_sizes=sizes
        ).y


RESETS = {"resets": torch.zeros(3, 3, dtype=torch.bool)}
REFUSED = {
    "gates": (lambda: fastrnn.LSTM(I, H, gates="io"), {}, "the cell lstm_f"),
    "projection": (lambda: fastrnn.LSTM(I, H, proj_size=2), {}, "proj_size"),
    "resets": (lambda: fastrnn.GRU(I, H), RESETS, "resets"),
    "states": (lambda: fastrnn.LSTM(I, H), {"return_states": True}, "the c of every step"),
    "packed": (Packed, {}, "a packed batch"),
    "bfloat16": (lambda: fastrnn.GRU(I, H).bfloat16(), {}, "bfloat16"),
    "int8": (lambda: fastrnn.quantize_(fastrnn.GRU(I, H)).eval(), {}, "weights of int8"),
}


@pytest.mark.parametrize("make, kwargs, message", REFUSED.values(), ids=REFUSED)
def test_what_onnx_lacks_is_named(make: Any, kwargs: dict, message: str) -> None:
    model = make()
    x = torch.randn(3, 3, I, dtype=torch.bfloat16 if message == "bfloat16" else torch.float32)
    with pytest.raises(fastrnn.onnx.Unsupported, match=message):
        exported(model, x, kwargs=kwargs)


@pytest.mark.filterwarnings("ignore:# The axis name")
def test_loops_where_onnx_has_no_node() -> None:
    model = fastrnn.MUT1(H, H)
    sizes = {0: Dim("steps", min=1, max=64), 1: Dim("batch", min=1, max=64)}
    given = (torch.randn(5, 3, H),), {"resets": torch.rand(5, 3) < 0.4}
    shapes = {"input": sizes, "resets": sizes}
    program = export(model.eval(), *given, dynamic_shapes=shapes)
    program = program.run_decompositions(fastrnn.export.decompositions("loop"))
    loops = fastrnn.onnx.export(program, verbose=False)
    for steps, batch in ((5, 3), (8, 2), (1, 1)):
        x, resets = torch.randn(steps, batch, H), torch.rand(steps, batch) < 0.4
        assert_equal(computed(loops, (x, resets)), model(x, resets=resets))
