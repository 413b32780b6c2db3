"""The ops within PyTorch: their schemas, the compiler, export."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import CELLS, outcome, tensors_in, twins
from torch import Tensor, nn
from torch.export import Dim, export
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn import ops

T, B, I, H, P = 4, 3, 5, 6, 2  # noqa: E741


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


# ---- schemas -------------------------------------------------------------------------------------

CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batch first": {"batch_first": True},
    "both ways": {"directions": 2},
    "lengths": {"lengths": torch.tensor([2, 0, 4])},
    "lengths, batch first": {"lengths": torch.tensor([2, 0, 4]), "batch_first": True},
    "resets": {"resets": torch.tensor([[True, False, False]] * T)},
    "packed": {"batch_sizes": torch.tensor([3, 2, 2, 1]), "directions": 2},
    "projected": {"proj": P, "directions": 2},
    "x itself": {"takes_x": True, "directions": 2},
    "without bias": {"bias": False},
    "without states": {"initial": False},
    "single step": {"step": True},
    "empty batch": {"batch": 0},
}
COMBINATIONS = [
    (cell, name)
    for cell in CELLS
    for name in CALLS
    if cell == "lstm" or name not in ("projected", "without bias", "without states")
    if name != "x itself" or ops.CELLS[cell].takes_x
]
calls = pytest.mark.parametrize(
    "cell, name", COMBINATIONS, ids=[f"{cell}-{name}" for cell, name in COMBINATIONS]
)


def arguments(
    cell: str,
    dtype: torch.dtype = torch.float64,
    *,
    directions: int = 1,
    batch_first: bool = False,
    bias: bool = True,
    initial: bool = True,
    proj: int = 0,
    takes_x: bool = False,
    step: bool = False,
    batch: int = B,
    lengths: Tensor | None = None,
    batch_sizes: Tensor | None = None,
    resets: Tensor | None = None,
    save: bool = True,
) -> tuple[Any, ...]:
    """The op's arguments."""
    info, features = ops.CELLS[cell], H if takes_x else I
    shape = [batch, T, features] if batch_first else [T, batch, features]
    if batch_sizes is not None:
        shape = [int(batch_sizes.sum()), features]
    elif step:
        shape = [batch, features]
    shapes = info.shapes(features, H, proj, bias, takes_x)
    weights = [draw(*s, dtype=dtype) for _ in range(directions) for s in shapes.values()]
    sizes = [proj or H] + [H] * (info.states - 1)
    leading = [batch] if step else [directions, batch]
    states = [draw(*leading, size, dtype=dtype) for size in sizes] if initial else []
    flags = (directions == 2, batch_first, save)
    x = draw(*shape, dtype=dtype)
    return (cell, x, states, weights, lengths, batch_sizes, resets, *flags)


def backward_arguments(given: tuple[Any, ...]) -> tuple[Any, ...]:
    out = torch.ops.fastrnn.scan(*given)
    states = ops.CELLS[given[0]].states
    grads = [draw(*t.shape, dtype=t.dtype) for t in out[: 2 * states]]
    return (grads, *given[:-1], [out[0], *out[1 + states :]], True, bool(given[2]), True)


# Gradients come by an autograd.Function around the ops, tested by gradcheck.
CHECKS = ("test_schema", "test_faketensor")


@calls
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_opcheck(cell: str, name: str, dtype: torch.dtype) -> None:
    given = arguments(cell, dtype, **CALLS[name])
    backward = backward_arguments(given)
    for save in (True, False):
        torch.library.opcheck(
            torch.ops.fastrnn.scan.default, (*given[:-1], save), test_utils=CHECKS
        )
    torch.library.opcheck(torch.ops.fastrnn.scan_backward.default, backward, test_utils=CHECKS)


@pytest.mark.parametrize("cell", CELLS)
def test_opcheck_of_compiled_shapes(cell: str) -> None:
    check = "test_aot_dispatch_dynamic"
    # What is saved for steps beyond a row's length is left as it was, and never read.
    given = arguments(cell, **CALLS["lengths, batch first"], save=False)
    torch.library.opcheck(torch.ops.fastrnn.scan.default, given, test_utils=check)
    for name in ("plain", "packed", "resets"):
        given = arguments(cell, **CALLS[name])
        torch.library.opcheck(torch.ops.fastrnn.scan.default, given, test_utils=check)
        torch.library.opcheck(
            torch.ops.fastrnn.scan_backward.default, backward_arguments(given), test_utils=check
        )


def storage(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


@calls
def test_nothing_is_aliased_or_changed(cell: str, name: str) -> None:
    given = arguments(cell, **CALLS[name])
    for op, args in (
        (torch.ops.fastrnn.scan, given),
        (torch.ops.fastrnn.scan_backward, backward_arguments(given)),
    ):
        inputs = tensors_in(args)
        before = [t.clone() for t in inputs]
        outputs = op(*args)
        filled = [t for t in outputs if t.numel()]
        places = {storage(t) for t in filled}
        assert len(places) == len(filled)
        assert places.isdisjoint(storage(t) for t in inputs if t.numel())
        assert all(torch.equal(t, old) for t, old in zip(inputs, before, strict=True))
        assert all(t.is_contiguous() for t in outputs)


@calls
def test_what_is_saved_does_not_change_the_results(cell: str, name: str) -> None:
    given = arguments(cell, torch.float32, **CALLS[name])
    saving, plain = (torch.ops.fastrnn.scan(*given[:-1], save) for save in (True, False))
    assert len(plain) == 1 + ops.CELLS[cell].states
    for a, b in zip(saving, plain, strict=False):
        assert torch.equal(a, b)


# ---- torch.compile -------------------------------------------------------------------------------

MODULES: dict[str, tuple[str, dict[str, Any], list[int]]] = {
    "LSTM": ("LSTM", {"num_layers": 2, "bidirectional": True}, [T, B, I]),
    "LSTM projected": ("LSTM", {"proj_size": P, "batch_first": True}, [B, T, I]),
    "LSTM unbatched": ("LSTM", {}, [T, I]),
    "GRU": ("GRU", {"num_layers": 2, "bidirectional": True}, [T, B, I]),
    "LSTM without f": ("LSTM", {"gates": "io", "proj_size": P}, [T, B, I]),
    "LSTM peephole": ("LSTM", {"peephole": True, "bidirectional": True}, [T, B, I]),
    "GRU before": ("GRU", {"reset_after": False, "batch_first": True}, [B, T, I]),
    "MUT1": ("MUT1", {"num_layers": 2, "bidirectional": True}, [T, B, I]),
    "MUT2": ("MUT2", {"num_layers": 2}, [T, B, I]),
    "MUT3": ("MUT3", {}, [T, B, I]),
    "LSTMCell peephole": ("LSTMCell", {"peephole": True}, [B, I]),
    "MUT1Cell": ("MUT1Cell", {}, [B, I]),
    "RNN tanh": ("RNN", {}, [T, B, I]),
    "RNN relu": ("RNN", {"nonlinearity": "relu", "batch_first": True}, [B, T, I]),
    "LSTMCell": ("LSTMCell", {}, [B, I]),
    "GRUCell": ("GRUCell", {}, [B, I]),
    "RNNCell": ("RNNCell", {}, [B, I]),
}


def made(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return getattr(fastrnn, name)(I, H, dtype=torch.float64, **options)


def assert_same_bits(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, t in expected.items():
        assert torch.equal(found[name], t), name


@pytest.mark.parametrize("name, options, shape", MODULES.values(), ids=MODULES)
def test_compiled_without_breaks(name: str, options: dict[str, Any], shape: list[int]) -> None:
    module = made(name, **options)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = draw(*shape).requires_grad_()
    assert_same_bits(outcome(module, x, call=compiled), outcome(module, x))
    with torch.no_grad():
        for found, expected in zip(tensors_in(compiled(x)), tensors_in(module(x)), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_compiled_with_states(name: str) -> None:
    _, module = twins(name, I, H)
    leading = [B] if name.endswith("Cell") else [1, B]
    states = [draw(*leading, H).requires_grad_() for _ in range(2 if "LSTM" in name else 1)]
    x = draw(*([B, I] if name.endswith("Cell") else [T, B, I])).requires_grad_()

    def call(x: Tensor, *states: Tensor) -> Any:
        return module(x, states if len(states) > 1 else states[0])

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    found = outcome(module, x, *states, call=compiled)
    assert_same_bits(found, outcome(module, x, *states, call=call))


def test_compiled_with_dropout_in_training() -> None:
    _, module = twins("LSTM", I, H, num_layers=2, dropout=0.5)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = draw(T, B, I).requires_grad_()
    found = []
    for call in (compiled, module):
        torch.manual_seed(0)
        found.append(outcome(module, x, call=call))
    assert_same_bits(*found)


def test_compiled_packed_sequences() -> None:
    _, module = twins("GRU", I, H, bidirectional=True)

    def call(x: Tensor) -> Any:
        y, last = module(pack_padded_sequence(x, torch.tensor([2, 4, 1]), enforce_sorted=False))
        return y.data, last

    x = draw(T, B, I).requires_grad_()
    compiled = torch.compile(call, backend="aot_eager")
    assert_same_bits(outcome(module, x, call=compiled), outcome(module, x, call=call))


def test_compiled_under_autocast() -> None:
    _, module = twins("LSTM", I, H, dtype=torch.float32)

    def call(x: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return module(x)

    x = draw(T, B, I, dtype=torch.float32).requires_grad_()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert_same_bits(outcome(module, x, call=compiled), outcome(module, x, call=call))


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_one_compilation_for_all_shapes(name: str) -> None:
    _, module = twins(name, I, H, bidirectional=True)
    graphs = []

    def count(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(module, fullgraph=True, backend=count)
    for steps, batch in ((4, 3), (7, 2), (2, 9)):
        x = draw(steps, batch, I)
        torch._dynamo.mark_dynamic(x, (0, 1))
        for found, expected in zip(tensors_in(compiled(x)), tensors_in(module(x)), strict=True):
            assert torch.equal(found, expected)
    assert len(graphs) == 1


def test_dynamic_shapes_train() -> None:
    _, module = twins("LSTM", I, H)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    for steps, batch in ((4, 3), (7, 2), (2, 9)):
        x = draw(steps, batch, I).requires_grad_()
        assert_same_bits(outcome(module, x, call=compiled), outcome(module, x))


def test_inductor() -> None:
    _, gru = twins("GRU", I, H)
    module = nn.Sequential(nn.Linear(I, I, dtype=torch.float64), nn.Tanh())

    def call(x: Tensor) -> Tensor:
        y, last = gru(module(x))
        return (y * y).sum() + last.sum()

    x = draw(T, B, I).requires_grad_()
    found, expected = (outcome(gru, x, call=f) for f in (torch.compile(call, fullgraph=True), call))
    for name, t in expected.items():
        torch.testing.assert_close(found[name], t, rtol=1e-11, atol=1e-12, msg=name)


# ---- torch.export --------------------------------------------------------------------------------


@pytest.mark.parametrize("name, options, shape", MODULES.values(), ids=MODULES)
def test_export(name: str, options: dict[str, Any], shape: list[int]) -> None:
    module = made(name, **options)
    dynamic = {i: Dim(f"size_{i}", min=1, max=64) for i in range(len(shape) - 1)}
    program = export(module, (draw(*shape),), dynamic_shapes=(dynamic,))
    exported = program.module()
    for sizes in ((9, 4), (2, 11), (1, 1)):
        x = draw(*sizes[: len(shape) - 1], I)
        with torch.no_grad():
            results = zip(tensors_in(exported(x)), tensors_in(module(x)), strict=True)
        for found, expected in results:
            assert torch.equal(found, expected)


def test_aot_inductor(tmp_path: Any) -> None:
    _, module = twins("LSTM", I, H)
    program = export(module, (draw(T, B, I),))
    package = torch._inductor.aoti_compile_and_package(
        program, package_path=str(tmp_path / "layer.pt2")
    )
    compiled, x = torch._inductor.aoti_load_package(package), draw(T, B, I)
    for found, expected in zip(tensors_in(compiled(x)), tensors_in(module(x)), strict=True):
        assert torch.equal(found, expected)


def test_an_exported_program_can_be_saved(tmp_path: Any) -> None:
    _, module = twins("LSTM", I, H)
    program = export(module, (draw(T, B, I),))
    torch.export.save(program, tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    x = draw(T, B, I)
    for found, expected in zip(tensors_in(loaded(x)), tensors_in(module(x)), strict=True):
        assert torch.equal(found, expected)


def test_deepcopy_of_a_compiled_module() -> None:
    _, module = twins("GRU", I, H)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    compiled(draw(T, B, I))
    copied = copy.deepcopy(compiled)
    assert torch.equal(copied(draw(T, B, I))[0], module(draw(T, B, I))[0])
