"""Derivatives of every kind: by finite differences, and equal to those of the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import CELLS, twins
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from fastrnn import functional, ops, reference
from fastrnn.reference import Inputs

T, B, I, H, P = 3, 2, 2, 3, 2  # noqa: E741

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "both ways": {"bidirectional": True},
    "lengths": {"lengths": torch.tensor([3, 1])},
    "resets": {"resets": torch.tensor([[False, True], [True, False], [False, False]])},
    "batch first": {"batch_first": True, "lengths": torch.tensor([0, 2])},
    "episodes": {
        "bidirectional": True,
        "lengths": torch.tensor([2, 3]),
        "resets": torch.tensor([[False, True], [True, False], [True, True]]),
    },
}
PACKED: dict[str, Any] = {"batch_sizes": torch.tensor([2, 2, 1])}
cells = pytest.mark.parametrize("cell", CELLS)
options = pytest.mark.parametrize("given", OPTIONS.values(), ids=OPTIONS)

Flat = Callable[..., tuple[Tensor, ...]]


def inputs(cell: str, given: dict[str, Any], proj: int = 0, takes_x: bool = False) -> list[Tensor]:
    """x, the states, the weights."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    info, features = ops.CELLS[cell], H if takes_x else I
    directions = 2 if given.get("bidirectional") else 1
    shape = [B, T] if given.get("batch_first") else [T, B]
    if "batch_sizes" in given:
        shape = [int(given["batch_sizes"].sum())]
    sizes = [proj or H] + [H] * (info.states - 1)
    made = [draw(*shape, features), *(draw(directions, B, size) for size in sizes)]
    for _ in range(directions):
        made += [draw(*s) for s in info.shapes(features, H, proj, takes_x=takes_x).values()]
    return made


def flat(scan: Callable[..., Any], cell: str, given: dict[str, Any]) -> Flat:
    """scan as a function of tensors: y, the last states, and the steps."""
    states = ops.CELLS[cell].states

    def function(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        given_ = (cell, x, rest[:states], rest[states:])
        if scan is functional.layer:
            y, last, steps = scan(*given_, **given, all_states=True)
        elif scan is ops.scan:
            y, last, steps = scan(Inputs(*given_, **given), all_states=True)
        else:
            y, last, steps = scan(Inputs(*given_, **given))
        return (y, *last, *steps)

    return function


def scalar(function: Flat) -> Callable[..., Tensor]:
    """A number that depends on every output."""

    def summed(*tensors: Tensor) -> Tensor:
        parts = (((i + 1) * t.square() + t).sum() for i, t in enumerate(function(*tensors)))
        return sum(parts, start=torch.zeros((), dtype=torch.float64))

    return summed


def both(cell: str, given: dict[str, Any]) -> tuple[Flat, Flat]:
    return flat(ops.scan, cell, given), flat(reference.scan, cell, given)


def assert_close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


# ---- finite differences --------------------------------------------------------------------------


@cells
@options
def test_gradcheck(cell: str, given: dict[str, Any]) -> None:
    """Reverse and forward mode."""
    assert gradcheck(
        flat(ops.scan, cell, given),
        inputs(cell, given),
        check_forward_ad=True,
        fast_mode=True,
    )


@pytest.mark.parametrize("isa_cell", CELLS)
def test_gradcheck_at_every_instruction_set(isa_cell: str, isa: str) -> None:
    """Number by number, not by random projections."""
    assert gradcheck(flat(ops.scan, isa_cell, {}), inputs(isa_cell, {}))


# The forms of a cell that the tests of all cells leave out: projected, and with x itself in a gate.
FORMS = [(cell, P, False) for cell in CELLS if ops.CELLS[cell].projects]
FORMS += [(cell, 0, True) for cell in CELLS if ops.CELLS[cell].takes_x]
forms = pytest.mark.parametrize(
    "cell, proj, takes_x", FORMS, ids=[f"{c}-{'projected' if p else 'x'}" for c, p, _ in FORMS]
)


@cells
def test_gradcheck_of_packed(cell: str) -> None:
    assert gradcheck(flat(ops.scan, cell, PACKED), inputs(cell, PACKED), fast_mode=True)


@forms
def test_gradcheck_of_forms(cell: str, proj: int, takes_x: bool) -> None:
    for given in (PACKED, {"bidirectional": True, "lengths": torch.tensor([1, 3])}):
        function, tensors = flat(ops.scan, cell, given), inputs(cell, given, proj, takes_x)
        assert gradcheck(function, tensors, check_forward_ad=given is not PACKED, fast_mode=True)


@cells
@options
def test_gradgradcheck(cell: str, given: dict[str, Any]) -> None:
    assert gradgradcheck(
        flat(ops.scan, cell, given),
        inputs(cell, given),
        check_fwd_over_rev=True,
        check_rev_over_rev=True,
        fast_mode=True,
    )


@forms
def test_gradgradcheck_of_forms(cell: str, proj: int, takes_x: bool) -> None:
    tensors = inputs(cell, PACKED, proj, takes_x)
    assert gradgradcheck(flat(ops.scan, cell, PACKED), tensors, fast_mode=True)


# ---- torch.func ----------------------------------------------------------------------------------


@cells
@options
def test_grad(cell: str, given: dict[str, Any]) -> None:
    tensors = inputs(cell, given)
    places = tuple(range(len(tensors)))
    found, expected = (torch.func.grad(scalar(f), places)(*tensors) for f in both(cell, given))
    assert_close(found, expected)


@cells
@options
def test_vjp_and_jvp(cell: str, given: dict[str, Any]) -> None:
    tensors = tuple(inputs(cell, given))
    generator = torch.Generator().manual_seed(5)

    def like(t: Tensor) -> Tensor:
        return torch.randn(t.shape, generator=generator, dtype=t.dtype)

    tangents = tuple(map(like, tensors))
    ours, theirs = both(cell, given)
    cotangents = tuple(map(like, theirs(*tensors)))
    assert_close(*(torch.func.vjp(f, *tensors)[1](cotangents) for f in (ours, theirs)))
    assert_close(*(torch.func.jvp(f, tensors, tangents) for f in (ours, theirs)))


@cells
def test_jvp_of_some_inputs(cell: str) -> None:
    """The tangents of inputs that have none are zero."""
    tensors = inputs(cell, {})
    for place, t in enumerate(tensors):
        results = []
        for function in both(cell, {}):

            def of_one(one: Tensor, f: Flat = function, i: int = place) -> tuple[Tensor, ...]:
                return f(*tensors[:i], one, *tensors[i + 1 :])

            results.append(torch.func.jvp(of_one, (t,), (torch.ones_like(t),)))
        assert_close(*results)


@cells
def test_dual_numbers(cell: str) -> None:
    tensors = [t.detach() for t in inputs(cell, {})]
    results = []
    for function in both(cell, {}):
        with forward_ad.dual_level():
            dual = [forward_ad.make_dual(t, torch.ones_like(t)) for t in tensors]
            results.append([tuple(forward_ad.unpack_dual(t)) for t in function(*dual)])
    assert_close(*results)


@cells
@pytest.mark.parametrize("name", ["plain", "both ways", "resets"])
def test_vmap(cell: str, name: str) -> None:
    given = OPTIONS[name]
    generator = torch.Generator().manual_seed(6)
    tensors = [
        torch.randn(3, *t.shape, generator=generator, dtype=t.dtype) for t in inputs(cell, given)
    ]
    ours, theirs = both(cell, given)
    looped = [theirs(*parts) for parts in zip(*tensors, strict=True)]
    expected = tuple(map(torch.stack, zip(*looped, strict=True)))
    assert_close(torch.func.vmap(ours)(*tensors), expected)
    # x alone, along another axis.
    found = torch.func.vmap(ours, in_dims=(1, *[None] * (len(tensors) - 1)))(
        tensors[0].movedim(0, 1), *(t[0] for t in tensors[1:])
    )
    looped = [theirs(x, *(t[0] for t in tensors[1:])) for x in tensors[0]]
    assert_close(found, tuple(map(torch.stack, zip(*looped, strict=True))))


@cells
@pytest.mark.parametrize("name", ["plain", "lengths", "resets"])
def test_gradients_per_sample(cell: str, name: str) -> None:
    given = OPTIONS[name]
    x, *rest = inputs(cell, given)
    xs = torch.randn(3, *x.shape, generator=torch.Generator().manual_seed(7), dtype=x.dtype)
    places = tuple(range(1 + len(rest)))
    in_dims = (0, *[None] * len(rest))
    ours, theirs = both(cell, given)
    found = torch.func.vmap(torch.func.grad(scalar(ours), places), in_dims)(xs, *rest)
    each = [torch.func.grad(scalar(theirs), places)(one, *rest) for one in xs]
    assert_close(found, tuple(map(torch.stack, zip(*each, strict=True))))


@cells
@pytest.mark.parametrize("kind", ["hessian", "jacrev of grad", "jacfwd of grad", "jacrev"])
def test_second_derivatives(cell: str, kind: str) -> None:
    tensors = inputs(cell, {})
    place = 1 + ops.CELLS[cell].states + 1  # weight_hh

    def derived(function: Flat) -> Any:
        of = scalar(function)
        if kind == "jacrev":
            return torch.func.jacrev(function, place)(*tensors)
        if kind == "hessian":
            return torch.func.hessian(of, place)(*tensors)
        outer = torch.func.jacrev if kind == "jacrev of grad" else torch.func.jacfwd
        return outer(torch.func.grad(of, (0, place)), (0, place))(*tensors)

    assert_close(*map(derived, both(cell, {})))


@cells
def test_through_functional_layer(cell: str) -> None:
    """functional.layer is as differentiable as the op that it calls."""
    lengths = {"lengths": torch.tensor([2, 3])}
    tensors = inputs(cell, lengths)
    places = tuple(range(len(tensors)))
    functions = (flat(functional.layer, cell, lengths), flat(reference.scan, cell, lengths))
    assert_close(*(torch.func.grad(scalar(f), places)(*tensors) for f in functions))
    vectors = tuple(map(torch.ones_like, tensors))
    assert_close(
        *(
            torch.func.jvp(torch.func.grad(scalar(f), places), tuple(tensors), vectors)
            for f in functions
        )
    )


@cells
def test_third_derivatives(cell: str) -> None:
    def third(function: Flat) -> Tensor:
        tensors = inputs(cell, {})
        value = scalar(function)(*tensors)
        for _ in range(3):
            grads = torch.autograd.grad(value, tensors, create_graph=True, allow_unused=True)
            # By 10, because sin of large numbers magnifies their roundings.
            value = sum((g / 10).sin().sum() for g in grads if g is not None)
        return value

    assert_close(*map(third, both(cell, {})))


# ---- double backward through modules -------------------------------------------------------------

MODULES = {
    "LSTM": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "LSTM projected": ("LSTM", {"proj_size": P}),
    "GRU": ("GRU", {"num_layers": 2, "batch_first": True}),
    "RNN tanh": ("RNN", {"bidirectional": True}),
    "RNN relu": ("RNN", {"nonlinearity": "relu"}),
    "LSTMCell": ("LSTMCell", {}),
    "GRUCell": ("GRUCell", {}),
    "RNNCell": ("RNNCell", {}),
}


@pytest.mark.parametrize("name, extra", MODULES.values(), ids=MODULES)
def test_gradient_penalty(name: str, extra: dict[str, Any]) -> None:
    def penalized(module: nn.Module) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(8)
        shape = [B, 4] if name.endswith("Cell") else [T, B, 4]
        x = torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()
        out = module(x)
        y = out if isinstance(out, Tensor) else out[0]
        (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        loss = y.sum() + (grad.norm() - 1).square()
        return (loss, grad, *torch.autograd.grad(loss, [x, *module.parameters()]))

    theirs, ours = twins(name, 4, 5, **extra)
    assert_close(penalized(ours), penalized(theirs))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_hessian_vector_product_of_parameters(name: str) -> None:
    def product(module: nn.Module) -> tuple[Tensor, ...]:
        x = torch.ones(T, B, 4, dtype=torch.float64)
        parameters = list(module.parameters())
        y, _ = module(x)
        grads = torch.autograd.grad(y.square().sum(), parameters, create_graph=True)
        vectors = [torch.linspace(-1, 1, p.numel(), dtype=p.dtype).view_as(p) for p in parameters]
        return torch.autograd.grad(grads, parameters, vectors)

    theirs, ours = twins(name, 4, 5)
    assert_close(product(ours), product(theirs))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_batched_gradients(name: str) -> None:
    """Many vectors in one backward, which is how autograd.functional makes vectorized Jacobians."""

    def product(module: nn.Module) -> tuple[Tensor, ...]:
        x = torch.ones(T, B, 4, dtype=torch.float64).requires_grad_()
        y, _ = module(x)
        vectors = torch.linspace(-1, 1, 5 * y.numel(), dtype=y.dtype).view(5, *y.shape)
        return torch.autograd.grad(y, [x, *module.parameters()], vectors, is_grads_batched=True)

    theirs, ours = twins(name, 4, 5)
    assert_close(product(ours), product(theirs))


def test_backward_twice() -> None:
    """retain_graph keeps what backward needs; without it the second time is refused."""
    _, ours = twins("LSTM", 4, 5)
    y, _ = ours(torch.ones(T, B, 4, dtype=torch.float64))
    first, second = (
        torch.autograd.grad(y.sum(), list(ours.parameters()), retain_graph=keep)
        for keep in (True, False)
    )
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


def test_a_changed_weight_is_noticed() -> None:
    """Backward needs the weights of forward, and refuses others."""
    _, ours = twins("GRU", 4, 5)
    y, _ = ours(torch.ones(T, B, 4, dtype=torch.float64))
    with torch.no_grad():
        ours.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
