"""The engine's pieces by themselves, in a program that only these tests build."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from calls import Program
from pieces import start
from torch import Tensor

from fastrnn import reference

WIDTHS = ("baseline", "avx2", "avx512")
# What products are made for: a set with AVX512_BF16 differs from AVX-512 in bfloat16 only.
PRODUCTS = pytest.mark.parametrize(
    "dtype, width",
    [
        *product(("float32", "float64", "bfloat16", "float16"), WIDTHS),
        ("bfloat16", "avx512_bf16"),
    ],
)
FUNCTIONS = ("exp", "sigmoid", "tanh")


@pytest.fixture(scope="module")
def pieces(pytestconfig: pytest.Config) -> Iterator[Program]:
    """The program, built at the first use and after changes, in pytest's cache."""
    with start(pytestconfig.cache.mkdir("pieces")) as program:
        yield program


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_functions_are_within_2_ulps(pieces: Program, name: str, width: str) -> None:
    # Every 1009th of all 2^32 bit patterns, both infinities and NaNs among them.
    worst, where = getattr(pieces, f"worst_float32_{width}")(name, 1009)
    assert worst <= 2, f"{worst} ulp at {where!r}"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float64_functions_are_within_3_ulps(pieces: Program, name: str, width: str) -> None:
    generator = np.random.default_rng(0)
    wide = generator.uniform(-760, 760, 100_000)
    near = generator.standard_normal(100_000) * 3
    tiny = np.ldexp(generator.standard_normal(20_000), generator.integers(-1060, 0, 20_000))
    worst, where = getattr(pieces, f"worst_float64_{width}")(
        name, np.concatenate([wide, near, tiny])
    )
    assert worst <= 3, f"{worst} ulp at {where!r}"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_at_the_edges(pieces: Program, dtype: str, width: str) -> None:
    x = np.array([-np.inf, -1e30, -0.0, 0.0, 1e30, np.inf, np.nan], dtype)
    expected = {
        "exp": [0, 0, 1, 1, np.inf, np.inf, np.nan],
        "sigmoid": [0, 0, 0.5, 0.5, 1, 1, np.nan],
        "tanh": [-1, -1, -0.0, 0, 1, 1, np.nan],
    }
    for name in FUNCTIONS:
        found = getattr(pieces, f"apply_{dtype}_{width}")(name, x)
        np.testing.assert_array_equal(found, np.array(expected[name], dtype), err_msg=name)
    assert np.signbit(getattr(pieces, f"apply_{dtype}_{width}")("tanh", x[2:3]))[0]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_16_bit_types(pieces: Program, dtype: torch.dtype, width: str) -> None:
    name = str(dtype).removeprefix("torch.")
    bits = np.arange(2**16, dtype=np.uint16)
    wide = torch.from_numpy(bits.view(np.int16)).view(dtype).float().numpy()
    np.testing.assert_array_equal(getattr(pieces, f"widen_{name}_{width}")(bits), wide)
    # Every value that the type has, its neighbours, and the ties between.
    finite = wide[np.isfinite(wide)]
    ties = finite[:-1] / 2 + finite[1:] / 2
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    x = np.concatenate([wide, ties, np.nextafter(ties, 0), np.nextafter(ties, np.inf), drawn])
    x = x.astype(np.float32)
    expected = torch.from_numpy(x).to(dtype)
    found = getattr(pieces, f"narrow_{name}_{width}")(x)
    found = torch.from_numpy(found.view(np.int16)).view(dtype)
    assert torch.equal(found.isnan(), expected.isnan())
    number = ~expected.isnan()
    assert torch.equal(found[number].view(torch.int16), expected[number].view(torch.int16))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transposition(pieces: Program, dtype: str, width: str) -> None:
    n = getattr(pieces, f"bytes_{width}")() // np.dtype(dtype).itemsize
    square = np.arange(n * n, dtype=dtype).reshape(n, n)
    found = getattr(pieces, f"transposed_{dtype}_{width}")(square.ravel()).reshape(n, n)
    np.testing.assert_array_equal(found, square.T)


def _integers(*shape: int, dtype: str) -> np.ndarray:
    """Whole numbers, whose products and sums are exact, in the type that products are summed in."""
    generator = np.random.default_rng(sum(shape))
    return generator.integers(-8, 9, shape).astype(_compute(dtype))


def _compute(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"


def _lanes(pieces: Program, dtype: str, width: str) -> int:
    width = width.removesuffix("_bf16")
    return getattr(pieces, f"bytes_{width}")() // np.dtype(_compute(dtype)).itemsize


@PRODUCTS
@pytest.mark.parametrize("index, vectors", list(enumerate([2, 3, 4, 6, 8])))
def test_tiles(pieces: Program, index: int, vectors: int, dtype: str, width: str) -> None:
    columns = vectors * _lanes(pieces, dtype, width)
    highest = getattr(pieces, f"tile_rows_{width.removesuffix('_bf16')}")()[index]
    # 128 is the depth that is summed at a time.
    for depth in (0, 1, 7, 128, 129, 300):
        b = _integers(depth, columns, dtype=dtype)
        for rows in range(1, 2 * highest + 2):
            a, init = _integers(rows, depth, dtype=dtype), _integers(rows, columns, dtype=dtype)
            found = getattr(pieces, f"multiply_{dtype}_{width}")(a, b, init)
            np.testing.assert_array_equal(found, a @ b + init)
            if rows <= highest:
                a = np.ascontiguousarray(a.T)
                found = getattr(pieces, f"packed_tile_{dtype}_{width}")(a, b, init)
                np.testing.assert_array_equal(found, a.T @ b + init)


@PRODUCTS
def test_transposed_weights(pieces: Program, dtype: str, width: str) -> None:
    call = getattr(pieces, f"forward_weights_{dtype}_{width}")
    lanes = _lanes(pieces, dtype, width)
    for depth in (1, 2, lanes - 1, lanes, 2 * lanes + 1, 4 * lanes + 3, 257, 300):
        for units in (1, lanes, 5 * lanes - 1):
            for rows in (1, 5, 8, 13):
                a, b = _integers(rows, depth, dtype=dtype), _integers(units, depth, dtype=dtype)
                for panel_rows in (0, rows):  # 0: not packed
                    found = call(a, b, panel_rows)
                    np.testing.assert_array_equal(found[:, :units], a @ b.T)
                    np.testing.assert_array_equal(found[:, units:], 0)


@PRODUCTS
def test_bits_do_not_depend_on_packing(pieces: Program, dtype: str, width: str) -> None:
    call = getattr(pieces, f"forward_weights_{dtype}_{width}")
    generator = np.random.default_rng(0)
    for depth in (5, 129, 300, 521):
        a = generator.standard_normal((9, depth)).astype(_compute(dtype))
        b = generator.standard_normal((37, depth)).astype(_compute(dtype))
        expected = call(a, b, 9)
        for rows in (1, 2, 7):
            for panel_rows in (0, 1, rows, 64):
                found = call(a[:rows], b, panel_rows)[:, :37]
                np.testing.assert_array_equal(found, expected[:rows, :37])


FORMS = [line.split() for line in torch.ops.fastrnn.cells().splitlines()]


@pytest.mark.parametrize("index", range(len(FORMS)), ids=["-".join(form) for form in FORMS])
def test_cells_on_scalars(pieces: Program, index: int) -> None:
    """A step of one unit by a cell's phases, against the reference's equations."""
    cell, *numbers = FORMS[index]
    x_blocks, h_blocks, states, _, own, projected, takes_x = map(int, numbers)
    generator = torch.Generator().manual_seed(0)

    def draw(n: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(n, 1, generator=generator, dtype=torch.float64)

    for scale in (0.1, 1.0, 30.0):
        sizes = [x_blocks, h_blocks, *[1] * projected, *[own] * (own > 0)]
        x, weights = draw(1, scale), [draw(n, scale) for n in sizes]
        before, grad = [draw(1) for _ in range(states)], draw(states)
        leaves = [t.requires_grad_() for t in (x, *weights, *before)]
        flat = [*weights[:-1], weights[-1][:, 0]] if own else weights
        after = torch.cat(
            reference.scan(reference.Inputs(cell, x[None], [s[None] for s in before], flat)).last
        )
        expected = torch.autograd.grad(after[:, 0, 0] @ grad[:, 0], leaves)
        with torch.no_grad():
            parts = torch.cat([weights[0] * x, *[x] * takes_x])
            recurrent = torch.cat(weights[1 : 2 + projected])
            given = (parts, recurrent, torch.cat(before), weights[-1] if own else draw(0), grad)
        found, gradients = getattr(pieces, f"cell_{index}")(*(t.flatten().tolist() for t in given))
        np.testing.assert_allclose(found, after.flatten().tolist(), rtol=1e-13, atol=1e-15)
        of_x, of_w, of_states, of_own = map(torch.tensor, map(np.array, gradients))
        itself = of_x[x_blocks:].sum() if takes_x else 0
        of_input = (of_x[:x_blocks] * weights[0][:, 0]).sum() + itself
        mine = torch.cat([of_input[None], of_x[:x_blocks] * x[0], of_w, of_own, of_states])
        theirs = torch.cat([t.flatten() for t in expected])
        np.testing.assert_allclose(mine.tolist(), theirs.tolist(), rtol=1e-10, atol=1e-14)


def test_offsets_beyond_32_bits(pieces: Program) -> None:
    # T 100,000, B 512, 4,096 features: 2.1e11 elements.
    features, batch, steps = 4096, 512, 100_000
    assert pieces.sequence_offset(batch * features, features, steps - 1, batch - 1) == (
        (steps - 1) * batch * features + (batch - 1) * features
    )
    first = [t * batch for t in range(steps)]
    assert pieces.packed_offset(first, features, steps - 1, 7) == (first[-1] + 7) * features
    assert pieces.state_offset(2**33, 2**20, 1, 2**13) == 2**33 + 2**33
    # 65,536 x 65,536 weights, in panels of 2 vectors of 8.
    assert pieces.panel_offset(2**16, 2**13, 2, 2**13 - 2) == (2**12 - 1) * 2**16 * 16


def test_plans_cover_the_batch_with_no_more_members_than_threads(pieces: Program) -> None:
    for threads in (1, 2, 3, 8, 64):
        for directions in (1, 2):
            for batch in (1, 2, 3, 31, 64, 97, 1000):
                for hidden in (1, 64, 1024, 4096):
                    groups = max(1, hidden // 16)
                    rows, units = pieces.plan(
                        threads, directions, batch, 100, hidden, 4 * hidden, groups
                    )
                    assert 1 <= rows <= batch
                    assert 1 <= units <= groups
                    assert units > 1 or -(-batch // rows) <= 96
                    if units > 1:
                        assert directions * rows * units <= max(threads, directions)
                        assert directions <= threads


@pytest.mark.parametrize("shares", [1, 2, 3, 8])
@pytest.mark.parametrize("at_once, late", [(False, 0), (True, 0), (True, 3000)])
def test_a_team_does_every_share_once_whoever_comes(
    pieces: Program, shares: int, at_once: bool, late: int
) -> None:
    for _ in range(20):
        counts, early = pieces.run_team(shares, 50, int(at_once), late)
        assert early == 0
        assert counts.tolist() == [1] * 50 * shares


def test_threads_are_halved_while_most_of_the_time_is_lost(pieces: Program) -> None:
    assert pieces.crowd(8, [5000], [6000], 4).tolist() == [8, 4, 2, 1, 1]
    assert pieces.crowd(8, [5000], [11000], 2).tolist() == [8, 8, 8]  # less than half of the time
    assert pieces.crowd(8, [1900], [2000], 2).tolist() == [8, 8, 8]  # as late as a sleeper is
    # A call is judged as a whole: a thread that woke up late for its first part did run.
    assert pieces.crowd(8, [2500, 0], [3000, 9000], 2).tolist() == [8, 8, 8]
    assert pieces.crowd(8, [1500, 1500], [2000, 2000], 2).tolist() == [8, 4, 2]
    assert pieces.crowd(1, [5000], [6000], 2).tolist() == [1, 1, 1]


@pytest.mark.parametrize("groups", [1, 2, 3, 7])
def test_row_groups_have_about_the_same_number_of_steps(pieces: Program, groups: int) -> None:
    generator = np.random.default_rng(groups)
    for longest in (0, 1, 3, 100):
        for rows in (groups, groups + 1, 50):
            lengths = np.sort(generator.integers(0, longest + 1, rows))[::-1]
            begins = pieces.row_groups(lengths.tolist(), groups)
            assert begins[0] == 0
            assert begins[-1] == rows
            assert all(begin < end for begin, end in pairwise(begins))
            steps = [lengths[begin:end].sum() for begin, end in pairwise(begins)]
            if rows == 50 and longest == 100:
                assert max(steps) <= lengths.sum() / groups + longest
