"""Lengths, resets and packed batches, against the reference: outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from cases import CELLS
from conftest import ISAS
from torch import Tensor

from fastrnn import ops, reference
from fastrnn.reference import Inputs

T, B, I, H, P = 6, 5, 3, 7, 4  # noqa: E741

scan = partial(ops.scan, all_states=True)

# Of the rows of a batch: with 0 and T, equal ones, in no order.
LENGTHS = {
    "mixed": [4, 0, 6, 2, 4],
    "falling": [6, 5, 3, 1, 0],
    "rising": [1, 2, 3, 4, 6],
    "all short": [2, 3, 1, 2, 3],
    "full": [6, 6, 6, 6, 6],
    "zero": [0, 0, 0, 0, 0],
}


def at_steps(*steps: int) -> Tensor:
    mask = torch.zeros(T, B, dtype=torch.bool)
    mask[list(steps)] = True
    return mask


def at_random(seed: int) -> Tensor:
    return torch.rand(T, B, generator=torch.Generator().manual_seed(seed)) < 0.3


RESETS = {
    "random": at_random(0),
    "first": at_steps(0),
    "last": at_steps(T - 1),
    "everywhere": at_steps(*range(T)),
    "nowhere": at_steps(),
    "one row": at_random(1) & (torch.arange(B) == 2),
}

# Of the walk: both directions, batch_first, without bias, without states, with a projection, and
# with x itself in a gate.
WALKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bidirectional": {"bidirectional": True},
    "batch first": {"batch_first": True},
    "bare": {"bias": False, "initial": False},
    "projected": {"proj": P},
    "x itself": {"takes_x": True},
    "all": {"bidirectional": True, "batch_first": True, "proj": P, "takes_x": True},
}
COMBINATIONS = [
    (cell, walk)
    for cell in CELLS
    for walk in WALKS
    if (walk != "projected" or ops.CELLS[cell].projects)
    and (walk != "x itself" or ops.CELLS[cell].takes_x)
]
combinations = pytest.mark.parametrize(
    "cell, walk", COMBINATIONS, ids=[f"{cell}-{walk}" for cell, walk in COMBINATIONS]
)


def draw(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def arguments(
    cell: str,
    rows: Sequence[int] = (T, B),
    batch: int = B,
    bidirectional: bool = False,
    batch_first: bool = False,
    bias: bool = True,
    initial: bool = True,
    proj: int = 0,
    takes_x: bool = False,
) -> dict[str, Any]:
    """Arguments of scan with x of shape [*rows, I], or [*rows, H] where a gate takes x itself; proj
    and takes_x are for the cells that have such a form."""
    generator = torch.Generator().manual_seed(0)
    info, directions = ops.CELLS[cell], 2 if bidirectional else 1
    proj, takes_x = proj if info.projects else 0, takes_x and info.takes_x
    features = H if takes_x else I
    shapes = info.shapes(features, H, proj, bias, takes_x)
    weights = [
        draw(generator, *shape) / (2 if name in ("weight_ih", "weight_hh") else 1)
        for _ in range(directions)
        for name, shape in shapes.items()
    ]
    sizes = [proj or H] + [H] * (info.states - 1)
    x = draw(generator, *rows, features)
    return {
        "cell": cell,
        "x": x.transpose(0, 1).contiguous() if batch_first else x,
        "states": [draw(generator, directions, batch, s) for s in sizes] if initial else [],
        "weights": weights,
        "bidirectional": bidirectional,
        "batch_first": batch_first,
    }


def results(run: Callable[..., Any], given: dict[str, Any]) -> dict[str, Tensor]:
    """y, last, steps, and the gradients of all inputs by a sum over all of these."""
    given = dict(given)
    leaves = {"x": given["x"].clone().requires_grad_()}
    given["x"] = leaves["x"]
    for key in ("states", "weights"):
        given[key] = [t.clone().requires_grad_() for t in given[key]]
        leaves |= {f"{key} {i}": t for i, t in enumerate(given[key])}
    y, last, steps = run(Inputs(**given))
    found = {"y": y}
    found |= {f"last {i}": t for i, t in enumerate(last)}
    found |= {f"steps {i}": t for i, t in enumerate(steps)}
    generator = torch.Generator().manual_seed(1)
    loss = sum((t * draw(generator, *t.shape)).sum() for t in found.values())
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for (name, leaf), grad in zip(leaves.items(), grads, strict=True):
        found[f"grad {name}"] = torch.zeros_like(leaf) if grad is None else grad
    return {name: t.detach() for name, t in found.items()}


Check = Callable[[dict[str, Any]], dict[str, Tensor]]


@pytest.fixture
def assert_like_reference(monkeypatch: pytest.MonkeyPatch) -> Check:
    """Compares every instruction set with the reference, which takes longer than all of them."""

    def check(given: dict[str, Any]) -> dict[str, Tensor]:
        expected = results(reference.scan, given)
        for isa in ISAS:
            monkeypatch.setenv("FASTRNN_ISA", isa)
            found = results(scan, given)
            assert found.keys() == expected.keys()
            for name, t in expected.items():
                where = f"{name}, {isa}"
                torch.testing.assert_close(found[name], t, rtol=1e-11, atol=1e-12, msg=where)
        return found

    return check


def oriented(mask: Tensor, given: dict[str, Any]) -> Tensor:
    """A mask [T, B] in the order of x."""
    return mask.T.contiguous() if given["batch_first"] else mask


@combinations
def test_without_either(cell: str, walk: str, assert_like_reference: Check) -> None:
    assert_like_reference(arguments(cell, **WALKS[walk]))


@combinations
def test_lengths(cell: str, walk: str, assert_like_reference: Check) -> None:
    given = arguments(cell, **WALKS[walk])
    for lengths in LENGTHS.values():
        found = assert_like_reference({**given, "lengths": torch.tensor(lengths)})
        beyond = torch.arange(T)[:, None] >= torch.tensor(lengths)
        beyond = oriented(beyond, given)
        for name in ("y", "grad x", *(n for n in found if n.startswith("steps"))):
            assert not found[name][beyond].any(), name


@combinations
def test_resets(cell: str, walk: str, assert_like_reference: Check) -> None:
    given = arguments(cell, **WALKS[walk])
    for mask in RESETS.values():
        assert_like_reference({**given, "resets": oriented(mask, given)})


@combinations
def test_lengths_and_resets(cell: str, walk: str, assert_like_reference: Check) -> None:
    given = arguments(cell, **WALKS[walk])
    for mask, lengths in zip(RESETS.values(), LENGTHS.values(), strict=True):
        assert_like_reference(
            {**given, "resets": oriented(mask, given), "lengths": torch.tensor(lengths)}
        )


BATCH_SIZES = ([5, 4, 4, 2, 1], [3, 3, 3], [1, 1, 1, 1], [6], [4, 1])


@combinations
@pytest.mark.parametrize("with_resets", [False, True], ids=["plain", "resets"])
def test_packed(cell: str, walk: str, with_resets: bool, assert_like_reference: Check) -> None:
    for sizes in BATCH_SIZES:
        options = {**WALKS[walk], "batch_first": False}
        given = arguments(cell, (sum(sizes),), sizes[0], **options)
        given["batch_sizes"] = torch.tensor(sizes)
        if with_resets:
            given["resets"] = at_random(3).flatten()[: sum(sizes)]
        assert_like_reference(given)


@pytest.mark.parametrize("cell", CELLS)
def test_single_steps(cell: str, assert_like_reference: Check) -> None:
    given = arguments(cell)
    given["x"] = given["x"][0]
    given["states"] = [s[0] for s in given["states"]]
    assert_like_reference(given)
    for mask in (at_steps(0), at_random(0)):
        assert_like_reference({**given, "resets": mask[0]})
    assert_like_reference({**given, "lengths": torch.tensor([1, 0, 0, 1, 1])})


@pytest.mark.parametrize("cell", CELLS)
def test_packed_is_padded(cell: str, isa: str) -> None:
    """The two ways to say the same have the same bits."""
    lengths = torch.tensor([6, 4, 4, 3, 1])
    sizes = torch.tensor([5, 4, 4, 3, 1, 1])
    given = arguments(cell, bidirectional=True)
    padded = scan(Inputs(**given, lengths=lengths))
    runs = torch.arange(T)[:, None] < lengths
    packed = scan(Inputs(**{**given, "x": given["x"][runs]}, batch_sizes=sizes))
    assert torch.equal(packed.y, padded.y[runs])
    for found, expected in zip(packed.steps, padded.steps, strict=True):
        assert torch.equal(found, expected[runs])
    for found, expected in zip(packed.last, padded.last, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("cell", CELLS)
def test_a_row_of_length_0_keeps_its_states(cell: str, isa: str) -> None:
    for walk in ("plain", "bidirectional", "all"):
        given = arguments(cell, **WALKS[walk])
        states = [s.requires_grad_() for s in given["states"]]
        out = ops.scan(Inputs(**given, lengths=torch.tensor(LENGTHS["mixed"])))
        for last, state in zip(out.last, states, strict=True):
            assert torch.equal(last[:, 1], state[:, 1])
        grads = torch.autograd.grad(sum(s[:, 1].sum() for s in out.last), states)
        for grad in grads:
            expected = torch.zeros_like(grad)
            expected[:, 1] = 1
            assert torch.equal(grad, expected)


@pytest.mark.parametrize("cell", CELLS)
def test_a_reset_cuts_the_past_off(cell: str, isa: str) -> None:
    """Steps after a reset are those of a run that begins there, to the bit; no gradient crosses."""
    given = arguments(cell)
    given["x"].requires_grad_()
    for s in given["states"]:
        s.requires_grad_()
    whole = ops.scan(Inputs(**given, resets=at_steps(3)))
    part = ops.scan(Inputs(**{**given, "x": given["x"][3:], "states": []}))
    assert torch.equal(whole.y[3:], part.y)
    grads = torch.autograd.grad(whole.y[3:].sum(), [given["x"], *given["states"]])
    assert grads[0][3:].any() and not grads[0][:3].any()
    assert not any(grad.any() for grad in grads[1:])


@combinations
@pytest.mark.parametrize("lengths", ["full", "mixed"])
@pytest.mark.parametrize("mask", ["random", "first", "everywhere"])
def test_episodes_in_a_row_are_those_run_apart(
    cell: str, walk: str, mask: str, lengths: str
) -> None:
    """In both directions: neither hears of another episode."""
    given, resets = arguments(cell, **WALKS[walk]), RESETS[mask]
    found = ops.scan(
        Inputs(**given, resets=oriented(resets, given), lengths=torch.tensor(LENGTHS[lengths]))
    )
    x, y = (t.transpose(0, 1) if given["batch_first"] else t for t in (given["x"], found.y))
    for row, length in enumerate(LENGTHS[lengths]):
        starts = [t for t in range(1, length) if resets[t, row]]
        ends = []
        for start, end in zip([0, *starts], [*starts, length]):
            states = [s[:, row : row + 1].clone() for s in given["states"]]
            for s in states:
                if start > 0 or (length > 0 and resets[0, row]):
                    s[0] = 0
                if end < length:
                    s[1:] = 0
            episode = {**given, "x": x[start:end, row : row + 1], "states": states}
            if start == end:  # the row has no steps
                ends.append(states)
                continue
            alone = ops.scan(Inputs(**{**episode, "batch_first": False}))
            torch.testing.assert_close(y[start:end, row], alone.y[:, 0], rtol=1e-11, atol=1e-12)
            ends.append(alone.last)
        for k, last in enumerate(found.last if given["states"] else ()):
            torch.testing.assert_close(last[:1, row], ends[-1][k][:1, 0], rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(last[1:, row], ends[0][k][1:, 0], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e300], ids=str)
@combinations
def test_garbage_in_padding_stays_there(cell: str, walk: str, garbage: float, isa: str) -> None:
    given = arguments(cell, **WALKS[walk])
    lengths = torch.tensor(LENGTHS["mixed"])
    beyond = oriented(torch.arange(T)[:, None] >= lengths, given)
    clean = results(scan, {**given, "lengths": lengths})
    given["x"] = given["x"].masked_fill(beyond[..., None], garbage)
    dirty = results(scan, {**given, "lengths": lengths})
    for name, t in clean.items():
        assert torch.equal(dirty[name], t), name


@pytest.mark.parametrize("cell", CELLS)
def test_garbage_in_gradients_of_padding_stays_there(cell: str, isa: str) -> None:
    given = arguments(cell, bidirectional=True)
    lengths = torch.tensor(LENGTHS["mixed"])
    beyond = torch.arange(T)[:, None] >= lengths
    leaves = [t.requires_grad_() for t in (given["x"], *given["states"], *given["weights"])]
    found = []
    for garbage in (0.0, float("nan")):
        out = scan(Inputs(**given, lengths=lengths))
        sequences = [out.y, *out.steps]
        grads = [torch.ones_like(t).masked_fill(beyond[..., None], garbage) for t in sequences]
        found.append(torch.autograd.grad(sequences, leaves, grads))
    for dirty, clean in zip(found[1], found[0], strict=True):
        assert torch.equal(dirty, clean)


@pytest.mark.parametrize("cell", CELLS)
def test_garbage_in_states_that_are_reset_stays_there(cell: str, isa: str) -> None:
    given = arguments(cell)
    clean = results(scan, {**given, "resets": at_steps(0)})
    given["states"] = [torch.full_like(s, float("nan")) for s in given["states"]]
    dirty = results(scan, {**given, "resets": at_steps(0)})
    for name, t in clean.items():
        assert torch.equal(dirty[name], t), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_padded_is_packed_in_other_types(cell: str, dtype: torch.dtype, isa: str) -> None:
    given = arguments(cell, bidirectional=True)
    x = given["x"].to(dtype)
    for key in ("states", "weights"):
        given[key] = [t.to(dtype).requires_grad_() for t in given[key]]

    def run(x: Tensor, **rows: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What has a row for each of x, its gradient among it, and what has not."""
        given["x"] = x.requires_grad_()
        out = scan(Inputs(**given, **rows))
        loss = sum(t.float().sin().sum() for t in (out.y, *out.steps, *out.last))
        grad_x, *grads = torch.autograd.grad(loss, [x, *given["states"], *given["weights"]])
        return [out.y, *out.steps, grad_x], [*out.last, *grads]

    # The second has so few rows that no weights are packed.
    for sizes in ([5, 4, 4, 3, 1, 1], [5, 1]):
        runs = torch.arange(B) < torch.tensor(sizes + [0] * (T - len(sizes)))[:, None]
        padded, padded_rest = run(x.clone(), lengths=runs.sum(0))
        packed, packed_rest = run(x[runs], batch_sizes=torch.tensor(sizes))
        for found, expected in zip(padded, packed, strict=True):
            assert torch.equal(found[runs], expected)
            assert not found[~runs].any()
        for found, expected in zip(padded_rest, packed_rest, strict=True):
            assert torch.equal(found, expected)


def test_layouts_of_lengths_and_resets(assert_like_reference: Check) -> None:
    """Neither need be contiguous."""
    given = arguments("gru")
    lengths = torch.tensor(LENGTHS["mixed"]).repeat_interleave(2)[::2]
    mask = at_random(0).T.contiguous().T
    assert not lengths.is_contiguous() and not mask.is_contiguous()
    assert_like_reference({**given, "lengths": lengths, "resets": mask})
    row = torch.tensor([True, False, False, False, True])
    assert_like_reference({**given, "resets": row.expand(T, B)})
    assert_like_reference({**given, "lengths": torch.tensor(4).expand(B)})


def test_larger_shapes(assert_like_reference: Check) -> None:
    """Enough rows and units that tiles end within the batch as it shrinks."""
    generator = torch.Generator().manual_seed(0)
    steps, batch, size = 5, 70, 19
    for cell in CELLS:
        shapes = ops.CELLS[cell].shapes(4, size).values()
        weights = [draw(generator, *shape) / 4 for shape in (*shapes, *shapes)]
        given = {
            "cell": cell,
            "x": draw(generator, steps, batch, 4),
            "states": [],
            "weights": weights,
            "bidirectional": True,
        }
        lengths = torch.randint(0, steps + 1, (batch,), generator=generator)
        resets = torch.rand(steps, batch, generator=generator) < 0.2
        assert_like_reference({**given, "lengths": lengths, "resets": resets})
