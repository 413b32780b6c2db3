"""The cells that torch.nn does not have, in every type: as accurate as the reference in that type.

Those that it has are compared with torch.nn itself, in test_parity.py.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from cases import CELLS, TORCH_CELLS, errors
from test_sequences import results, scan
from torch import Tensor

from fastrnn import ops, reference

# Cell, whether it is projected, whether a gate takes x itself.
FORMS = [("lstm", True, False), *((c, False, False) for c in CELLS if c not in TORCH_CELLS)]
FORMS += [(c, True, False) for c in CELLS if ops.CELLS[c].projects and c != "lstm"]
FORMS += [(c, False, True) for c in CELLS if ops.CELLS[c].takes_x]
forms = pytest.mark.parametrize(
    "form", FORMS, ids=[c + "-projected" * p + "-x" * x for c, p, x in FORMS]
)

# T, B, I, H: sizes of 1, odd ones, both sides of the widths of vectors and tiles, a long sum.
SHAPES = [
    (1, 1, 1, 2),
    (5, 3, 4, 5),
    (3, 13, 17, 33),
    (9, 2, 16, 16),
    (2, 65, 3, 11),
    (3, 2, 9, 132),
]
# Of these, those that are large enough to be drawn once or twice.
TYPED = [(torch.float32, shape) for shape in SHAPES[2:]]
TYPED += [(dtype, SHAPES[2]) for dtype in (torch.bfloat16, torch.float16)]


@cache
def arguments(form: tuple, shape: tuple, dtype: torch.dtype, options: tuple, seed: int) -> dict:
    """Of scan, in values that the type holds exactly, with weights as modules begin with."""
    (cell, projected, takes_x), (steps, batch, features, size) = form, shape
    info, directions = ops.CELLS[cell], 1 + ("bidirectional" in options)
    proj, features = (size + 1) // 2 if projected else 0, size if takes_x else features
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    shapes = info.shapes(features, size, proj, takes_x=takes_x)
    sizes = [proj or size] + [size] * (info.states - 1)
    given = {
        "cell": cell,
        "x": draw(steps, batch, features),
        "states": [draw(directions, batch, s) for s in sizes],
        "weights": [draw(*s) / size**0.5 for _ in range(directions) for s in shapes.values()],
        "bidirectional": directions == 2,
    }
    if "ragged" in options:
        given["lengths"] = torch.randint(0, steps + 1, (batch,), generator=generator)
        given["resets"] = torch.rand(steps, batch, generator=generator) < 0.2
    return given


def exact(given: dict[str, Any]) -> dict[str, Any]:
    """The same numbers in float64."""
    wide = {key: [t.double() for t in given[key]] for key in ("states", "weights")}
    return {**given, "x": given["x"].double(), **wide}


@cache
def expected(*key: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The reference's results in float64 and in the type, once for all instruction sets."""
    given = arguments(*key)
    return results(reference.scan, exact(given)), results(reference.scan, given)


OPTIONS = [(), ("bidirectional", "ragged")]
options = pytest.mark.parametrize("options", OPTIONS, ids=["plain", "both ways, ragged"])
shapes = pytest.mark.parametrize("shape", SHAPES, ids=["T{}B{}I{}H{}".format(*s) for s in SHAPES])


@forms
@shapes
@options
def test_float64_equals_the_reference(form: tuple, shape: tuple, options: tuple, isa: str) -> None:
    key = (form, shape, torch.float64, options, 0)
    found = results(scan, arguments(*key))
    for name, t in expected(*key)[0].items():
        torch.testing.assert_close(found[name], t, rtol=1e-11, atol=1e-12, msg=name)


@forms
@options
@pytest.mark.parametrize("dtype, shape", TYPED)
def test_as_accurate_as_the_reference(
    form: tuple, shape: tuple, options: tuple, dtype: torch.dtype, isa: str
) -> None:
    """Small tensors are drawn several times, so that no error is a matter of luck."""
    steps, batch, _, size = shape
    draws = range(min(30, 1 + 400 // (steps * batch * size)))
    keys = [(form, shape, dtype, options, seed) for seed in draws]
    truth, theirs = zip(*(expected(*key) for key in keys))
    ours = errors([results(scan, arguments(*key)) for key in keys], list(truth))
    theirs, rounding = errors(list(theirs), list(truth)), torch.finfo(dtype).eps / 2
    worse = {
        name: f"{ours[name]:.2e} > 1.5 * {theirs[name]:.2e}"
        for name in ours
        if not ours[name] <= 1.5 * theirs[name] + rounding
    }
    assert not worse
