"""Exported programs: what they save, and what they become without fastrnn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CELLS, outcome, tensors_in, twins
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

import fastrnn
from fastrnn.export import decompositions

T, B, H = 2, 3, 5
SCAN = torch.ops.fastrnn.scan.default


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


class Layers(nn.Module):
    """A layer of each form of a cell, its name and proj_size, in one program."""

    def __init__(self, forms: Sequence[tuple[str, int]], **how: Any) -> None:
        super().__init__()
        self.how = how
        directions = 2 if how.get("bidirectional") else 1
        self.cells = [cell for cell, _ in forms]
        self.weights = nn.ModuleList()
        for cell, proj in forms:
            info = fastrnn.ops.CELLS[cell]
            shapes = info.shapes(H, H, proj, takes_x=info.takes_x)
            weights = [draw(*shape) for _ in range(directions) for shape in shapes.values()]
            self.weights.append(nn.ParameterList(weights))

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, resets: Tensor | None = None
    ) -> Any:
        found = []
        for cell, weights in zip(self.cells, self.weights):
            out = fastrnn.functional.layer(
                cell, x, (), [*weights], lengths=lengths, resets=resets, **self.how
            )
            found.append((out.y, out.last, out.steps or ()))
        return found


def sequences(steps: int, batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """x, with batch_first, lengths and resets."""
    lengths = torch.randint(0, steps + 1, (batch,))
    lengths[0] = steps
    return draw(batch, steps, H), lengths, torch.rand(batch, steps) < 0.4


def assert_free_of_fastrnn(program: ExportedProgram) -> None:
    modules = [m for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    targets = [str(node.target) for module in modules for node in module.graph.nodes]
    assert not [target for target in targets if "fastrnn" in target]


def assert_close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(
        tensors_in(found), tensors_in(expected), rtol=1e-11, atol=1e-12, check_stride=True
    )


RUN = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
inputs, expected = torch.load(sys.argv[2])
with torch.no_grad():
    found = torch.utils._pytree.tree_leaves(program(*inputs))
torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
assert "fastrnn" not in sys.modules
"""


def assert_runs_elsewhere(
    program: ExportedProgram, inputs: Any, expected: Any, folder: Path
) -> None:
    """In a process without fastrnn."""
    torch.export.save(program, folder / "program.pt2")
    torch.save((inputs, [t.detach() for t in tensors_in(expected)]), folder / "data.pt")
    command = [sys.executable, "-c", RUN, folder / "program.pt2", folder / "data.pt"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert not ran.returncode, ran.stderr


def test_unrolled(tmp_path: Path) -> None:
    module = Layers([(cell, 0) for cell in CELLS] + [("lstm", H - 1)])
    x = draw(T, B, H)
    program = export(module, (x,)).run_decompositions(decompositions())
    assert_free_of_fastrnn(program)
    assert_close(program.module()(x), module(x))
    assert_runs_elsewhere(program, (x,), module(x), tmp_path)


def test_loops_of_any_number_of_steps(tmp_path: Path) -> None:
    forms = [("lstm_peephole", H - 1), ("mut1", 0)]
    module = Layers(forms, bidirectional=True, batch_first=True, all_states=True)
    steps, batch = Dim("steps", min=1, max=64), Dim("batch", min=1, max=64)
    both = {0: batch, 1: steps}
    program = export(module, sequences(T, B), dynamic_shapes=(both, {0: batch}, both))
    program = program.run_decompositions(decompositions(target="loop"))
    assert_free_of_fastrnn(program)
    found = program.module()
    for sizes in ((T, B), (7, 4), (1, 1)):
        inputs = sequences(*sizes)
        with torch.no_grad():  # torch traces its loop's gradient in each call
            assert_close(found(*inputs), module(*inputs))
    assert_runs_elsewhere(program, inputs, module(*inputs), tmp_path)


@pytest.mark.parametrize("target", ["aten", "loop"])
def test_cells_and_16_bits(target: str) -> None:
    module = fastrnn.LSTMCell(H, H, dtype=torch.bfloat16)
    x = draw(B, H, dtype=torch.bfloat16)
    program = export(module, (x,)).run_decompositions(decompositions(target))
    assert_free_of_fastrnn(program)
    torch.testing.assert_close(program.module()(x), module(x), rtol=2**-7, atol=2**-8)


def test_an_unrolled_program_trains() -> None:
    _, module = twins("GRU", H, H, num_layers=2)
    x = draw(T, B, H).requires_grad_()
    program = export(module, (x,)).run_decompositions(decompositions()).module()
    found, expected = outcome(program, x), outcome(module, x)
    assert found.keys() == expected.keys()
    for name, t in expected.items():
        torch.testing.assert_close(found[name], t, rtol=1e-11, atol=1e-12, msg=name)


def packed(module: nn.Module, x: Tensor) -> Any:
    weights = [*module.parameters()]
    sizes = torch.tensor([2, 1])
    return fastrnn.functional.layer("lstm", x[0], (), weights, batch_sizes=sizes).y


class Call(nn.Module):
    def __init__(self, module: nn.Module, call: Any) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, x: Tensor) -> Any:
        return self.call(self.module, x)


REFUSED = {
    "dynamic": (lambda m, x: m(x), "aten", "the number of steps is dynamic"),
    "packed": (packed, "loop", "a packed batch has no decomposition"),
    "int8": (lambda m, x: m(x), "loop", "weights of int8 have no decomposition"),
}


@pytest.mark.parametrize("call, target, message", REFUSED.values(), ids=REFUSED)
def test_what_has_no_decomposition_is_named(call: Any, target: str, message: str) -> None:
    module = fastrnn.LSTM(H, H).eval()
    if "int8" in message:
        fastrnn.quantize_(module)
    shapes = ({0: Dim.DYNAMIC},) if "dynamic" in message else None
    program = export(Call(module, call), (draw(3, 3, H).float(),), dynamic_shapes=shapes)
    with pytest.raises(RuntimeError, match=message):
        program.run_decompositions(decompositions(target))


def test_a_target_that_there_is_not() -> None:
    with pytest.raises(ValueError, match="target must be 'aten' or 'loop', got 'onnx'"):
        decompositions("onnx")


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("return_states", [False, True])
def test_an_exported_program_saves_only_what_it_returns(strict: bool, return_states: bool) -> None:
    module = fastrnn.LSTM(H, H, num_layers=2).eval()
    assert torch.is_grad_enabled()
    how = {"return_states": return_states}
    program = export(module, (draw(T, B, H).float(),), how, strict=strict)
    calls = [node for node in program.graph.nodes if node.target is SCAN]
    save = [arg.name for arg in SCAN._schema.arguments].index("save")
    assert [node.args[save] for node in calls] == [False] * 2
