"""What layers take beyond torch.nn's arguments: lengths, episodes, jagged batches, and the states
after every step. Each row and episode must give what it gives alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import assert_equal, outcome, tensors_in
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fastrnn
from fastrnn import functional, reference, sequences

T, B, I, H = 5, 4, 3, 6  # noqa: E741

LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "LSTM": ("LSTM", {}),
    "LSTM projected": ("LSTM", {"proj_size": 2, "peephole": True}),
    "GRU": ("GRU", {}),
    "GRU before": ("GRU", {"reset_after": False}),
    "RNN": ("RNN", {"nonlinearity": "relu"}),
    "MUT1": ("MUT1", {}),
    "MUT3": ("MUT3", {}),
}
STACKS = {
    "plain": {},
    "two layers": {"num_layers": 2},
    "both ways": {"bidirectional": True},
    "all": {"num_layers": 2, "bidirectional": True},
}
layers = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
stacks = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)
two = pytest.mark.parametrize("layer", [LAYERS["LSTM"], LAYERS["GRU"]], ids=["LSTM", "GRU"])
resets_to = pytest.mark.parametrize("reset_to", ["zeros", "hx", "states"])

LENGTHS = torch.tensor([3, 0, 5, 4])
RESETS = torch.tensor(  # at the first step, at the last, one after the other, behind the end
    [[0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1], [1, 0, 1, 0]]
).bool()


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def make(layer: tuple[str, dict[str, Any]], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return getattr(fastrnn, layer[0])(I, H, dtype=torch.float64, **layer[1], **options)


def draw_states(module: nn.Module, *leading: int, seed: int = 1) -> Any:
    """Like hx, with leading dimensions of its own."""
    depth = module.num_layers * (2 if module.bidirectional else 1)
    *before, batch = leading
    h = draw(*before, depth, batch, module.proj_size or H, seed=seed)
    return (h, draw(*before, depth, batch, H, seed=seed + 1)) if module._states == 2 else h


def like_hx(states: list[Tensor]) -> Any:
    return tuple(states) if len(states) > 1 else states[0]


def apart(
    module: nn.Module,
    x: Tensor,
    hx: Any,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: Any = "zeros",
) -> tuple[Tensor, Any]:
    """Every episode of every row by a call of its own."""
    initial, way = tensors_in(hx), 2 if module.bidirectional else 1
    rows = []
    for row in range(B):
        length = T if lengths is None else int(lengths[row])
        cuts = [] if resets is None else [t for t in range(length) if resets[t, row]]
        starts = sorted({0, *cuts})
        outputs, ends = [x.new_zeros(0, way * (module.proj_size or H))], []
        for start, end in zip(starts, [*starts[1:], length]):

            def before(k: int, t: int, cut: bool, row: int = row) -> Tensor:
                """State k, from which a direction sets out to step t."""
                if not cut or (isinstance(reset_to, str) and reset_to == "hx"):
                    return initial[k][:, row]
                if isinstance(reset_to, str):
                    return torch.zeros_like(initial[k][:, row])
                return tensors_in(reset_to)[k][t, :, row]

            given = []
            for k in range(len(initial)):
                s = before(k, start, start in cuts).clone()
                if way == 2:
                    s[1::2] = before(k, end - 1, end < length)[1::2]
                given.append(s)
            if end == start:
                ends.append(given)
                continue
            y, last = module(x[start:end, row], like_hx(given))
            outputs.append(y)
            ends.append(tensors_in(last))
        y = torch.cat(outputs)
        last = []
        for first_end, last_end in zip(ends[0], ends[-1]):  # of the first episode and the last one
            s = last_end.clone()
            if way == 2:
                s[1::2] = first_end[1::2]
            last.append(s)
        rows.append([torch.cat([y, y.new_zeros(T - length, y.shape[1])]), *last])
    y, *last = (torch.stack(parts, 1) for parts in zip(*rows))
    return y, like_hx(last)


def compare(module: nn.Module, x: Tensor, hx: Any, **how: Any) -> None:
    """Outputs, last states and the gradients of all that has one."""
    given = how.get("reset_to", "zeros")
    states = [] if isinstance(given, str) else [given]

    def together(x: Tensor, hx: Any, *reset_to: Any) -> Any:
        return module(x, hx, **{**how, "reset_to": reset_to[0] if reset_to else given})

    def one_by_one(x: Tensor, hx: Any, *reset_to: Any) -> Any:
        return apart(module, x, hx, **{**how, "reset_to": reset_to[0] if reset_to else given})

    expected = outcome(module, x, hx, *states, call=one_by_one)
    assert_equal(outcome(module, x, hx, *states, call=together), expected)


@layers
@stacks
def test_lengths(layer: Any, stack: dict) -> None:
    module = make(layer, **stack)
    compare(module, draw(T, B, I), draw_states(module, B), lengths=LENGTHS)


@layers
@stacks
@resets_to
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
def test_episodes(layer: Any, stack: dict, reset_to: str, lengths: Tensor | None) -> None:
    module = make(layer, **stack)
    start = draw_states(module, T, B, seed=5) if reset_to == "states" else reset_to
    how = {"lengths": lengths, "resets": RESETS, "reset_to": start}
    compare(module, draw(T, B, I), draw_states(module, B), **how)


@two
@stacks
@resets_to
def test_without_hx(layer: Any, stack: dict, reset_to: str) -> None:
    """It is zeros."""
    module, x = make(layer, **stack), draw(T, B, I)
    zeros = like_hx([torch.zeros_like(s) for s in tensors_in(draw_states(module, B))])
    start = draw_states(module, T, B) if reset_to == "states" else reset_to
    how = {"lengths": LENGTHS, "resets": RESETS, "reset_to": start, "return_states": True}
    for found, expected in zip(tensors_in(module(x, **how)), tensors_in(module(x, zeros, **how))):
        assert torch.equal(found, expected)


@layers
@stacks
@resets_to
def test_batch_first_and_unbatched(layer: Any, stack: dict, reset_to: str) -> None:
    module, x = make(layer, **stack), draw(T, B, I)
    other = make(layer, **stack, batch_first=True)
    hx = draw_states(module, B)
    start: Any = draw_states(module, T, B) if reset_to == "states" else reset_to
    how = {"lengths": LENGTHS, "resets": RESETS, "reset_to": start, "return_states": True}
    y, *states = module(x, hx, **how)
    found, *found_states = other(x.transpose(0, 1), hx, **{**how, "resets": RESETS.T})
    assert torch.equal(found.transpose(0, 1), y)
    for a, b in zip(tensors_in(found_states), tensors_in(states), strict=True):
        assert torch.equal(a, b)
    for row in (0, 1, 3):
        alone: dict[str, Any] = {**how, "lengths": LENGTHS[row], "resets": RESETS[:, row]}
        if reset_to == "states":
            alone["reset_to"] = like_hx([s[:, :, row] for s in tensors_in(start)])
        for each in (module, other):
            initial = like_hx([s[:, row] for s in tensors_in(hx)])
            y_alone, last, every = each(x[:, row], initial, **alone)
            expected = [y[:, row], *(s[:, row] for s in tensors_in(states[0]))]
            expected += [s[:, :, row] for s in tensors_in(states[1])]
            for a, b in zip([y_alone, *tensors_in(last), *tensors_in(every)], expected):
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16]


@two
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_lengths_of_any_integer_type(layer: Any, dtype: torch.dtype) -> None:
    module, x = make(layer, bidirectional=True), draw(T, B, I)
    found, expected = (module(x, lengths=n) for n in (LENGTHS.to(dtype), LENGTHS))
    for a, b in zip(tensors_in(found), tensors_in(expected), strict=True):
        assert torch.equal(a, b)


# ---- the states after every step -----------------------------------------------------------------


@layers
@stacks
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("with_both", [False, True], ids=["plain", "lengths and resets"])
def test_states_after_every_step(
    layer: Any, stack: dict, batch_first: bool, with_both: bool
) -> None:
    """Layer by layer those of the reference; behind the end of a row they stand still."""
    module = make(layer, **stack, batch_first=batch_first)
    args = draw(*((B, T) if batch_first else (T, B)), I), draw_states(module, B)
    how = {"lengths": LENGTHS, "resets": RESETS} if with_both else {}
    runs = torch.arange(T)[:, None] < (LENGTHS if with_both else torch.full([B], T))

    def found(x: Tensor, hx: Any) -> Any:
        resets = RESETS.T if batch_first else RESETS
        return module(x, hx, **(how | {"resets": resets} if how else {}), return_states=True)

    def expected(x: Tensor, hx: Any) -> Any:
        x = x.transpose(0, 1) if batch_first else x
        way, ends, every = 2 if module.bidirectional else 1, [], []
        for i in range(module.num_layers):
            here = slice(i * way, (i + 1) * way)
            own = [s[here] for s in tensors_in(hx)]
            weights = [w for ws in module.all_weights[here] for w in ws]
            inputs = reference.Inputs(module._cell, x, own, weights, bidirectional=way == 2, **how)
            x, last, steps = reference.scan(inputs)
            ends.append(last)
            each = []
            for s, end, first in zip((x, *steps), last, own):
                s = s.reshape(T, B, way, -1).transpose(1, 2)
                still = torch.cat([end[:1], first[1:]])
                each.append(torch.where(runs[:, None, :, None], s, still))
            every.append(each)
        joined = [like_hx([torch.cat(s) for s in zip(*ends)])]
        joined.append(like_hx([torch.cat(s, 1) for s in zip(*every)]))
        return (x.transpose(0, 1) if batch_first else x), *joined

    assert_equal(outcome(module, *args, call=found), outcome(module, *args, call=expected))


@layers
@resets_to
def test_any_step_is_one_to_go_on_from(layer: Any, reset_to: str) -> None:
    module, x = make(layer, num_layers=2), draw(T, B, I)
    hx = draw_states(module, B)
    start: Any = draw_states(module, T, B) if reset_to == "states" else reset_to
    y, last, states = module(x, hx, resets=RESETS, reset_to=start, return_states=True)
    depth = [s.shape for s in tensors_in(hx)]
    assert [s.shape for s in tensors_in(states)] == [(T, *shape) for shape in depth]
    for t in range(T - 1):
        if reset_to == "hx" and RESETS[t + 1 :].any():
            continue  # those of the second part are not hx
        rest = like_hx([s[t + 1 :] for s in tensors_in(start)]) if reset_to == "states" else start
        middle = like_hx([s[t] for s in tensors_in(states)])
        found = module(x[t + 1 :], middle, resets=RESETS[t + 1 :], reset_to=rest)
        for a, b in zip(tensors_in(found), [y[t + 1 :], *tensors_in(last)], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@layers
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_states_have_the_type_of_the_output(layer: Any, dtype: torch.dtype) -> None:
    module = make(layer, bidirectional=True).to(dtype)
    x, hx = draw(T, B, I).to(dtype), draw_states(module, B)
    hx = like_hx([s.to(dtype) for s in tensors_in(hx)])
    for reset_to in ("zeros", "hx"):
        how = {"lengths": LENGTHS, "resets": RESETS, "reset_to": reset_to}
        found = tensors_in(module(x, hx, **how, return_states=True))
        assert {t.dtype for t in found} == {dtype}
        module(x[:2], like_hx([s[0] for s in found[1 + module._states :]]))


# ---- lengths on a GPU, of which the host knows nothing -------------------------------------------


@layers
@stacks
@pytest.mark.parametrize("with_resets", [False, True], ids=["plain", "resets"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
def test_masked_lengths(
    layer: Any, stack: dict, with_resets: bool, batch_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = make(layer, **stack, batch_first=batch_first)
    args = draw(*((B, T) if batch_first else (T, B)), I), draw_states(module, B)
    resets = (RESETS.T if batch_first else RESETS) if with_resets else None
    found = []
    for on_gpu in (False, True):
        monkeypatch.setattr(sequences, "_on_gpu", lambda lengths, on_gpu=on_gpu: on_gpu)

        def call(x: Tensor, hx: Any) -> Any:
            return module(x, hx, lengths=LENGTHS, resets=resets, return_states=True)

        found.append(outcome(module, *args, call=call))
    assert_equal(found[1], found[0])


@two
@pytest.mark.parametrize("reset_to", ["zeros", "hx"])
def test_garbage_behind_the_end_stays_there(
    layer: Any, reset_to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is masked, too."""
    monkeypatch.setattr(sequences, "_on_gpu", lambda lengths: True)
    module, x, hx = make(layer, bidirectional=True), draw(T, B, I), draw_states(module_of(layer), B)
    behind = torch.arange(T)[:, None] >= LENGTHS
    found = []
    for garbage in (0.0, float("nan")):
        dirty = x.detach().masked_fill(behind[..., None], garbage).requires_grad_()
        states = like_hx([s.detach().clone().requires_grad_() for s in tensors_in(hx)])
        for s in tensors_in(states):
            s.data[:, 1] = garbage  # of the row without steps
        how = {"lengths": LENGTHS, "resets": RESETS, "reset_to": reset_to}
        y, last = module(dirty, states, **how)
        loss = y.sin().sum() + sum(s[:, [0, 2, 3]].sin().sum() for s in tensors_in(last))
        leaves = [dirty, *tensors_in(states), *module.parameters()]
        found.append([y, *torch.autograd.grad(loss, leaves)])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def module_of(layer: Any) -> nn.Module:
    return make(layer, bidirectional=True)


def test_masked_lengths_beyond_the_steps_count_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequences, "_on_gpu", lambda lengths: True)
    module, x = make(("GRU", {}), bidirectional=True), draw(T, B, I)
    found, expected = (module(x, lengths=torch.tensor(n)) for n in ([9, -2, 5, 1], [5, 0, 5, 1]))
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@two
def test_nobody_looks_at_lengths_on_a_gpu(layer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor at resets: tensors without data raise where one does, on whatever device they are."""
    monkeypatch.setattr(sequences, "_on_gpu", lambda lengths: True)
    module = make(layer, num_layers=2, bidirectional=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(T, B, I, dtype=torch.float64)
        how: dict[str, Any] = {"lengths": torch.empty(B, dtype=torch.int32), "return_states": True}
        for reset_to in ("zeros", "hx"):
            how |= {"resets": torch.empty(T, B, dtype=torch.bool), "reset_to": reset_to}
            y, _, states = module(x, **how)
            assert y.shape == (T, B, 2 * H)
            assert {s.shape for s in tensors_in(states)} == {(T, 4, B, H)}


# ---- jagged batches ------------------------------------------------------------------------------

ROWS = [3, 1, 5, 4]


def jagged(*shape: int) -> Tensor:
    rows = [draw(n, *shape, seed=n).detach() for n in ROWS]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


@layers
@stacks
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
def test_jagged_batches(layer: Any, stack: dict, batch_first: bool) -> None:
    module = make(layer, **stack, batch_first=batch_first)
    nested, hx = jagged(I), draw_states(module, B)
    values = nested.values().clone().requires_grad_()

    def together(values: Tensor, hx: Any) -> Any:
        x = torch.nested.nested_tensor_from_jagged(values, nested.offsets())
        y, last = module(x, hx)
        assert y.is_nested and y.shape == (*x.shape[:2], y.shape[-1])
        assert (y.sum(-1, keepdim=True) + x).shape == x.shape  # the same rows, to torch
        return y.values(), last

    def one_by_one(values: Tensor, hx: Any) -> Any:
        each = []
        for row, x in enumerate(values.split(ROWS)):
            y, last = module(x, like_hx([s[:, row] for s in tensors_in(hx)]))
            each.append([y, *tensors_in(last)])
        ys, *ends = zip(*each)
        return torch.cat(ys), like_hx([torch.stack(s, 1) for s in ends])

    expected = outcome(module, values, hx, call=one_by_one)
    assert_equal(outcome(module, values, hx, call=together), expected)


@two
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
def test_episodes_of_jagged_batches(layer: Any, batch_first: bool) -> None:
    module = make(layer, bidirectional=True, batch_first=batch_first)
    x, resets = jagged(I), RESETS if not batch_first else RESETS.T.contiguous()
    padded = torch.nested.to_padded_tensor(x, 0.0)
    padded = padded if batch_first else padded.transpose(0, 1)
    expected = module(padded, lengths=torch.tensor(ROWS), resets=resets, return_states=True)
    rows = [RESETS[:n, row] for row, n in enumerate(ROWS)]
    nested = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    for given in (resets, nested):
        y, last, states = module(x, resets=given, return_states=True)
        y = torch.nested.to_padded_tensor(y, 0.0)
        found = y if batch_first else y.transpose(0, 1), last, states
        for a, b in zip(tensors_in(found), tensors_in(expected), strict=True):
            assert torch.equal(a, b)


def test_jagged_batches_with_holes() -> None:
    module, x = make(("GRU", {}), batch_first=True), draw(B, T, I).detach()
    starts, lengths = torch.tensor([0, 1, 2, 0]), torch.tensor([2, 3, 3, 5])
    y, _ = module(torch.nested.narrow(x, 1, starts, lengths, layout=torch.jagged))
    for row, found in enumerate(y.unbind()):
        start, length = int(starts[row]), int(lengths[row])
        expected, _ = module(x[row, start : start + length])
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


# ---- with the compiler and transforms ------------------------------------------------------------


@pytest.fixture
def fresh_compiler() -> None:
    """Which compiles one function for some modules only."""
    torch._dynamo.reset()


@two
@resets_to
@pytest.mark.parametrize("needs_grad", [False, True], ids=["plain", "recorded"])
@pytest.mark.usefixtures("fresh_compiler")
def test_compiled(layer: Any, reset_to: str, needs_grad: bool) -> None:
    module = make(layer, bidirectional=True).requires_grad_(needs_grad)
    args = [draw(T, B, I), draw_states(module, B)]
    start: Any = draw_states(module, T, B) if reset_to == "states" else reset_to
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    how = {"lengths": LENGTHS.int(), "resets": RESETS, "reset_to": start, "return_states": True}
    with torch.set_grad_enabled(needs_grad):
        found, expected = (tensors_in(m(*args, **how)) for m in (compiled, module))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    if needs_grad:
        leaves = [args[0], *module.parameters()]
        grads = (
            torch.autograd.grad(sum(t.sin().sum() for t in o), leaves) for o in (found, expected)
        )
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@two
@pytest.mark.parametrize("knows", [True, False], ids=["longest known", "not known"])
@pytest.mark.usefixtures("fresh_compiler")
def test_jagged_batches_compiled(layer: Any, knows: bool) -> None:
    module = make(layer, bidirectional=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = jagged(I)
    if not knows:
        x = torch.nested.nested_tensor_from_jagged(x.values(), x.offsets())
    found, expected = compiled(x)[0], module(jagged(I))[0]
    torch.testing.assert_close(found.values(), expected.values(), rtol=1e-11, atol=1e-12)


class Sequences(nn.Module):
    """A layer with arguments that an exported program names."""

    def __init__(self, layer: nn.Module, reset_to: str) -> None:
        super().__init__()
        self.layer, self.reset_to = layer, reset_to

    def forward(self, x: Tensor, lengths: Tensor, resets: Tensor) -> Any:
        how = {"lengths": lengths, "resets": resets, "reset_to": self.reset_to}
        return self.layer(x, **how, return_states=True)


@two
@pytest.mark.parametrize("reset_to", ["zeros", "hx"])
def test_exported(layer: Any, reset_to: str) -> None:
    """Other numbers of steps than the program has seen need a single call for all steps."""
    module = Sequences(make(layer, num_layers=2, bidirectional=True), reset_to)
    args = draw(T, B, I).detach(), LENGTHS, RESETS
    steps = {0: torch.export.Dim.DYNAMIC} if reset_to == "zeros" else {}
    shapes = {"x": steps, "lengths": {}, "resets": steps}
    program = torch.export.export(module, args, dynamic_shapes=shapes).module()
    more = [args]
    if reset_to == "zeros":
        more.append((draw(T + 3, B, I).detach(), LENGTHS + 2, torch.cat([RESETS, RESETS[:3]])))
    for given in more:
        for a, b in zip(tensors_in(program(*given)), tensors_in(module(*given)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@two
@resets_to
def test_vmap(layer: Any, reset_to: str) -> None:
    module = make(layer, bidirectional=True)
    xs, lengths = draw(3, T, B, I).detach(), torch.stack([LENGTHS, LENGTHS.flip(0), LENGTHS])
    resets = torch.stack([RESETS, RESETS.flip(0), RESETS.flip(1)])
    start: Any = draw_states(module, T, B) if reset_to == "states" else reset_to

    def call(x: Tensor, lengths: Tensor, resets: Tensor) -> tuple[Tensor, ...]:
        how = {"lengths": lengths, "resets": resets, "reset_to": start}
        return tuple(tensors_in(module(x, **how, return_states=True)))

    found = torch.func.vmap(call)(xs, lengths, resets)
    expected = map(torch.stack, zip(*map(call, xs, lengths, resets)))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@two
def test_autocast(layer: Any) -> None:
    module, x = make(layer, bidirectional=True).float(), draw(T, B, I).float()
    hx = like_hx([s.float() for s in tensors_in(draw_states(module, B))])
    for reset_to in ("zeros", "hx"):
        how = {"lengths": LENGTHS, "resets": RESETS, "reset_to": reset_to}
        with torch.autocast("cpu", torch.bfloat16):
            found = tensors_in(module(x, hx, **how, return_states=True))
        low = make(layer, bidirectional=True).bfloat16()
        low_hx = like_hx([s.bfloat16() for s in tensors_in(hx)])
        expected = tensors_in(low(x.bfloat16(), low_hx, **how, return_states=True))
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == torch.bfloat16 and torch.equal(a, b)


# ---- weights of int8 -----------------------------------------------------------------------------


def make_int8(layer: tuple[str, dict[str, Any]], **options: Any) -> nn.Module:
    return fastrnn.quantize_(make(layer, **options)).eval()


def converted(value: Any, dtype: torch.dtype = torch.float32) -> Any:
    return value if isinstance(value, str) else like_hx([t.to(dtype) for t in tensors_in(value)])


def drawn_for_int8(module: nn.Module, reset_to: str) -> tuple[Tensor, Any, dict[str, Any]]:
    start = draw_states(module, T, B, seed=5) if reset_to == "states" else reset_to
    how = {"lengths": LENGTHS, "resets": RESETS, "reset_to": converted(start)}
    return converted(draw(T, B, I)), converted(draw_states(module, B)), how


@layers
@stacks
@resets_to
@torch.no_grad()
def test_episodes_by_int8(layer: Any, stack: dict, reset_to: str) -> None:
    """They have the bits that they have alone: each row of a batch is quantised by itself."""
    module = make_int8(layer, **stack)
    x, hx, how = drawn_for_int8(module, reset_to)
    zeros = like_hx([torch.zeros_like(s) for s in tensors_in(hx)])
    for given, initial in ((hx, hx), (None, zeros)):
        found, expected = module(x, given, **how), apart(module, x, initial, **how)
        for a, b in zip(tensors_in(found), tensors_in(expected), strict=True):
            assert torch.equal(a, b)


@layers
@resets_to
@torch.no_grad()
def test_states_by_int8_after_every_step(layer: Any, reset_to: str) -> None:
    module = make_int8(layer, num_layers=2)
    x, hx, how = drawn_for_int8(module, reset_to)
    *_, states = module(x, hx, **how, return_states=True)
    for t in range(T):
        part = how | {"lengths": LENGTHS.clamp(max=t + 1), "resets": RESETS[: t + 1]}
        if reset_to == "states":
            part["reset_to"] = like_hx([s[: t + 1] for s in tensors_in(how["reset_to"])])
        _, last = module(x[: t + 1], hx, **part)
        for every, end in zip(tensors_in(states), tensors_in(last), strict=True):
            assert torch.equal(every[t], end)


@two
@resets_to
@pytest.mark.usefixtures("fresh_compiler")
@torch.no_grad()
def test_int8_compiled_exported_and_cast(layer: Any, reset_to: str) -> None:
    module = make_int8(layer, num_layers=2, bidirectional=True)
    x, hx, how = drawn_for_int8(module, reset_to)
    how["return_states"] = True
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    pairs = [(compiled(x, hx, **how), module(x, hx, **how))]
    if reset_to != "states":
        args = x, LENGTHS, RESETS
        program = torch.export.export(Sequences(module, reset_to), args).module()
        pairs.append((program(*args), module(x, **how)))
    low, low_hx, start = (converted(v, torch.bfloat16) for v in (x, hx, how["reset_to"]))
    with torch.autocast("cpu", torch.bfloat16):
        pairs.append((module(x, hx, **how), module(low, low_hx, **how | {"reset_to": start})))
    for found, expected in pairs:
        for a, b in zip(tensors_in(found), tensors_in(expected), strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)


@two
@torch.no_grad()
def test_jagged_batches_by_int8(layer: Any) -> None:
    module, nested = make_int8(layer, bidirectional=True), jagged(I).float()
    y, last = module(nested)
    padded = torch.nested.to_padded_tensor(nested, 0.0).transpose(0, 1)
    expected = module(padded, lengths=torch.tensor(ROWS))
    found = torch.nested.to_padded_tensor(y, 0.0).transpose(0, 1), last
    for a, b in zip(tensors_in(found), tensors_in(expected), strict=True):
        assert torch.equal(a, b)


def test_what_int8_refuses() -> None:
    module = make_int8(("GRU", {}))
    x, how = converted(draw(T, B, I)).detach(), {"resets": RESETS}
    states = torch.zeros(T, 1, B, H)
    with pytest.raises(RuntimeError, match="no gradient: the input or a state requires one"):
        module(x, **how, reset_to=states.clone().requires_grad_())
    with pytest.raises(RuntimeError, match="Input and reset_to tensors are not the same dtype"):
        module(x, **how, reset_to=states.half())
    for start in (states[..., :-1], states[:, :, :-1]):
        with pytest.raises(RuntimeError, match=r"Expected reset_to size \(5, 1, 4, 6\)"):
            module(x, **how, reset_to=start)
    weights, scales = module._weights()
    with pytest.raises(RuntimeError, match=r"Expected reset_to of shape \[5, 1, 4, 6\]"):
        functional.layer("gru", x, [], weights, scales=scales, **how, reset_to=[states[..., :-1]])
    packed = nn.utils.rnn.pack_sequence([x[:, 0]])
    with pytest.raises(ValueError, match="takes no lengths, resets or return_states"):
        module(packed, return_states=True)
    with pytest.raises(RuntimeError, match=r"no gradient: call eval\(\)"):
        module.train()(x, **how)


# ---- errors --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_does_not_fit_is_named() -> None:
    gru, lstm = make(("GRU", {})), make(("LSTM", {}))
    x = draw(T, B, I)
    packed = nn.utils.rnn.pack_sequence([x[:, 0], x[:3, 1]])
    h = torch.zeros(T, 1, B, H, dtype=torch.float64)
    cases: list[tuple[nn.Module, Any, dict[str, Any], type[Exception], str]] = [
        (gru, packed, {"lengths": LENGTHS}, ValueError, "PackedSequence has lengths of its own"),
        (gru, packed, {"resets": RESETS}, ValueError, "PackedSequence"),
        (gru, packed, {"reset_to": "hx"}, ValueError, "PackedSequence"),
        (gru, packed, {"return_states": True}, ValueError, "PackedSequence"),
        (gru, jagged(I), {"lengths": LENGTHS}, ValueError, "NestedTensor has lengths of its own"),
        (gru, x, {"lengths": LENGTHS[:2]}, RuntimeError, r"lengths of shape \[4\], got \[2\]"),
        (gru, x[:, 0], {"lengths": LENGTHS}, RuntimeError, r"lengths of shape \[\], got \[4\]"),
        (gru, x, {"lengths": LENGTHS + 1}, RuntimeError, r"within \[0, 5\], got 6 for row 2"),
        (gru, x, {"lengths": LENGTHS - 1}, RuntimeError, r"within \[0, 5\], got -1 for row 1"),
        (
            gru,
            x,
            {"lengths": LENGTHS.double()},
            RuntimeError,
            "must be integers, got torch.float64",
        ),
        (gru, x, {"lengths": LENGTHS > 2}, RuntimeError, "must be integers, got torch.bool"),
        (gru, x, {"resets": RESETS.T}, RuntimeError, r"resets of shape \[5, 4\], got \[4, 5\]"),
        (gru, x[:, 0], {"resets": RESETS}, RuntimeError, r"resets of shape \[5\], got \[5, 4\]"),
        (gru, x, {"resets": RESETS.int()}, RuntimeError, "resets must be a bool tensor"),
        (
            gru,
            x,
            {"resets": RESETS.int(), "reset_to": "hx"},
            RuntimeError,
            "resets must be a bool tensor",
        ),
        (gru, x, {"reset_to": "hx"}, ValueError, "reset_to .* needs resets"),
        (gru, x, {"reset_to": h}, ValueError, "reset_to .* needs resets"),
        (
            gru,
            x,
            {"resets": RESETS, "reset_to": "ones"},
            ValueError,
            "reset_to must be 'zeros', 'hx' or states, got 'ones'",
        ),
        (
            gru,
            x,
            {"resets": RESETS, "reset_to": h[1:]},
            RuntimeError,
            r"Expected reset_to size \(5, 1, 4, 6\), got \[4, 1, 4, 6\]",
        ),
        (
            lstm,
            x,
            {"resets": RESETS, "reset_to": (h, h[..., 1:])},
            RuntimeError,
            r"Expected reset_to\[1\] size \(5, 1, 4, 6\), got \[5, 1, 4, 5\]",
        ),
        (
            lstm,
            x,
            {"resets": RESETS, "reset_to": h},
            TypeError,
            "reset_to must be a tuple of Tensors, not Tensor",
        ),
        (
            gru,
            x,
            {"resets": RESETS, "reset_to": h.float()},
            RuntimeError,
            "same dtype",
        ),
        (
            gru,
            torch.nested.nested_tensor([x[:, 0], x[:3, 1]]),
            {},
            RuntimeError,
            "layout torch.jagged",
        ),
    ]
    for module, given, how, error, message in cases:
        with pytest.raises(error, match=message):
            module(given, **how)


def test_what_a_layer_of_functions_refuses() -> None:
    """functional.layer checks by itself where episodes begin with states."""
    module, x = make(("GRU", {})), draw(T, B, I)
    (weights,), h = module.all_weights, torch.zeros(T, 1, B, H, dtype=torch.float64)
    good = {"x": x, "resets": RESETS, "reset_to": [h]}
    functional.layer("gru", states=[], weights=weights, **good)
    for changes, message in (
        ({"resets": None}, "reset_to needs resets"),
        ({"x": x[0], "resets": RESETS[0]}, "reset_to needs resets, and input of shape"),
        ({"resets": RESETS.T}, r"resets must be a bool tensor of shape \[5, 4\], got \[4, 5\]"),
        ({"reset_to": [h, h]}, r"reset_to of shape \[5, 1, 4, 6\], got"),
        ({"lengths": LENGTHS[1:]}, r"lengths of shape \[4\], got \[3\]"),
        ({"x": x[:0], "resets": RESETS[:0]}, "larger than 0"),
    ):
        with pytest.raises(RuntimeError, match=message):
            functional.layer("gru", states=[], weights=weights, **{**good, **changes})
