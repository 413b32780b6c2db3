"""The same bits however many threads run, and from run to run."""

from __future__ import annotations

import pytest
import torch
from cases import CELLS, Case, run

import fastrnn
from fastrnn import ops

# Shapes for which work is shared out in each way: nothing to share; a team of threads on the units
# of one row; rows to each thread; both; two directions; one step.
SHAPES = {
    "one row": Case(T=12, B=1, I=16, H=64),
    "one row, many units": Case(T=6, B=1, I=32, H=512),
    "few rows, many units": Case(T=4, B=3, I=32, H=512),
    "rows": Case(T=6, B=32, I=48, H=128),
    "more rows than a group": Case(T=3, B=200, I=16, H=40),
    "both ways": Case(T=6, B=3, I=32, H=256, bidirectional=True),
    "both ways, rows": Case(T=5, B=17, I=32, H=96, bidirectional=True, batch_first=True),
    "one step": Case(T=1, B=8, I=64, H=256),
    "long": Case(T=300, B=2, I=8, H=24),
    "wide input": Case(T=8, B=16, I=700, H=48),
    "odd": Case(T=7, B=5, I=13, H=67, layers=2),
}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, t in expected.items():
        assert torch.equal(found[name], t), name


def with_threads(count: int, case: Case) -> dict[str, torch.Tensor]:
    torch.set_num_threads(count)
    return run(case, fastrnn)


def of(case: Case, cell: str, dtype: torch.dtype, proj: int = 0) -> Case:
    return Case(**{**vars(case), "cell": cell, "dtype": dtype, "proj": proj})


@DTYPES
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_threads_do_not_change_a_bit(
    shape: Case, cell: str, dtype: torch.dtype, isa: str, threads: None
) -> None:
    case = of(shape, cell, dtype)
    expected = with_threads(1, case)
    for count in (1, 2, 3, 4):
        assert_same_bits(with_threads(count, case), expected)


@DTYPES
@pytest.mark.parametrize("shape", ["few rows, many units", "rows", "both ways"])
@pytest.mark.parametrize("module", [{"gates": "io"}, {"peephole": True}, "MUT1", "MUT3"], ids=str)
def test_threads_do_not_change_a_bit_of_variants(
    module: dict | str, shape: str, dtype: torch.dtype, isa: str, threads: None
) -> None:
    """With teams that meet twice a step."""
    case = SHAPES[shape]
    kind = {"bidirectional": case.bidirectional, "dtype": dtype}
    found = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        torch.manual_seed(0)
        options = module if isinstance(module, dict) else {}
        layer = getattr(fastrnn, "LSTM" if options else module)(case.I, case.H, **options, **kind)
        x = torch.randn(case.T, case.B, case.I, dtype=dtype).requires_grad_()
        y, _ = layer(x)
        y.float().sin().sum().backward()
        grads = {name: p.grad for name, p in layer.named_parameters()}
        found.append({"y": y.detach(), "grad x": x.grad, **grads})
    for later in found[1:]:
        assert_same_bits(later, found[0])


@DTYPES
def test_with_projection(dtype: torch.dtype, isa: str, threads: None) -> None:
    for shape in ("few rows, many units", "rows", "both ways"):
        case = of(SHAPES[shape], "lstm", dtype, proj=33)
        expected = with_threads(1, case)
        for count in (2, 3, 4):
            assert_same_bits(with_threads(count, case), expected)


@DTYPES
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch, size", [(40, 96), (3, 300)], ids=["rows", "units"])
def test_with_lengths_and_resets(
    batch: int, size: int, cell: str, dtype: torch.dtype, isa: str, threads: None
) -> None:
    generator = torch.Generator().manual_seed(0)
    steps, features = 9, 20

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype).requires_grad_()

    x = draw(steps, batch, features)
    weights = [draw(*s) for s in ops.CELLS[cell].shapes(features, size).values()] * 2
    lengths = torch.randint(0, steps + 1, (batch,), generator=generator)
    resets = torch.rand(steps, batch, generator=generator) < 0.1
    found = []
    for count in (1, 2, 3, 4):
        torch.set_num_threads(count)
        out = fastrnn.functional.layer(
            cell,
            x,
            (),
            weights,
            lengths=lengths,
            resets=resets,
            bidirectional=True,
            all_states=True,
        )
        results = [out.y, *out.last, *out.steps]
        grads = torch.autograd.grad(
            sum(r.float().sin().sum() for r in results), [x, *weights[: len(weights) // 2]]
        )
        found.append([*results, *grads])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_from_run_to_run(cell: str, isa: str) -> None:
    """With torch's own number of threads; what is free memory holds other bits each time."""
    for shape in ("one row, many units", "rows", "both ways, rows", "odd"):
        case = of(SHAPES[shape], cell, torch.float32)
        expected = run(case, fastrnn)
        for value in (float("nan"), 1e30):
            torch.full((1 << 18,), value)
            assert_same_bits(run(case, fastrnn), expected)


def test_backward_on_the_calling_thread(threads: None) -> None:
    """And not on autograd's own, which has its own pool."""
    case = of(SHAPES["odd"], "lstm", torch.float32)
    expected = with_threads(2, case)
    with torch.autograd.set_multithreading_enabled(False):
        assert_same_bits(with_threads(2, case), expected)


@pytest.mark.parametrize(
    "cell, dtype",
    [
        (cell, dtype)
        for cell in CELLS
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
        if dtype == torch.float32 or ops.CELLS[cell].states == 1
    ],
    ids=str,
)
def test_chunks_have_the_bits_of_the_whole(cell: str, dtype: torch.dtype, isa: str) -> None:
    """However a sequence is cut, down to single steps; but c, which a scan keeps in float32, is
    handed over in the layer's type."""
    for batch in (1, 2, 3, 8, 17, 64):
        for steps, features, size in ((33, 24, 40), (9, 130, 300)):
            x, weights = _draw(cell, steps, batch, features, size, dtype)
            whole = _scan(cell, x, (), weights)
            for chunk in (1, 7, 32):
                states: tuple[torch.Tensor, ...] = ()
                parts = []
                for start in range(0, steps, chunk):
                    part, states = _scan(cell, x[start : start + chunk], states, weights)
                    parts.append(part)
                assert torch.equal(torch.cat(parts), whole[0]), (batch, chunk)
                for found, expected in zip(states, whole[1], strict=True):
                    assert torch.equal(found, expected), (batch, chunk)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("largest, smaller", [(8, (1, 2, 3)), (64, (9, 17))], ids=["few", "many"])
def test_a_row_has_the_same_bits_in_every_batch(
    largest: int, smaller: tuple[int, ...], cell: str, dtype: torch.dtype, isa: str, threads: None
) -> None:
    """Up to 8 rows, and from 9 on."""
    for steps, features, size in ((1, 24, 40), (2, 130, 300), (9, 130, 300)):
        x, weights = _draw(cell, steps, largest, features, size, dtype)
        torch.set_num_threads(2)
        expected, states = _scan(cell, x, (), weights)
        for count in (1, 2):
            torch.set_num_threads(count)
            for batch in smaller:
                found, last = _scan(cell, x[:, -batch:].contiguous(), (), weights)
                assert torch.equal(found, expected[:, -batch:]), (steps, batch)
                for a, b in zip(last, states, strict=True):
                    assert torch.equal(a, b[:, -batch:]), (steps, batch)


def _draw(
    cell: str, steps: int, batch: int, features: int, size: int, dtype: torch.dtype
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(steps, batch, features, generator=generator).to(dtype)
    shapes = ops.CELLS[cell].shapes(features, size).values()
    return x, [(torch.randn(*s, generator=generator) / size**0.5).to(dtype) for s in shapes]


def _scan(
    cell: str, x: torch.Tensor, states: tuple[torch.Tensor, ...], weights: list[torch.Tensor]
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    out = fastrnn.functional.layer(cell, x, states, weights)
    return out.y, out.last
