"""The numbers of torch.nn: every output and every gradient, at every instruction set."""

from __future__ import annotations

import pytest
import torch
from cases import (
    TORCH_CELLS,
    Case,
    assert_as_accurate_as_torch,
    assert_equal,
    run,
    run_torch,
    variants,
)

import fastrnn

# Sizes of 1, primes, and both sides of the widths of vectors (2 to 16 elements), of tiles (up to 12
# rows), of chunks (64 rows) and of what is computed without packing (8 rows).
SHAPES = [
    (1, 1, 1, 1),
    (1, 8, 3, 2),
    (3, 3, 5, 3),
    (9, 1, 2, 5),
    (2, 4, 7, 8),
    (5, 2, 8, 9),
    (4, 5, 16, 15),
    (3, 6, 15, 16),
    (2, 7, 17, 17),
    (2, 12, 4, 31),
    (3, 13, 31, 33),
    (2, 65, 3, 11),
    (65, 1, 3, 24),
    (2, 3, 64, 67),
]
IDS = [f"T{t}B{b}I{i}H{h}" for t, b, i, h in SHAPES]


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.parametrize("cell", TORCH_CELLS)
def test_float64_equals_torch(cell: str, shape: tuple[int, ...], isa: str) -> None:
    for case in variants(Case(cell, *shape)):
        assert_equal(run(case, fastrnn), run_torch(case))


@pytest.mark.parametrize("shape", SHAPES, ids=IDS)
@pytest.mark.parametrize("cell", TORCH_CELLS)
def test_float32_is_as_accurate_as_torch(cell: str, shape: tuple[int, ...], isa: str) -> None:
    for case in variants(Case(cell, *shape, dtype=torch.float32)):
        assert_as_accurate_as_torch(case)


# Long sums and long chains are where rounding errors grow.
@pytest.mark.parametrize(
    "shape", [(100, 3, 20, 24), (20, 16, 300, 32), (3, 2, 32, 520), (6, 8, 256, 256)]
)
@pytest.mark.parametrize("cell", TORCH_CELLS)
def test_float32_long_sums(cell: str, shape: tuple[int, ...], isa: str) -> None:
    assert_as_accurate_as_torch(Case(cell, *shape, dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(1, 1, 3, 5), (7, 4, 8, 16), (20, 3, 17, 33), (5, 13, 40, 64)])
@pytest.mark.parametrize("cell", TORCH_CELLS)
def test_16_bit_types(cell: str, shape: tuple[int, ...], dtype: torch.dtype, isa: str) -> None:
    for case in variants(Case(cell, *shape, dtype=dtype)):
        assert_as_accurate_as_torch(case)


@pytest.mark.parametrize("cell", TORCH_CELLS)
def test_layers(cell: str) -> None:
    for case in variants(Case(cell, 4, 3, 5, 6, layers=3)):
        assert_equal(run(case, fastrnn), run_torch(case))
