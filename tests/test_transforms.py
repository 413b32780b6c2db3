"""vmap at speed, ensembles, activation checkpointing, and layers that recompute their gates."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from cases import CELLS, outcome, tensors_in
from torch import Tensor, nn
from torch.autograd import gradgradcheck
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vmap
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fastrnn
from fastrnn import ops, recomputing
from fastrnn.reference import Inputs

T, B, I, H, P, N = 5, 2, 3, 4, 2, 3  # noqa: E741
cells = pytest.mark.parametrize("cell", CELLS)

Flat = Callable[..., tuple[Tensor, ...]]


class Calls(TorchDispatchMode):
    """Counts the calls of fastrnn's ops."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if op.namespace == "fastrnn":
            self.of[op.name().removeprefix("fastrnn::")] += 1
        return op(*args, **(kwargs or {}))


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


RESETS = torch.tensor([[False, True], [True, False], [False, False], [True, True], [False, True]])
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "both ways": {"bidirectional": True},
    "batch first": {"batch_first": True, "lengths": torch.tensor([3, 5])},
    "lengths": {"lengths": torch.tensor([2, 5]), "bidirectional": True},
    "no steps": {"lengths": torch.tensor([4, 0])},
    "resets": {"resets": RESETS, "bidirectional": True},
    "episodes": {"resets": RESETS, "lengths": torch.tensor([5, 3]), "bidirectional": True},
    "packed": {"batch_sizes": torch.tensor([2, 2, 2, 1, 1]), "bidirectional": True},
    "packed episodes": {
        "batch_sizes": torch.tensor([2, 2, 1, 1, 1]),
        "resets": torch.tensor([False, True, True, False, True, False, False]),
        "bidirectional": True,
    },
}
calls = pytest.mark.parametrize("given", CALLS.values(), ids=CALLS)


def tensors(
    cell: str, given: dict[str, Any], proj: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """x, the states, the weights."""
    info, directions = ops.CELLS[cell], 2 if given.get("bidirectional") else 1
    leading = [B, T] if given.get("batch_first") else [T, B]
    if "batch_sizes" in given:
        leading = [int(given["batch_sizes"].sum())]
    sizes = [proj or H] + [H] * (info.states - 1)
    made = [random(*leading, I, dtype=dtype)]
    made += [random(directions, B, size, seed=i, dtype=dtype) for i, size in enumerate(sizes)]
    shapes = list(info.shapes(I, H, proj).values()) * directions
    return made + [random(*s, seed=9 + i, dtype=dtype) for i, s in enumerate(shapes)]


def flat(cell: str, given: dict[str, Any], recompute: bool = False) -> Flat:
    """A layer as a function of tensors: y, the last states, and the steps."""
    states = ops.CELLS[cell].states

    def function(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        inputs = Inputs(cell, x, rest[:states], rest[states:], **given)
        y, last, steps = ops.scan(inputs, all_states=True, recompute=recompute)
        return (y, *last, *steps)

    return function


def scalar(function: Flat) -> Callable[..., Tensor]:
    """A number that depends on every output."""

    def summed(*given: Tensor) -> Tensor:
        return sum(((i + 1) * t.square() + t).sum() for i, t in enumerate(function(*given)))

    return summed


def stacked(results: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(map(torch.stack, zip(*results, strict=True)))


def assert_same_bits(found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    for i, (f, e) in enumerate(zip(found, expected, strict=True)):
        assert torch.equal(f, e), i


def assert_close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


# ---- vmap over inputs ----------------------------------------------------------------------------


@cells
@calls
def test_vmap_over_inputs_is_one_call(cell: str, given: dict[str, Any]) -> None:
    function, (x, *rest) = flat(cell, given), tensors(cell, given)
    states = ops.CELLS[cell].states
    xs, weights = random(N, *x.shape), rest[states:]
    many = [random(N, *s.shape, seed=i) for i, s in enumerate(rest[:states])]
    with Calls() as made:
        found = vmap(function, (0, *[0] * states, *[None] * len(weights)))(xs, *many, *weights)
    assert made.of == {"scan": 1}
    assert_same_bits(
        found, stacked([function(xs[i], *(s[i] for s in many), *weights) for i in range(N)])
    )
    with Calls() as made:
        found = vmap(function, (1, *[None] * len(rest)), 1)(xs.movedim(0, 1), *rest)
    assert made.of == {"scan": 1}
    assert_same_bits(
        [t.movedim(1, 0) for t in found], stacked([function(one, *rest) for one in xs])
    )


@cells
def test_vmap_over_states_alone_is_one_call(cell: str) -> None:
    function, (x, *rest) = flat(cell, {}), tensors(cell, {})
    states = ops.CELLS[cell].states
    many = [random(N, *s.shape, seed=i) for i, s in enumerate(rest[:states])]
    dims = (None, *[0] * states, *[None] * (len(rest) - states))
    with Calls() as made:
        found = vmap(function, dims)(x, *many, *rest[states:])
    assert made.of == {"scan": 1}
    assert_same_bits(
        found, stacked([function(x, *(s[i] for s in many), *rest[states:]) for i in range(N)])
    )


@cells
def test_vmap_over_single_steps_is_one_call(cell: str) -> None:
    states = ops.CELLS[cell].states
    _, *rest = tensors(cell, {})
    before, weights, xs = [s[0] for s in rest[:states]], rest[states:], random(N, B, I)

    def function(x: Tensor) -> tuple[Tensor, ...]:
        return ops.scan(Inputs(cell, x, before, weights)).last

    with Calls() as made:
        found = vmap(function)(xs)
    assert made.of == {"scan": 1}
    assert_same_bits(found, stacked([function(x) for x in xs]))


@pytest.mark.parametrize("name", ["plain", "lengths", "packed"])
def test_nested_vmap_is_one_call(name: str) -> None:
    given = CALLS[name]
    function, (x, h, *weights) = flat("gru", given), tensors("gru", given)
    xs, hs, none = random(2, *x.shape), random(2, *h.shape), [None] * len(weights)
    with Calls() as made:
        found = vmap(vmap(function, (0, None, *none)), (None, 0, *none))(xs, hs, *weights)
    assert made.of == {"scan": 1}
    expected = [stacked([function(x, h, *weights) for x in xs]) for h in hs]
    assert_same_bits(found, stacked(expected))


def test_resets_of_their_own_are_one_call() -> None:
    x, h, *weights = tensors("gru", {})
    resets = torch.stack([RESETS, ~RESETS, RESETS.flip(0)])
    with Calls() as made:
        found = vmap(lambda r: flat("gru", {"resets": r})(x, h, *weights))(resets)
    assert made.of == {"scan": 1}
    assert_same_bits(found, stacked([flat("gru", {"resets": r})(x, h, *weights) for r in resets]))


@pytest.mark.parametrize("cell", ["lstm", "gru_before"])
def test_lengths_of_their_own_run_side_by_side(cell: str) -> None:
    x, *rest = tensors(cell, {})
    xs, lengths = random(N, *x.shape), torch.tensor([[5, 2], [0, 4], [3, 3]])
    places = tuple(range(1 + len(rest)))

    def gradient(x: Tensor, n: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        return grad(scalar(flat(cell, {"lengths": n})), places)(x, *rest)

    with Calls() as made:
        found = vmap(gradient, (0, 0, *[None] * len(rest)))(xs, lengths, *rest)
    assert made.of == {"scan_each": 1, "scan_each_backward": 1}
    expected = [gradient(x, n, *rest) for x, n in zip(xs, lengths, strict=True)]
    assert_same_bits(found, stacked(expected))


@cells
@calls
def test_gradients_by_inputs_per_sample(cell: str, given: dict[str, Any]) -> None:
    function, (x, *rest) = scalar(flat(cell, given)), tensors(cell, given)
    xs, places = random(N, *x.shape), tuple(range(1 + ops.CELLS[cell].states))
    with Calls() as made:
        found = vmap(grad(function, places), (0, *[None] * len(rest)))(xs, *rest)
    assert made.of == {"scan": 1, "scan_backward": 1}
    assert_same_bits(found, stacked([grad(function, places)(x, *rest) for x in xs]))


@cells
@calls
def test_gradients_by_weights_per_sample(cell: str, given: dict[str, Any]) -> None:
    """One forward for all; backward side by side."""
    function, (x, *rest) = scalar(flat(cell, given)), tensors(cell, given)
    xs, places = random(N, *x.shape), tuple(range(1 + len(rest)))
    with Calls() as made:
        found = vmap(grad(function, places), (0, *[None] * len(rest)))(xs, *rest)
    assert made.of == {"scan": 1, "scan_each_backward": 1}
    assert_same_bits(found, stacked([grad(function, places)(x, *rest) for x in xs]))


@cells
def test_jacobians_by_inputs_are_one_backward(cell: str) -> None:
    function, given = flat(cell, {}), tensors(cell, {})

    def y(x: Tensor) -> Tensor:
        return function(x, *given[1:])[0]

    with Calls() as made:
        found = jacrev(y)(given[0])
    assert made.of == {"scan": 1, "scan_backward": 1}
    rows = []
    x = given[0].clone().requires_grad_()
    out = y(x)
    for i in range(out.numel()):
        one = torch.zeros(out.numel(), dtype=out.dtype)
        one[i] = 1
        rows += torch.autograd.grad(out, x, one.view_as(out), retain_graph=True)
    assert_close(found, torch.stack(rows).view_as(found))


def test_nothing_is_saved_where_no_gradient_is_wanted() -> None:
    """What is saved comes out of the op as its last result."""
    x, *rest = tensors("gru", {})
    function, dims, saves = flat("gru", {}), (0, *[None] * len(rest)), []

    class Saves(TorchDispatchMode):
        def __torch_dispatch__(
            self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None
        ) -> Any:
            if op is torch.ops.fastrnn.scan.default:
                saves.append(args[9])
            return op(*args, **(kwargs or {}))

    leaf = rest[-1].clone().requires_grad_()
    with Saves():
        vmap(function, dims)(x[None], *rest)
        vmap(grad(scalar(function)), dims)(x[None], *rest)
        grad(lambda xs: vmap(scalar(function), dims)(xs, *rest).sum())(x[None])
        vmap(function, dims)(x[None], *rest[:-1], leaf)
        with torch.no_grad():
            vmap(function, dims)(x[None], *rest[:-1], leaf)
        jvp(lambda x: function(x, *rest), (x,), (x,))
    assert saves == [False, True, True, True, False, False]


# ---- vmap over parameters ------------------------------------------------------------------------

ENSEMBLES: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM": ("LSTM", {"num_layers": 2, "bidirectional": True}),
    "LSTM projected": ("LSTM", {"proj_size": P, "batch_first": True}),
    "LSTM peephole": ("LSTM", {"peephole": True}),
    "GRU": ("GRU", {}),
    "GRU before": ("GRU", {"reset_after": False, "recompute": True}),
    "RNN": ("RNN", {"bias": False}),
    "MUT1": ("MUT1", {}),
    "GRUCell": ("GRUCell", {}),
}


def ensemble(name: str, options: dict[str, Any]) -> tuple[list[nn.Module], dict, nn.Module]:
    torch.manual_seed(0)
    models = [getattr(fastrnn, name)(I, H, dtype=torch.float64, **options) for _ in range(N)]
    parameters, _ = stack_module_state(models)
    return models, parameters, copy.deepcopy(models[0]).to("meta")


@pytest.mark.parametrize("name, options", ENSEMBLES.values(), ids=ENSEMBLES)
@pytest.mark.parametrize("shared", [True, False], ids=["the same input", "inputs of their own"])
def test_ensembles(name: str, options: dict[str, Any], shared: bool) -> None:
    models, parameters, base = ensemble(name, options)
    shape = [B, I] if name.endswith("Cell") else [T, B, I]
    xs = random(*shape).expand(N, *shape) if shared else random(N, *shape)
    given, dim = (xs[0], None) if shared else (xs, 0)

    def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
        results = tensors_in(functional_call(base, p, (x,)))
        return sum(((i + 1) * t.square() + t).sum() for i, t in enumerate(results))

    def forward(p: dict[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_in(functional_call(base, p, (x,))))

    layers = options.get("num_layers", 1)
    with torch.no_grad(), Calls() as made:
        found = vmap(forward, (0, dim))(parameters, given)
    assert made.of == {"scan_each": layers}
    expected = stacked([tuple(tensors_in(m(x))) for m, x in zip(models, xs, strict=True)])
    assert_same_bits(found, [t.detach() for t in expected])
    # Gradients within vmap, and of it.
    with Calls() as made:
        inside = vmap(grad(loss), (0, dim))(parameters, given)
    # A recomputed member's parts call scan and scan_backward.
    backward = (
        {"recompute_backward": N} if "recompute" in options else {"scan_each_backward": layers}
    )
    assert {k: n for k, n in made.of.items() if "_" in k} == {"scan_each": layers, **backward}
    outside = torch.autograd.grad(
        vmap(loss, (0, dim))(parameters, given).sum(), parameters.values()
    )
    for i, key in enumerate(parameters):
        each = [
            torch.autograd.grad(loss(dict(m.named_parameters()), x), m.get_parameter(key))[0]
            for m, x in zip(models, xs, strict=True)
        ]
        assert torch.equal(inside[key], torch.stack(each)), key
        assert torch.equal(outside[i], torch.stack(each)), key


@pytest.mark.parametrize("order", ["data inside", "parameters inside"])
def test_an_ensemble_on_many_inputs(order: str) -> None:
    """One call for the product of both, and its gradients."""
    models, parameters, base = ensemble("LSTM", {"bidirectional": True})
    xs = random(2, T, B, I)

    def loss(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(base, p, (x,))[0].square().sum()

    dims = [(None, 0), (0, None)]
    if order == "parameters inside":
        dims.reverse()
    with Calls() as made:
        found = vmap(vmap(grad(loss, 1), dims[0]), dims[1])(parameters, xs)
    assert made.of == {"scan_each": 1, "scan_each_backward": 1}
    by_weight = vmap(vmap(grad(loss), dims[0]), dims[1])(parameters, xs)["weight_hh_l0"]
    if order == "parameters inside":
        found, by_weight = found.transpose(0, 1), by_weight.transpose(0, 1)
    for i, m in enumerate(models):
        for j, x in enumerate(xs):
            x = x.clone().requires_grad_()
            of_x, of_weight = torch.autograd.grad(m(x)[0].square().sum(), (x, m.weight_hh_l0))
            assert torch.equal(found[i, j], of_x)
            assert torch.equal(by_weight[i, j], of_weight)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_higher_derivatives_of_members(cell: str) -> None:
    function, (x, *rest) = scalar(flat(cell, {})), tensors(cell, {})
    place = 1 + ops.CELLS[cell].states + 1  # weight_hh
    weights = random(2, *rest[place - 1].shape)

    def of(w: Tensor) -> Tensor:
        return function(x, *rest[: place - 1], w, *rest[place:])

    def hessian_product(w: Tensor) -> Tensor:
        return jvp(grad(of), (w,), (torch.ones_like(w),))[1]

    def reverse_product(w: Tensor) -> Tensor:
        return grad(lambda v: grad(of)(v).sum())(w)

    def outside(w: Tensor) -> Tensor:
        return grad(lambda v: vmap(grad(of))(v).sum())(w)

    expected = torch.stack([reverse_product(w) for w in weights])
    assert_close(vmap(hessian_product)(weights), expected)
    assert_close(vmap(reverse_product)(weights), expected)
    assert_close(outside(weights), expected)
    tangents = jvp(vmap(of), (weights,), (torch.ones_like(weights),))[1]
    assert_close(tangents, torch.stack([grad(of)(w).sum() for w in weights]))


# ---- the ops of several scans --------------------------------------------------------------------


def several(cell: str, count: int = 2, **changes: Any) -> dict[str, Any]:
    """Good arguments of scan_each, and changes to them."""
    x, *rest = tensors(cell, {})
    states = ops.CELLS[cell].states
    given = {"cell": cell, "x": [x + i for i in range(count)], "states": rest[:states] * count}
    given |= {"weights": [w * (i + 1) for i in range(count) for w in rest[states:]]}
    given |= {name: [None] * count for name in ("lengths", "batch_sizes", "resets")}
    return given | {"bidirectional": False, "batch_first": False, "save": True} | changes


CHECKS = ("test_schema", "test_faketensor")


@cells
def test_opcheck(cell: str) -> None:
    given, states = several(cell), ops.CELLS[cell].states
    torch.library.opcheck(torch.ops.fastrnn.scan_each.default, (), given, test_utils=CHECKS)
    only_states = given | {"save": False, "all_states": True}
    torch.library.opcheck(torch.ops.fastrnn.scan_each.default, (), only_states, test_utils=CHECKS)
    out = torch.ops.fastrnn.scan_each(**given)
    del given["save"]
    each = [[t[: len(t) // 2], t[len(t) // 2 :]] for t in out]
    grads = [torch.ones_like(t[i]) for i in range(2) for t in each[: 2 * states]]
    outputs = [t[i] for i in range(2) for t in (each[0], *each[1 + states :])]
    needs = {"needs_x": True, "needs_states": True, "needs_weights": True}
    backward = {"grads": grads, **given, "outputs": outputs, **needs}
    torch.library.opcheck(
        torch.ops.fastrnn.scan_each_backward.default, (), backward, test_utils=CHECKS
    )
    one = {
        k: v[0] if k in ("x", "lengths", "batch_sizes", "resets") else v for k, v in given.items()
    }
    one |= {name: given[name][: len(given[name]) // 2] for name in ("states", "weights")}
    edges = [(t[0], None, B, False, False) for t in each[1 + states : 2 * states]]
    for args in edges:
        torch.library.opcheck(torch.ops.fastrnn.states_at_edges.default, args, test_utils=CHECKS)
    kept = [each[0][0], *(torch.ops.fastrnn.states_at_edges(*args) for args in edges)]
    by_parts = {"grads": grads[: 2 * states], **one, "outputs": kept, **needs}
    torch.library.opcheck(
        torch.ops.fastrnn.recompute_backward.default, (), by_parts, test_utils=CHECKS
    )


X = tensors("gru", {})[0]
BAD_LISTS: dict[str, tuple[dict[str, Any], str]] = {
    "no input": ({"x": []}, "there is no input"),
    "inputs of two shapes": ({"x": [X, X[1:]]}, "same shapes and types"),
    "inputs of two types": ({"x": [X, X.float()]}, "not the same dtype"),
    "weights of two sizes": (
        {"weights": [*several("gru")["weights"][:4], *map(torch.clone, GRU_OF_2)]}
        if (GRU_OF_2 := [random(*s) for s in ops.CELLS["gru"].shapes(I, 2).values()])
        else {},
        "hidden state of shape",
    ),
    "states of one": ({"states": several("gru")["states"][:1]}, "for each of 2 inputs, got 1"),
    "lengths of one": ({"lengths": [None]}, "as many lengths, batch_sizes and resets as inputs"),
    "lengths for one": ({"lengths": [None, torch.tensor([1, 2])]}, "same shapes and types"),
}


@pytest.mark.parametrize("changes, message", BAD_LISTS.values(), ids=BAD_LISTS)
def test_bad_lists(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fastrnn.scan_each(**several("gru", **changes))


def test_members_have_the_bits_of_single_calls(isa: str) -> None:
    """However many threads there are."""
    given = several("lstm", 5)
    results = []
    for threads in (1, 2, 8):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        results.append(torch.ops.fastrnn.scan_each(**given))
        torch.set_num_threads(before)
    x, states, weights = given["x"], given["states"], given["weights"]
    count = len(weights) // 5
    singles = [
        torch.ops.fastrnn.scan(
            "lstm", x[i], states[2 * i :][:2], weights[count * i :][:count], *[None] * 3,
            *[False] * 2, True,
        )
        for i in range(5)
    ]  # fmt: skip
    for result in results:
        assert_same_bits(result, [torch.cat(parts) for parts in zip(*singles, strict=True)])


# ---- checkpoints ---------------------------------------------------------------------------------

LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM": ("LSTM", {"num_layers": 2, "bidirectional": True, "dropout": 0.5}),
    "LSTM projected": ("LSTM", {"proj_size": P, "batch_first": True}),
    "LSTM without f": ("LSTM", {"gates": "io"}),
    "LSTM peephole": ("LSTM", {"peephole": True, "bidirectional": True}),
    "GRU": ("GRU", {"num_layers": 2, "batch_first": True}),
    "GRU before": ("GRU", {"reset_after": False, "bidirectional": True}),
    "RNN": ("RNN", {"nonlinearity": "relu"}),
    "MUT1": ("MUT1", {"bidirectional": True}),
    "MUT2": ("MUT2", {"num_layers": 2}),
    "MUT3": ("MUT3", {}),
}
layers = pytest.mark.parametrize("name, options", LAYERS.values(), ids=LAYERS)


def layer(name: str, options: dict[str, Any], **more: Any) -> nn.Module:
    torch.manual_seed(0)
    return getattr(fastrnn, name)(I, H, dtype=torch.float64, **options, **more)


def with_seed(call: Callable[..., Any]) -> Callable[..., Any]:
    """Dropout draws the same mask in every call."""

    def seeded(*args: Any) -> Any:
        torch.manual_seed(1)
        return call(*args)

    return seeded


@layers
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(name: str, options: dict[str, Any], reentrant: bool) -> None:
    """What a reentrant one shall know of must be no deeper than a tuple, as of every module."""
    module, x = layer(name, options), random(T, B, I).requires_grad_()

    def run(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_in(module(x)))

    def checkpointed(x: Tensor) -> Any:
        return checkpoint(run, x, use_reentrant=reentrant)

    def gradients(call: Callable[..., Any]) -> list[Tensor]:
        module.zero_grad()
        x.grad = None
        results = tensors_in(with_seed(call)(x))
        sum(t.square().sum() for t in results).backward()
        return [*results, x.grad.clone(), *(p.grad.clone() for p in module.parameters())]

    assert_same_bits(gradients(checkpointed), gradients(module))


# ---- recompute -----------------------------------------------------------------------------------


def gradients(function: Flat, given: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    leaves = [t.detach().clone().requires_grad_() for t in given]
    out = function(*leaves)
    loss = sum(((i + 1) * t.square() + t).sum() for i, t in enumerate(out))
    return [t.detach() for t in out], list(torch.autograd.grad(loss, leaves))


FORMS = [(cell, 0) for cell in CELLS] + [(c, P) for c in CELLS if ops.CELLS[c].projects]


@pytest.mark.parametrize("cell, proj", FORMS)
@calls
def test_recomputed_layers_have_the_same_bits(cell: str, given: dict[str, Any], proj: int) -> None:
    """Weights' gradients are the same up to the order of sums, as are those of an input that both
    directions have."""
    made, states = tensors(cell, given, proj), ops.CELLS[cell].states
    (out, found), (plain, expected) = (gradients(flat(cell, given, r), made) for r in (True, False))
    assert_same_bits(out, plain)
    first = 1 if given.get("bidirectional") else 0
    assert_same_bits(found[first : 1 + states], expected[first : 1 + states])
    assert_close(found, expected)


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 9, 40])
def test_recomputed_layers_of_any_length(steps: int) -> None:
    module = layer("LSTM", {"bidirectional": True})
    x, lengths = random(steps, 3, I).requires_grad_(), torch.tensor([steps, 0, steps // 2])
    results = []
    for recompute in (True, False):
        module.recompute = recompute
        results.append(outcome(module, x, call=lambda x: module(x, lengths=lengths)))
    assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_recomputed_layers_of_other_types(name: str, dtype: torch.dtype) -> None:
    """The error against float64 is that of the plain layer, but for noise."""
    x = random(40, 3, I).to(dtype)
    results = []
    for kind, recompute in ((dtype, True), (dtype, False), (torch.float64, False)):
        module = layer(name, {"bidirectional": True}).to(dtype).to(kind)
        module.recompute = recompute
        results.append(outcome(module, x.to(kind).requires_grad_()))
    found, plain, truth = results
    for key, exact in truth.items():
        if key.startswith("result"):
            assert torch.equal(found[key], plain[key])
        error, theirs = ((r[key].double() - exact).norm() / exact.norm() for r in (found, plain))
        assert error <= 1.5 * theirs + torch.finfo(dtype).eps, key


@layers
def test_recompute_of_layers(name: str, options: dict[str, Any]) -> None:
    """With states, lengths, episodes and the states after every step; compiled; and with dropout,
    which draws what it draws."""
    plain, module = layer(name, options), layer(name, options, recompute=True)
    assert "recompute=True" in repr(module) and "recompute" not in repr(plain)
    x, lengths = random(T, B, I).requires_grad_(), torch.tensor([3, 5])
    if module.batch_first:
        x = random(B, T, I).requires_grad_()
    resets = RESETS.T if module.batch_first else RESETS

    def call(module: nn.Module) -> Callable[..., Any]:
        return with_seed(lambda x: module(x, lengths=lengths, resets=resets, return_states=True))

    expected = outcome(plain, x, call=call(plain))
    found = outcome(module, x, call=call(module))
    assert_close(found, expected)
    for key in expected:
        assert not key.startswith("result") or torch.equal(found[key], expected[key]), key
    assert_close(
        outcome(module, x, call=with_seed(module)), outcome(plain, x, call=with_seed(plain))
    )
    assert plain.state_dict().keys() == module.state_dict().keys()
    assert pickle.loads(pickle.dumps(module)).recompute


def test_recompute_of_packed_sequences() -> None:
    results = []
    for recompute in (True, False):
        module = layer("LSTM", {"num_layers": 2, "bidirectional": True}, recompute=recompute)
        x = random(T, 3, I).requires_grad_()

        def call(x: Tensor, module: nn.Module = module) -> Any:
            return module(pack_padded_sequence(x, torch.tensor([2, 5, 1]), enforce_sorted=False))

        results.append(outcome(module, x, call=call))
    assert_close(*results)


@pytest.mark.parametrize("name", ["LSTM peephole", "GRU before"])
def test_recompute_compiled(name: str) -> None:
    kind, options = LAYERS[name]
    module = layer(kind, options, recompute=True)
    torch._dynamo.reset()
    graphs = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, example)

    compiled = torch.compile(module, fullgraph=True, backend=backend, dynamic=True)
    counts = []
    for steps in (9, 20):
        x = random(steps, B, I).requires_grad_()
        found, expected = outcome(module, x, call=compiled), outcome(module, x)
        for key, t in expected.items():
            assert torch.equal(found[key], t), key
        counts.append(len(graphs))
    assert counts[0] == counts[1] > 0  # the second one is not compiled again
    torch._dynamo.reset()


@cells
def test_recompute_keeps_no_gates(cell: str) -> None:
    """Nothing but the inputs, y, and the other states at some steps."""
    kept: dict[bool, int] = {}
    made = [t.requires_grad_() for t in tensors(cell, {})]
    for recompute in (True, False):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            flat(cell, {}, recompute)(*made)
        kept[recompute] = sum(sizes)
    y, info = T * B * H, ops.CELLS[cell]
    given = sum(t.numel() for t in made) + y
    assert kept[True] == given + (recomputing.PARTS - 1) * B * H * (info.states - 1)
    assert kept[False] == given + y * (info.states - 1 + info.saved)


@pytest.mark.parametrize(
    "cell, given", [("lstm", {"bidirectional": True}), ("mut1", {"lengths": torch.tensor([2, 1])})]
)
def test_derivatives_of_recomputed_layers(cell: str, given: dict[str, Any]) -> None:
    x, *rest = tensors(cell, given)
    leaves = [t.requires_grad_() for t in (x[:2].clone(), *rest)]
    assert gradgradcheck(flat(cell, given, True), leaves, fast_mode=True)
    made = tuple(t.detach() for t in leaves)
    ones = tuple(map(torch.ones_like, made))
    places = tuple(range(len(made)))
    for derived in (lambda f: f, lambda f: grad(scalar(f), places)):
        assert_close(*(jvp(derived(flat(cell, given, r)), made, ones) for r in (True, False)))


@cells
def test_vmap_of_recomputed_layers(cell: str) -> None:
    given = CALLS["lengths"]
    x, *rest = tensors(cell, given)
    xs, places = random(N, *x.shape), tuple(range(1 + len(rest)))
    dims = (0, *[None] * len(rest))
    found, expected = (
        vmap(grad(scalar(flat(cell, given, r)), places), dims)(xs, *rest) for r in (True, False)
    )
    assert_close(found, expected)


def test_recompute_refuses_episodes_that_begin_with_states() -> None:
    module, x = layer("GRU", {}, recompute=True), random(T, B, I)
    with pytest.raises(RuntimeError, match="recompute needs the kernels' own episodes"):
        module(x, resets=RESETS, reset_to="hx", hx=random(1, B, H))
    with torch.no_grad():
        module(x, resets=RESETS, reset_to="hx", hx=random(1, B, H))


def test_recompute_knows_when_it_is_off() -> None:
    """Without gradients it is the plain layer, and quantised it has none."""
    module, x = layer("LSTM", {}, recompute=True), random(T, B, I)
    with torch.no_grad(), Calls() as made:
        module(x)
    assert made.of == {"scan": 1}
    quantized = fastrnn.quantize_(module.float().eval())
    assert "recompute" not in repr(quantized)
    with torch.no_grad():
        quantized(x.float())
