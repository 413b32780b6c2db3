"""The modules in place of torch.nn's: all that a program does with them gives the same."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from cases import Case, assert_equal, outcome, tensors_in, twins
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
)

import fastrnn
from fastrnn import ops, reference

T, B, I, H = 5, 4, 3, 6  # noqa: E741

LAYERS = {
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {}),
    "RNN-tanh": ("RNN", {"nonlinearity": "tanh"}),
    "RNN-relu": ("RNN", {"nonlinearity": "relu"}),
}
CELLS = {
    "LSTMCell": ("LSTMCell", {}),
    "GRUCell": ("GRUCell", {}),
    "RNNCell-tanh": ("RNNCell", {"nonlinearity": "tanh"}),
    "RNNCell-relu": ("RNNCell", {"nonlinearity": "relu"}),
}
layers = pytest.mark.parametrize("name, options", LAYERS.values(), ids=LAYERS)
cells = pytest.mark.parametrize("name, options", CELLS.values(), ids=CELLS)
modules = pytest.mark.parametrize(
    "name, options", [*LAYERS.values(), *CELLS.values()], ids=[*LAYERS, *CELLS]
)

# Options of the layers that shape their parameters or the walk through them.
STACKS = {
    "plain": {},
    "bidirectional": {"bidirectional": True},
    "two layers": {"num_layers": 2},
    "all": {"num_layers": 2, "bidirectional": True, "bias": False},
}
stacks = pytest.mark.parametrize("stack", STACKS.values(), ids=STACKS)


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def is_cell(name: str) -> bool:
    return name.endswith("Cell")


def an_input(name: str, dtype: torch.dtype = torch.float64, grad: bool = True) -> Tensor:
    return draw(*([B, I] if is_cell(name) else [T, B, I]), dtype=dtype).requires_grad_(grad)


def a_state(module: nn.Module, *batch: int, grad: bool = True) -> Any:
    """hx for the module: a tensor, or a pair for LSTM."""
    dtype = next(module.parameters()).dtype
    leading: Sequence[int] = batch
    sizes = [module.hidden_size]
    if isinstance(module, nn.RNNBase):
        leading = (module.num_layers * (2 if module.bidirectional else 1), *batch)
        sizes = [module.proj_size or module.hidden_size]
    if "LSTM" in type(module).__name__:
        sizes.append(module.hidden_size)
    made = [
        draw(*leading, size, dtype=dtype, seed=i + 1).requires_grad_(grad)
        for i, size in enumerate(sizes)
    ]
    return tuple(made) if len(made) == 2 else made[0]


def assert_same(theirs: nn.Module, ours: nn.Module, *args: Any, **options: Any) -> None:
    assert_equal(outcome(ours, *args, **options), outcome(theirs, *args, **options))


# ---- construction and conversion -----------------------------------------------------------------


@modules
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_state_dict_goes_both_ways(name: str, options: dict, bias: bool) -> None:
    theirs, ours = twins(name, I, H, bias=bias, **options)
    for source, target in ((theirs, ours), (ours, theirs)):
        with torch.no_grad():
            for p in source.parameters():
                p.normal_()
        result = target.load_state_dict(source.state_dict(), strict=True)
        assert not result.missing_keys and not result.unexpected_keys
        assert_same(theirs, ours, an_input(name))


@layers
@stacks
def test_parameters_are_torchs(name: str, options: dict, stack: dict) -> None:
    theirs, ours = twins(name, I, H, **options, **stack)
    found, expected = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert list(found) == list(expected)
    for key, p in expected.items():
        assert isinstance(found[key], nn.Parameter)
        assert torch.equal(found[key], p)
    assert [[tuple(w.shape) for w in ws] for ws in ours.all_weights] == [
        [tuple(w.shape) for w in ws] for ws in theirs.all_weights
    ]
    assert repr(ours) == repr(theirs)


@modules
def test_construction_draws_what_torch_draws(name: str, options: dict) -> None:
    after = []
    for package in (nn, fastrnn):
        torch.manual_seed(5)
        module = getattr(package, name)(I, H, **options)
        module.reset_parameters()
        after.append((module.state_dict(), torch.get_rng_state()))
    (theirs, their_rng), (ours, our_rng) = after
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert torch.equal(our_rng, their_rng)


POSITIONAL = {
    "LSTM": (I, H, 2, False, True, 0.5, True, 2, "cpu", torch.float64),
    "GRU": (I, H, 2, False, True, 0.5, True, 0, "cpu", torch.float64),
    "RNN": (I, H, 2, "relu", False, True, 0.5, True, 0, "cpu", torch.float64),
    "LSTMCell": (I, H, False, "cpu", torch.float64),
    "GRUCell": (I, H, False, "cpu", torch.float64),
    "RNNCell": (I, H, False, "relu", "cpu", torch.float64),
}


@pytest.mark.parametrize("name", POSITIONAL)
def test_all_arguments_by_position(name: str) -> None:
    made = []
    for package in (nn, fastrnn):
        torch.manual_seed(0)
        made.append(getattr(package, name)(*POSITIONAL[name]))
    theirs, ours = made
    assert repr(ours) == repr(theirs)
    assert {k: p.dtype for k, p in ours.named_parameters()} == {
        k: p.dtype for k, p in theirs.named_parameters()
    }
    assert_same(theirs.eval(), ours.eval(), draw(B, I) if is_cell(name) else draw(B, T, I))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_attributes_are_torchs(name: str) -> None:
    theirs, ours = twins(name, I, H)
    public = {key for key in dir(theirs) if not key.startswith("_")} - set(dir(ours))
    assert not public
    for key, value in vars(theirs).items():
        if isinstance(value, (int, float, str, bool)):
            assert getattr(ours, key) == value, key
    assert isinstance(ours, nn.RNNCellBase if is_cell(name) else nn.RNNBase)


@modules
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies(name: str, options: dict, way: str) -> None:
    theirs, ours = twins(name, I, H, **options)
    ours(an_input(name))
    if way == "deepcopy":
        copied = copy.deepcopy(ours)
    elif way == "pickle":
        copied = pickle.loads(pickle.dumps(ours))
    else:
        file = io.BytesIO()
        torch.save(ours, file)
        file.seek(0)
        copied = torch.load(file, weights_only=False)
    assert type(copied) is type(ours)
    assert repr(copied) == repr(ours)
    assert_same(theirs, copied, an_input(name))
    with torch.no_grad():
        for p in copied.parameters():
            p.zero_()
    assert_same(theirs, ours, an_input(name))


@modules
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_conversion_of_the_type(name: str, options: dict, dtype: torch.dtype) -> None:
    _, ours = twins(name, I, H, dtype=torch.float32, **options)
    own = {torch.float64: "double", torch.float16: "half", torch.bfloat16: "bfloat16"}[dtype]
    _, made = twins(name, I, H, dtype=dtype, **options)
    made.load_state_dict(ours.state_dict())
    x = an_input(name, dtype)
    expected = outcome(made, x)
    for converted in (copy.deepcopy(ours).to(dtype), getattr(copy.deepcopy(ours), own)()):
        found = outcome(converted, x)
        for key, t in expected.items():
            assert found[key].dtype == dtype, key
            assert torch.equal(found[key], t), key


@modules
def test_meta_device(name: str, options: dict) -> None:
    theirs, ours = twins(name, I, H, device="meta", **options)
    shapes = []
    for module in (theirs, ours):
        x = torch.empty(
            *([B, I] if is_cell(name) else [T, B, I]), device="meta", dtype=torch.float64
        )
        x.requires_grad_()
        results = tensors_in(module(x))
        grads = torch.autograd.grad(sum(r.sum() for r in results), [x, *module.parameters()])
        shapes.append([(t.shape, t.dtype, t.device) for t in (*results, *grads)])
    assert shapes[1] == shapes[0]


@layers
@stacks
def test_meta_device_with_states_and_batch_first(name: str, options: dict, stack: dict) -> None:
    theirs, ours = twins(name, I, H, device="meta", batch_first=True, **options, **stack)
    x = torch.empty(B, T, I, device="meta", dtype=torch.float64)
    shapes = []
    for module in (theirs, ours):
        states = a_state(module, B)
        moved = tuple(s.to("meta") for s in tensors_in(states))
        results = tensors_in(module(x, moved if name == "LSTM" else moved[0]))
        shapes.append([(t.shape, t.dtype, t.device) for t in results])
    assert shapes[1] == shapes[0]


@modules
def test_to_empty(name: str, options: dict) -> None:
    theirs, ours = twins(name, I, H, **options)
    bare = getattr(fastrnn, name)(I, H, device="meta", dtype=torch.float64, **options)
    bare.to_empty(device="cpu").load_state_dict(ours.state_dict())
    assert_same(theirs, bare, an_input(name))


@layers
def test_flatten_parameters_changes_nothing(name: str, options: dict) -> None:
    theirs, ours = twins(name, I, H, **options)
    places = [p.data_ptr() for p in ours.parameters()]
    assert ours.flatten_parameters() is None
    assert [p.data_ptr() for p in ours.parameters()] == places
    assert_same(theirs, ours, an_input(name))


# ---- parametrized and changing weights -----------------------------------------------------------


@layers
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("norm", [weight_norm, parametrizations.weight_norm], ids=["old", "new"])
def test_weight_norm(name: str, options: dict, bidirectional: bool, norm: Any) -> None:
    pair = twins(name, I, H, num_layers=2, bidirectional=bidirectional, **options)
    theirs, ours = (norm(module, "weight_hh_l0") for module in pair)
    for module in (theirs, ours):
        with torch.no_grad():
            for key, p in module.named_parameters():
                if key.endswith(("weight_hh_l0_g", "weight_hh_l0.original0")):
                    p.mul_(1.5)
    found = outcome(ours, an_input(name))
    assert sum("weight_hh_l0" in key for key in found) == 2 + bidirectional
    assert_equal(found, outcome(theirs, an_input(name)))


@cells
def test_weight_norm_of_cells(name: str, options: dict) -> None:
    pair = twins(name, I, H, **options)
    theirs, ours = (parametrizations.weight_norm(module, "weight_hh") for module in pair)
    assert_same(theirs, ours, an_input(name))


def by_data(module: nn.Module) -> None:
    for p in module.parameters():
        p.data = p.data * 1.5


def in_place(module: nn.Module) -> None:
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(-0.5)


def by_optimizer(module: nn.Module) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    x = draw(*([B, I] if is_cell(type(module).__name__) else [T, B, I]), seed=9)
    sum(t.pow(2).sum() for t in tensors_in(module(x))).backward()
    optimizer.step()
    optimizer.zero_grad()


def by_loading(module: nn.Module) -> None:
    module.load_state_dict({k: v + 0.25 for k, v in module.state_dict().items()})


def by_assigning(module: nn.Module) -> None:
    state = {k: v - 0.25 for k, v in module.state_dict().items()}
    module.load_state_dict(state, assign=True)


def by_new_parameters(module: nn.Module) -> None:
    for key, p in list(module.named_parameters()):
        setattr(module, key, nn.Parameter(p.detach() * 2))


@modules
@pytest.mark.parametrize(
    "change", [by_data, in_place, by_optimizer, by_loading, by_assigning, by_new_parameters]
)
def test_changed_weights_are_seen(name: str, options: dict, change: Any) -> None:
    theirs, ours = twins(name, I, H, **options)
    before = outcome(ours, an_input(name))
    change(theirs)
    change(ours)
    after = outcome(ours, an_input(name))
    assert_equal(after, outcome(theirs, an_input(name)))
    assert not torch.equal(after["result 0"], before["result 0"])


@modules
def test_functional_call(name: str, options: dict) -> None:
    theirs, ours = twins(name, I, H, **options)
    other = {k: draw(*p.shape, seed=3).requires_grad_() for k, p in ours.named_parameters()}
    x = an_input(name)

    def call(module: nn.Module) -> list[Tensor]:
        results = tensors_in(torch.func.functional_call(module, other, (x,)))
        loss = sum(r.square().sum() for r in results)
        return [*results, *torch.autograd.grad(loss, [x, *other.values()])]

    for found, expected in zip(call(ours), call(theirs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@layers
def test_shared_weights(name: str, options: dict) -> None:
    theirs, ours = twins(name, I, H, num_layers=2, **options)
    for module in (theirs, ours):
        module.weight_hh_l1 = module.weight_hh_l0
    assert_same(theirs, ours, an_input(name))


@layers
def test_frozen_weights(name: str, options: dict) -> None:
    theirs, ours = twins(name, I, H, num_layers=2, **options)
    for module in (theirs, ours):
        module.requires_grad_(False)
    assert_same(theirs, ours, an_input(name))
    y, _ = ours(an_input(name, grad=False))
    assert not y.requires_grad


# Of x, hx, weight_ih, weight_hh, bias_ih, bias_hh: one alone, all but one, all.
SUBSETS = [[(i == j) == alone for i in range(6)] for j in range(6) for alone in (True, False)]
SUBSETS.append([True] * 6)


@modules
def test_only_the_wanted_gradients_are_made(name: str, options: dict) -> None:
    for chosen in SUBSETS:
        grads = []
        for module in twins(name, I, H, **options):
            x = an_input(name, grad=chosen[0])
            hx = a_state(module, B, grad=chosen[1])
            if "LSTM" in name and sum(chosen) % 2:
                hx[1].requires_grad_(False)
            for p, wanted in zip(module.parameters(), chosen[2:], strict=True):
                p.requires_grad_(wanted)
            results = tensors_in(module(x, hx))
            loss = sum(r.square().sum() for r in results)
            if loss.requires_grad:
                loss.backward()
            grads.append([t.grad for t in (x, *tensors_in(hx), *module.parameters())])
        theirs, ours = grads
        for found, expected in zip(ours, theirs, strict=True):
            assert (found is None) == (expected is None), chosen
            if expected is not None:
                torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


# ---- modes ---------------------------------------------------------------------------------------


@modules
def test_train_and_eval(name: str, options: dict) -> None:
    theirs, ours = twins(name, I, H, **options)
    for training in (True, False):
        assert_same(theirs.train(training), ours.train(training), an_input(name))


@layers
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("p", [0.3, 1.0])
def test_dropout_draws_torchs_masks(
    name: str, options: dict, bidirectional: bool, batch_first: bool, p: float
) -> None:
    theirs, ours = twins(
        name,
        I,
        H,
        num_layers=3,
        dropout=p,
        bidirectional=bidirectional,
        batch_first=batch_first,
        **options,
    )
    x = draw(B, T, I).requires_grad_()
    for training in (True, False):
        found = []
        for module in (theirs, ours):
            torch.manual_seed(7)
            found.append((outcome(module.train(training), x), torch.get_rng_state()))
        assert_equal(found[1][0], found[0][0])
        assert torch.equal(found[1][1], found[0][1])


@layers
def test_dropout_of_packed_sequences(name: str, options: dict) -> None:
    theirs, ours = twins(name, I, H, num_layers=2, dropout=0.4, **options)
    packed = pack_padded_sequence(draw(T, B, I), torch.tensor([5, 3, 3, 1]))
    found = []
    for module in (theirs, ours):
        torch.manual_seed(7)
        found.append(outcome(module, packed))
    assert_equal(found[1], found[0])


@modules
@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference"]
)
def test_without_autograd(name: str, options: dict, mode: Any) -> None:
    theirs, ours = twins(name, I, H, **options)
    with mode():
        x = an_input(name)
        found, expected = tensors_in(ours(x)), tensors_in(theirs(x))
    for ours_, theirs_ in zip(found, expected, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=1e-11, atol=1e-12)
        assert ours_.requires_grad == theirs_.requires_grad
        assert ours_.is_inference() == theirs_.is_inference()


PLAIN = {"": {}, " all": {"bidirectional": True, "batch_first": True, "bias": False}}
PLAIN_CALLS = {
    **{f"{key}{way}": (n, o | w) for key, (n, o) in LAYERS.items() for way, w in PLAIN.items()},
    "LSTM projected": ("LSTM", {"proj_size": 2}),
    "MUT1": ("MUT1", {}),
    **CELLS,
    "LSTMCell peephole": ("LSTMCell", {"peephole": True}),
}


@pytest.mark.parametrize("name, options", PLAIN_CALLS.values(), ids=PLAIN_CALLS)
@pytest.mark.parametrize("initial", [False, True], ids=["zeros", "hx"])
def test_a_plain_call_is_a_call(
    name: str, options: dict, initial: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module, x = getattr(fastrnn, name)(I, H, dtype=torch.float64, **options), an_input(name)
    batch = T if options.get("batch_first") else B
    given, runs, run = (x, a_state(module, batch)) if initial else (x,), [], ops.run
    monkeypatch.setattr(ops, "run", lambda *args: runs.append(args) or run(*args))

    def found() -> dict[str, Tensor]:
        with torch.no_grad():
            plain = dict(enumerate(tensors_in(module(*given))))
        return outcome(module, *given) | plain

    first = found()
    assert len(runs) == 2
    monkeypatch.setattr(ops, "is_plain", lambda x: False)
    second = found()
    assert len(runs) == 2
    assert first.keys() == second.keys()
    for key, t in second.items():
        assert torch.equal(first[key], t), key


class Counted(Tensor):
    """A subclass that sees what is done with it."""

    seen: list[Any] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        cls.seen.append(function)
        return super().__torch_function__(function, types, args, kwargs or {})


@modules
@pytest.mark.parametrize("place", ["x", "weight"])
def test_subclasses_of_tensors_see_the_op(name: str, options: dict, place: str) -> None:
    theirs, ours = twins(name, I, H, **options)
    x = an_input(name, grad=False)
    if place == "x":
        x = x.as_subclass(Counted)
    else:
        key = "weight_hh" if is_cell(name) else "weight_hh_l0"
        ours._parameters[key] = ours._parameters[key].detach().as_subclass(Counted)
    Counted.seen.clear()
    with torch.no_grad():
        found = tensors_in(ours(x))
        expected = tensors_in(theirs(x.as_subclass(Tensor)))
    assert torch.ops.fastrnn.scan.default in Counted.seen
    for f, e in zip(found, expected, strict=True):
        assert type(f) is Counted
        torch.testing.assert_close(f.as_subclass(Tensor), e, rtol=1e-11, atol=1e-12)


@layers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("initial", [False, True], ids=["zeros", "hx"])
def test_autocast_computes_in_its_type(
    name: str, options: dict, dtype: torch.dtype, initial: bool
) -> None:
    """Bit for bit as if module and inputs were converted; the gradients come back in float32."""
    _, ours = twins(name, I, H, dtype=torch.float32, **options)
    converted = copy.deepcopy(ours).to(dtype)
    args, converted_args = (
        [an_input(name, type_), *([a_state(module, B)] if initial else [])]
        for module, type_ in ((ours, torch.float32), (converted, dtype))
    )

    def call(*given: Any) -> Any:
        with torch.autocast("cpu", dtype):
            return ours(*given)

    found, expected = outcome(ours, *args, call=call), outcome(converted, *converted_args)
    assert found.keys() == expected.keys()
    for key, t in expected.items():
        assert found[key].dtype == (torch.float32 if key.startswith("grad") else dtype), key
        assert torch.equal(found[key], t.to(found[key].dtype)), key


@cells
@pytest.mark.parametrize("initial", [False, True], ids=["zeros", "hx"])
def test_cells_keep_their_type_under_autocast(name: str, options: dict, initial: bool) -> None:
    """A state that goes from step to step must not be rounded each time."""
    _, ours = twins(name, I, H, dtype=torch.float32, **options)
    args = [an_input(name, torch.float32), *([a_state(ours, B)] if initial else [])]

    def call(*given: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return ours(*given)

    found, expected = outcome(ours, *args, call=call), outcome(ours, *args)
    assert found.keys() == expected.keys()
    for key, t in expected.items():
        assert found[key].dtype == torch.float32, key
        assert torch.equal(found[key], t), key


@layers
def test_autocast_casts_floating_point_only(name: str, options: dict) -> None:
    _, ours = twins(name, I, H, dtype=torch.float32, **options)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError, match="input must be float32"):
            ours(torch.ones(T, B, I, dtype=torch.int64))
        with pytest.raises(RuntimeError, match="not the same dtype"):
            hidden = torch.zeros(1, B, H, dtype=torch.float64)
            ours(torch.ones(T, B, I), (hidden, hidden) if name == "LSTM" else hidden)


@modules
def test_autocast_leaves_float64_alone(name: str, options: dict) -> None:
    _, ours = twins(name, I, H, **options)
    x = an_input(name)
    expected = tensors_in(ours(x))
    with torch.autocast("cpu", torch.bfloat16):
        found = tensors_in(ours(x))
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == torch.float64
        assert torch.equal(f, e)


@modules
def test_autocast_takes_mixed_types(name: str, options: dict) -> None:
    _, ours = twins(name, I, H, dtype=torch.float32, **options)
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        x = an_input(name, torch.bfloat16, grad=False).to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            results.append(tensors_in(ours(x)))
    for from_16_bit, from_32_bit in zip(*results, strict=True):
        assert torch.equal(from_16_bit, from_32_bit)


# ---- inputs --------------------------------------------------------------------------------------


@layers
@stacks
@pytest.mark.parametrize("initial", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
def test_unbatched(name: str, options: dict, stack: dict, initial: bool, batch_first: bool) -> None:
    theirs, ours = twins(name, I, H, batch_first=batch_first, **options, **stack)
    args = [draw(T, I).requires_grad_(), *([a_state(theirs)] if initial else [])]
    assert_same(theirs, ours, *args)
    shapes = [[t.shape for t in tensors_in(m(*args))] for m in (theirs, ours)]
    assert shapes[0] == shapes[1]


@layers
@stacks
def test_batch_first(name: str, options: dict, stack: dict) -> None:
    theirs, ours = twins(name, I, H, batch_first=True, **options, **stack)
    assert_same(theirs, ours, draw(B, T, I).requires_grad_(), a_state(theirs, B))


@cells
@pytest.mark.parametrize("initial", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("batch", [(), (1,), (B,)], ids=["unbatched", "B1", "B4"])
def test_cells(name: str, options: dict, initial: bool, bias: bool, batch: tuple) -> None:
    theirs, ours = twins(name, I, H, bias=bias, **options)
    args = [draw(*batch, I).requires_grad_(), *([a_state(theirs, *batch)] if initial else [])]
    assert_same(theirs, ours, *args)


@cells
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("sizes", [(I, 0), (0, H), (0, 0)], ids=str)
@pytest.mark.parametrize("initial", [False, True], ids=["zeros", "hx"])
def test_cells_of_size_0(name: str, options: dict, bias: bool, sizes: Any, initial: bool) -> None:
    theirs, ours = twins(name, *sizes, bias=bias, **options)
    x, hx = draw(B, sizes[0]).requires_grad_(), a_state(theirs, B)
    assert_same(theirs, ours, x, *([hx] if initial else []))
    assert [t.shape for t in tensors_in(ours(x[0]))] == [t.shape for t in tensors_in(theirs(x[0]))]


CHECKS = ("check_forward_args", "check_hidden_size", "check_input", "permute_hidden")
CHECKS += ("get_expected_hidden_size",)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("projected", [False, True], ids=["plain", "projected"])
def test_what_subclasses_call(name: str, projected: bool) -> None:
    """The methods that torch.nn's forward is made of, for a subclass that has its own."""
    extra = {"proj_size": 2} if projected and name == "LSTM" else {}
    pair = twins(name, I, H, num_layers=2, bidirectional=True, **extra)
    checks = [*CHECKS, "get_expected_cell_size"] if name == "LSTM" else CHECKS
    for check in checks:
        theirs, ours = (inspect.signature(getattr(type(m), check)) for m in pair)
        assert ours == theirs, check
    x, sizes = draw(T, B, I), torch.tensor([3, 2])
    found = []
    for module in pair:
        hx = a_state(module, B, grad=False)
        module.check_input(x, None)
        module.check_forward_args(x, hx, None)
        shapes = [module.get_expected_hidden_size(x, None)]
        shapes.append(module.get_expected_hidden_size(x[0], sizes))
        if name == "LSTM":
            shapes.append(module.get_expected_cell_size(x, None))
        errors = []
        wrong = a_state(module, B + 1, grad=False)
        for call, *args in (
            (module.check_input, x[..., 1:], None),
            (module.check_input, x, sizes),
            (module.check_input, x.float(), None),
            (module.check_forward_args, x, wrong, None),
            (module.check_hidden_size, tensors_in(wrong)[0], (1, 2, 3)),
            (module.check_hidden_size, tensors_in(wrong)[0], (1, 2, 3), "not {} but {}"),
        ):
            with pytest.raises((RuntimeError, ValueError)) as caught:
                call(*args)
            errors.append((caught.type, str(caught.value)))
        order = torch.tensor([2, 0, 3, 1])
        assert module.permute_hidden(hx, None) is hx
        found.append(
            [shapes, errors, [t.tolist() for t in tensors_in(module.permute_hidden(hx, order))]]
        )
    assert found[1] == found[0]


@cells
def test_cells_in_a_loop(name: str, options: dict) -> None:
    def unroll(module: nn.Module) -> list[Tensor]:
        x = draw(T, B, I).requires_grad_()
        state = None
        for step in x:
            state = module(step, state)
        loss = sum(s.square().sum() for s in tensors_in(state))
        return [*tensors_in(state), *torch.autograd.grad(loss, [x, *module.parameters()])]

    theirs, ours = twins(name, I, H, **options)
    for found, expected in zip(unroll(ours), unroll(theirs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@modules
def test_in_sequential(name: str, options: dict) -> None:
    pair = []
    for module in twins(name, I, H, **options):
        torch.manual_seed(1)
        pair.append(nn.Sequential(nn.Linear(I, I, dtype=torch.float64), nn.ReLU(), module))
    assert_same(*pair, an_input(name))


def test_states_as_a_list() -> None:
    for name, batch in (("LSTM", (B,)), ("LSTMCell", (B,))):
        theirs, ours = twins(name, I, H)
        assert_same(theirs, ours, an_input(name), list(a_state(theirs, *batch)))


# ---- layouts -------------------------------------------------------------------------------------


def strided(t: Tensor) -> Tensor:
    """Every second feature of a wider tensor."""
    return torch.stack([t, torch.full_like(t, 7.0)], -1).flatten(-2)[..., ::2]


def transposed(t: Tensor) -> Tensor:
    """The first two axes lie in memory the other way round."""
    return t.transpose(0, 1).contiguous().transpose(0, 1) if t.dim() > 1 else t


def column_major(t: Tensor) -> Tensor:
    return t.transpose(0, -1).contiguous().transpose(0, -1)


def offset(t: Tensor) -> Tensor:
    """A part of a larger tensor, not aligned."""
    larger = torch.full([s + 2 for s in t.shape], 7.0, dtype=t.dtype)
    part = larger[(slice(1, -1),) * t.dim()]
    return part.copy_(t)


def expanded(t: Tensor) -> Tensor:
    """The first row for all."""
    return t[..., :1, :].expand_as(t) if t.dim() > 1 else t[:1].expand_as(t)


def constant(t: Tensor) -> Tensor:
    """One number for all, of stride 0 in every axis."""
    return t.flatten()[0].expand_as(t)


LAYOUTS = [strided, transposed, column_major, offset, expanded, constant]


@modules
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
def test_layouts_of_the_inputs(name: str, options: dict, layout: Any, batch_first: bool) -> None:
    extra = {} if is_cell(name) else {"batch_first": batch_first}
    theirs, ours = twins(name, I, H, **extra, **options)
    x = draw(*([B, I] if is_cell(name) else [B, T, I] if batch_first else [T, B, I]))
    states = [layout(s) for s in tensors_in(a_state(theirs, B, grad=False))]
    args = [layout(x).detach().requires_grad_(), *(s.detach().requires_grad_() for s in states)]
    assert args[0].stride() == layout(x).stride()

    for module in (theirs, ours):
        module.call = lambda x, *s, run=module: run(x, s if len(s) > 1 else s[0])
    assert_equal(outcome(ours, *args, call=ours.call), outcome(theirs, *args, call=theirs.call))


@modules
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_the_weights(name: str, options: dict, layout: Any) -> None:
    theirs, ours = twins(name, I, H, **options)
    for module in (theirs, ours):
        for p in module.parameters():
            p.data = layout(p.data)
    assert_same(theirs, ours, an_input(name), a_state(theirs, B))


@layers
def test_layouts_of_the_weights_with_projection_and_layers(name: str, options: dict) -> None:
    extra = {"proj_size": 4} if name == "LSTM" else {}
    theirs, ours = twins(name, I, H, num_layers=2, bidirectional=True, **options, **extra)
    for module in (theirs, ours):
        for p in module.parameters():
            p.data = strided(p.data)
    assert_same(theirs, ours, an_input(name), a_state(theirs, B))


@layers
def test_layouts_of_the_gradients(name: str, options: dict) -> None:
    """Gradients arrive expanded, from sum(), or transposed."""
    grads = []
    for module in twins(name, I, H, **options):
        x = an_input(name)
        y, last = module(x)
        loss = y.sum() + sum((s.transpose(0, 2) @ draw(1, 2)).sum() for s in tensors_in(last))
        loss = loss + y[::2, :, 1::2].square().sum()
        grads.append(torch.autograd.grad(loss, [x, *module.parameters()]))
    for found, expected in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


# ---- packed sequences ----------------------------------------------------------------------------

LENGTHS = {
    "sorted": [5, 3, 3, 1],
    "unsorted": [2, 5, 1, 4],
    "equal": [5, 5, 5, 5],
    "increasing": [1, 2, 3, 4],
}


@layers
@stacks
@pytest.mark.parametrize("initial", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_packed_sequences(
    name: str, options: dict, stack: dict, initial: bool, lengths: list[int]
) -> None:
    projections = [{}, {"proj_size": 4}] if name == "LSTM" else [{}]
    for projection in projections:
        theirs, ours = twins(name, I, H, **options, **stack, **projection)
        args = [draw(T, B, I).requires_grad_(), *([a_state(theirs, B)] if initial else [])]
        packs = []

        def call(
            module: nn.Module, packs: list[PackedSequence], x: Tensor, *hx: Any
        ) -> tuple[PackedSequence, Any]:
            packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
            y, last = module(packed, *hx)
            packs.append(y)
            return y, last

        found, expected = (
            outcome(module, *args, call=lambda *a, m=module, p=packs: call(m, p, *a))
            for module in (ours, theirs)
        )
        assert_equal(found, expected)
        for field in ("batch_sizes", "sorted_indices", "unsorted_indices"):
            assert torch.equal(getattr(packs[0], field), getattr(packs[1], field)), field
        padded = [pad_packed_sequence(p, total_length=T + 1) for p in packs]
        torch.testing.assert_close(padded[0], padded[1], rtol=1e-11, atol=1e-12)


@layers
def test_packed_sequences_that_are_sorted(name: str, options: dict) -> None:
    theirs, ours = twins(name, I, H, batch_first=True, **options)
    sequences = [draw(n, I, seed=n).requires_grad_() for n in (6, 4, 4, 1)]

    def call(module: nn.Module, *given: Tensor) -> tuple[PackedSequence, Any]:
        y, last = module(pack_sequence(given))
        assert isinstance(y, PackedSequence)
        assert y.sorted_indices is None and y.unsorted_indices is None
        return y, last

    found, expected = (
        outcome(module, *sequences, call=lambda *a, m=module: call(m, *a))
        for module in (ours, theirs)
    )
    assert_equal(found, expected)


@layers
def test_packed_sequences_of_one(name: str, options: dict) -> None:
    theirs, ours = twins(name, I, H, bidirectional=True, **options)
    assert_same(theirs, ours, pack_sequence([draw(T, I)]))
    assert_same(theirs, ours, pack_sequence([draw(1, I), draw(1, I, seed=1)]))


def test_projection() -> None:
    for stack, batch_first in product(STACKS.values(), (False, True)):
        theirs, ours = twins("LSTM", I, H, proj_size=2, batch_first=batch_first, **stack)
        assert repr(ours) == repr(theirs)
        x = draw(*([B, T, I] if batch_first else [T, B, I])).requires_grad_()
        assert_same(theirs, ours, x, a_state(theirs, B))
        assert_same(theirs, ours, draw(T, I).requires_grad_(), a_state(theirs))


def test_cases_have_the_modules_defaults() -> None:
    """What the other tests compare is made by Case.module; it must be the plain modules."""
    torch.manual_seed(0)
    plain = nn.GRU(4, 7, dtype=torch.float64)
    assert repr(Case("gru").module(nn)) == repr(plain)
    for key, p in Case("gru").module(fastrnn).state_dict().items():
        assert torch.equal(p, plain.state_dict()[key])


# ---- variants ------------------------------------------------------------------------------------

# Module, its options, its equations for the ops, and the blocks of weight_ih and of weight_hh.
VARIANTS = {
    "LSTM-f": ("LSTM", {"gates": "oi"}, "lstm_f", 3, 3),
    "LSTM-i": ("LSTM", {"gates": "fo", "proj_size": 4}, "lstm_i", 3, 3),
    "LSTM-o": ("LSTM", {"gates": "fi", "forget_bias": 1.0}, "lstm_o", 3, 3),
    "LSTM peephole": ("LSTM", {"peephole": True}, "lstm_peephole", 4, 4),
    "LSTM peephole projected": ("LSTM", {"peephole": True, "proj_size": 4}, "lstm_peephole", 4, 4),
    "GRU before": ("GRU", {"reset_after": False}, "gru_before", 3, 3),
    "MUT1": ("MUT1", {}, "mut1", 3, 2),
    "MUT1 learned": ("MUT1", {"learned_input": True}, "mut1", 3, 2),
    "MUT2": ("MUT2", {}, "mut2", 3, 3),
    "MUT3": ("MUT3", {}, "mut3", 3, 3),
}
VARIANT_CELLS = {
    f"{key} cell": (f"{name}Cell", options, *rest)
    for key, (name, options, *rest) in VARIANTS.items()
    if "proj_size" not in options
}
ALL_VARIANTS = VARIANTS | VARIANT_CELLS
variants = pytest.mark.parametrize("variant", ALL_VARIANTS.values(), ids=ALL_VARIANTS)
variant_layers = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
# Of input and hidden units: a layer that takes x itself, if its cell does, and one that cannot.
square = pytest.mark.parametrize("inputs", [I, H], ids=["I3", "I6"])


def of_variant(variant: tuple, inputs: int = I, **stack: Any) -> nn.Module:
    torch.manual_seed(0)
    return getattr(fastrnn, variant[0])(inputs, H, dtype=torch.float64, **variant[1], **stack)


def by_reference(module: nn.Module, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
    """What a stack of layers computes, by the reference, layer by layer."""
    states = [] if hx is None else list(tensors_in(hx))
    ends, depth = [], 2 if module.bidirectional else 1
    x = x.transpose(0, 1) if module.batch_first else x
    for i in range(module.num_layers):
        own = [s[i * depth : (i + 1) * depth] for s in states]
        weights = [w for ws in module.all_weights[i * depth : (i + 1) * depth] for w in ws]
        given = reference.Inputs(module._cell, x, own, weights, bidirectional=depth == 2)
        x, last, _ = reference.scan(given)
        ends.append(last)
    x = x.transpose(0, 1) if module.batch_first else x
    joined = tuple(map(torch.cat, zip(*ends)))
    return x, joined if len(joined) > 1 else joined[0]


@variant_layers
@stacks
@square
@pytest.mark.parametrize("initial", [False, True], ids=["zeros", "hx"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
def test_variants(
    variant: tuple, stack: dict, inputs: int, initial: bool, batch_first: bool
) -> None:
    stack = {**stack, "bias": stack.get("bias", True) or "forget_bias" in variant[1]}
    module = of_variant(variant, inputs, batch_first=batch_first, **stack)
    args = [draw(*([B, T] if batch_first else [T, B]), inputs).requires_grad_()]
    args += [a_state(module, B)] * initial
    expected = outcome(module, *args, call=lambda *a: by_reference(module, *a))
    assert_equal(outcome(module, *args), expected)


@variant_layers
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_packed_sequences_of_variants(variant: tuple, lengths: list[int]) -> None:
    """Each row is what it is alone."""
    module, x = of_variant(variant, bidirectional=True), draw(T, B, I)
    packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    y, last = module(packed)
    y, _ = pad_packed_sequence(y, total_length=T)
    for row, length in enumerate(lengths):
        alone, ends = module(x[:length, row])
        torch.testing.assert_close(y[:length, row], alone, rtol=1e-11, atol=1e-12)
        for found, expected in zip(tensors_in(last), tensors_in(ends), strict=True):
            torch.testing.assert_close(found[:, row], expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANT_CELLS.values(), ids=VARIANT_CELLS)
@square
@pytest.mark.parametrize("batch", [(), (B,)], ids=["unbatched", "B4"])
def test_cells_of_variants_are_their_layers(variant: tuple, inputs: int, batch: tuple) -> None:
    """With the same weights, drawn in the same order."""
    cell = of_variant(variant, inputs)
    layer = of_variant((variant[0].removesuffix("Cell"), variant[1]), inputs)
    for ours, theirs in zip(cell.parameters(), layer.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    x, hx = draw(*batch, inputs), a_state(cell, *batch, grad=False)
    given = tuple(s[None] for s in hx) if isinstance(hx, tuple) else hx[None]
    for found, expected in zip(
        tensors_in(cell(x, hx)), tensors_in(layer(x[None], given)[1]), strict=True
    ):
        assert torch.equal(found, expected[0])
    assert tensors_in(cell(x))[0].shape == (*batch, H)


@pytest.mark.parametrize("variant", VARIANT_CELLS.values(), ids=VARIANT_CELLS)
def test_cells_of_variants_of_size_0(variant: tuple) -> None:
    name, options = variant[:2]
    for sizes in ((I, 0), (0, H), (0, 0)):
        module = getattr(fastrnn, name)(*sizes, dtype=torch.float64, **options)
        x = draw(B, sizes[0]).requires_grad_()
        states = tensors_in(module(x))
        assert {s.shape for s in states} == {(B, sizes[1])}
        grads = torch.autograd.grad(sum(s.sum() for s in states), [x, module.weight_hh])
        assert [g.shape for g in grads] == [x.shape, module.weight_hh.shape]


@variants
@square
def test_parameters_of_variants(variant: tuple, inputs: int) -> None:
    name, options, cell, x_blocks, h_blocks = variant
    module = of_variant(variant, inputs)
    takes_x = cell in ("mut1", "mut2") and inputs == H and "learned_input" not in options
    rows, output = (x_blocks - takes_x) * H, options.get("proj_size", H)
    expected = {"weight_ih": (rows, inputs), "weight_hh": (h_blocks * H, output)}
    expected |= {"bias_ih": (rows,), "bias_hh": (h_blocks * H,)}
    if "proj_size" in options:
        expected["weight_hr"] = (output, H)
    if "peephole" in options:
        expected["weight_peephole"] = (3 * H,)
    suffix = "" if is_cell(name) else "_l0"
    found = {key: tuple(p.shape) for key, p in module.named_parameters()}
    assert found == {key + suffix: shape for key, shape in expected.items()}
    assert list(found) == [key + suffix for key in expected]
    bound = H**-0.5
    for key, p in module.named_parameters():
        if "forget_bias" not in options or "bias" not in key:
            assert p.abs().max() <= bound and p.std() > bound / 4
    for key, value in options.items():
        shown = {"oi": "io", "fi": "if"}.get(value, value)
        assert f"{key}={shown!r}" in repr(module)


@variants
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict", "torch.save"])
def test_copies_of_variants(variant: tuple, way: str) -> None:
    module = of_variant(variant)
    if way == "deepcopy":
        copied = copy.deepcopy(module)
    elif way == "pickle":
        copied = pickle.loads(pickle.dumps(module))
    else:
        copied, state = of_variant(variant), module.state_dict()
        for p in copied.parameters():
            p.data.zero_()
        if way == "torch.save":
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        result = copied.load_state_dict(state)
        assert not result.missing_keys and not result.unexpected_keys
    assert repr(copied) == repr(module) and copied._cell == variant[2]
    assert_same(module, copied, an_input(variant[0]))


def test_a_state_dict_says_of_which_layer_it_is() -> None:
    plain = [("LSTM", {}), ("GRU", {}), ("LSTMCell", {}), ("GRUCell", {})]
    everything = [*plain, *(v[:2] for v in ALL_VARIANTS.values() if "proj_size" not in v[1])]
    names = [getattr(fastrnn, n)(I, H, **o)._cell for n, o in everything]
    for (source, its), cell in zip(everything, names):
        given = getattr(fastrnn, source)(I, H, **its).state_dict()
        assert ("_extra_state" in given) == (cell not in ("lstm", "gru"))
        for (target, options), own in zip(everything, names):
            if is_cell(source) != is_cell(target) or {own, cell} == {"lstm", "gru"}:
                continue
            module = nn.Sequential(getattr(fastrnn, target)(I, H, **options))
            nested = {f"0.{key}": t for key, t in given.items()}
            if own == cell:
                module.load_state_dict(nested)
                continue
            before = [p.clone() for p in module.parameters()]
            for strict in (True, False):
                with pytest.raises(RuntimeError, match="weights of 0 are those of another layer"):
                    module.load_state_dict(nested, strict=strict)
            assert all(map(torch.equal, before, module.parameters()))
            module.load_state_dict({}, strict=False)  # which says nothing of this layer


def test_torch_refuses_the_weights_of_a_variant() -> None:
    with pytest.raises(RuntimeError, match="_extra_state"):
        nn.GRU(I, H).load_state_dict(fastrnn.GRU(I, H, reset_after=False).state_dict())


def test_extra_state_of_a_subclass_is_its_own() -> None:
    class Counting(fastrnn.GRU):
        count = 0

        def get_extra_state(self) -> Any:
            return {"count": self.count}

        def set_extra_state(self, state: Any) -> None:
            self.count = state["count"]

    source, target = Counting(I, H), Counting(I, H)
    source.count = 3
    target.load_state_dict(source.state_dict())
    assert target.count == 3


@pytest.mark.parametrize("name", ["LSTM", "LSTMCell"])
@pytest.mark.parametrize("gates, first", [("ifo", H), ("fo", 0), ("if", H)])
def test_forget_bias(name: str, gates: str, first: int) -> None:
    torch.manual_seed(0)
    module = getattr(fastrnn, name)(I, H, gates=gates, forget_bias=1.5)
    torch.manual_seed(0)
    other = getattr(fastrnn, name)(I, H, gates=gates)
    for (key, p), q in zip(module.named_parameters(), other.parameters(), strict=True):
        expected = q.detach().clone()
        if key.startswith("bias"):
            expected[first : first + H] = 1.5 if key.startswith("bias_ih") else 0.0
        assert torch.equal(p, expected), key
    with torch.no_grad():
        module.bias_hh_l0.fill_(7) if name == "LSTM" else module.bias_hh.fill_(7)
    module.reset_parameters()
    bias = module.bias_hh_l0 if name == "LSTM" else module.bias_hh
    assert not bias[first : first + H].any()
    assert "forget_bias=1.5" in repr(module)
    assert ("_extra_state" in module.state_dict()) == (gates != "ifo")


def test_forget_bias_in_every_layer_and_direction() -> None:
    module = fastrnn.LSTM(I, H, 2, bidirectional=True, forget_bias=2.0)
    for key, p in module.named_parameters():
        if key.startswith("bias"):
            assert (p[H : 2 * H] == (2.0 if "ih" in key else 0.0)).all(), key


BAD_OPTIONS = [
    ("LSTM", {"gates": "ig"}, "gates must be 'ifo', 'io', 'fo' or 'if', got 'ig'"),
    ("LSTM", {"gates": ""}, "gates must be"),
    ("LSTM", {"gates": "iifo"}, "gates must be"),
    ("LSTM", {"gates": "i"}, "gates must be"),
    ("LSTM", {"gates": None}, "gates must be"),
    ("LSTM", {"gates": "io", "peephole": True}, "peephole needs gates='ifo', got 'io'"),
    ("LSTM", {"gates": "io", "forget_bias": 1.0}, "forget_bias needs a forget gate"),
    ("LSTM", {"bias": False, "forget_bias": 1.0}, "forget_bias needs bias=True"),
]


@pytest.mark.parametrize("suffix", ["", "Cell"])
@pytest.mark.parametrize("name, options, message", BAD_OPTIONS)
def test_bad_options(name: str, options: dict, message: str, suffix: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(fastrnn, name + suffix)(I, H, **options)


@pytest.mark.parametrize("name", ["MUT1", "MUT2", "MUT3"])
def test_mut_has_no_projection(name: str) -> None:
    with pytest.raises(ValueError, match="only supported for LSTM"):
        getattr(fastrnn, name)(I, H, proj_size=2)
    with pytest.raises(TypeError):
        fastrnn.MUT3(I, H, learned_input=True)


@variants
def test_variants_on_meta(variant: tuple) -> None:
    name, options = variant[:2]
    module = getattr(fastrnn, name)(I, H, device="meta", dtype=torch.float64, **options)
    assert all(p.is_meta for p in module.parameters())
    shape = [B, I] if is_cell(name) else [T, B, I]
    x = torch.empty(*shape, device="meta", dtype=torch.float64, requires_grad=True)
    results, real = tensors_in(module(x)), of_variant(variant)
    expected = tensors_in(real(draw(*shape)))
    assert [t.shape for t in results] == [t.shape for t in expected]
    grads = torch.autograd.grad(sum(r.sum() for r in results), [x, *module.parameters()])
    assert [g.shape for g in grads] == [x.shape, *(p.shape for p in module.parameters())]
    bare = module.to_empty(device="cpu")
    bare.load_state_dict(real.state_dict())
    assert_same(real, bare, an_input(name))


@variant_layers
def test_variants_under_autocast(variant: tuple) -> None:
    module = of_variant(variant).float()
    x = draw(T, B, I, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = tensors_in(module(x))
    expected = tensors_in(copy.deepcopy(module).bfloat16()(x.bfloat16()))
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == torch.bfloat16 and torch.equal(f, e)


@variants
def test_changes_of_variants_are_seen(variant: tuple) -> None:
    """Parametrized and replaced weights, in place of the module's own."""
    module, x = of_variant(variant), an_input(variant[0])
    name = "weight_hh" if is_cell(variant[0]) else "weight_hh_l0"
    parametrized = parametrizations.weight_norm(copy.deepcopy(module), name)
    for found, expected in zip(tensors_in(parametrized(x)), tensors_in(module(x)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    other = {k: 2 * p.detach() for k, p in module.named_parameters()}
    found = tensors_in(torch.func.functional_call(module, other, (x,)))
    module.load_state_dict(module.state_dict() | other)
    for f, e in zip(found, tensors_in(module(x)), strict=True):
        assert torch.equal(f, e)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_a_variant_knows_its_weights_in_another_type(dtype: torch.dtype) -> None:
    """Averaging or casting all of a state_dict changes the type of the name in it, too."""
    old, new = (fastrnn.GRU(3, 4, reset_after=False) for _ in range(2))
    new.load_state_dict({name: t.to(dtype) for name, t in old.state_dict().items()})
    torch.testing.assert_close(new.weight_hh_l0, old.weight_hh_l0, rtol=1e-3, atol=1e-3)
    with pytest.raises(RuntimeError, match="of another layer"):
        fastrnn.MUT3(3, 4).load_state_dict({n: t.to(dtype) for n, t in old.state_dict().items()})
    averaged = {name: 0.9 * t + (1 - 0.9) * t for name, t in old.state_dict().items()}
    new.load_state_dict(averaged)
    with pytest.raises(RuntimeError, match="of another layer"):
        fastrnn.GRU(3, 4).load_state_dict(averaged, strict=False)


def test_a_variant_loads_a_state_dict_without_data() -> None:
    with torch.device("meta"):
        old, new = (fastrnn.GRU(3, 4, reset_after=False) for _ in range(2))
    state = {name: t.to("meta") for name, t in old.state_dict().items()}
    new.load_state_dict(state, assign=True)


@pytest.mark.parametrize("reset_after", [True, False])
def test_any_extra_state_of_a_subclass_is_its_own(reset_after: bool) -> None:
    class Counting(fastrnn.GRU):
        def get_extra_state(self) -> Any:
            return torch.get_rng_state()

        def set_extra_state(self, state: Any) -> None:
            self.state = state

    module = Counting(3, 4, reset_after=reset_after)
    module.load_state_dict(module.state_dict())
    assert len(module.state) == len(torch.get_rng_state())


def test_reset_parameters_of_a_subclass_sees_the_parameters() -> None:
    class Closed(fastrnn.LSTM):
        def reset_parameters(self) -> None:
            super().reset_parameters()
            torch.nn.init.zeros_(self.weight_peephole_l0)

    assert not Closed(3, 4, peephole=True).weight_peephole_l0.any()


def test_a_variant_takes_no_projection_by_position() -> None:
    with pytest.raises(ValueError, match="proj_size"):
        fastrnn.GRU(3, 4, 1, True, False, 0.0, False, 2, reset_after=False)


def test_what_is_no_state_raises_what_torch_raises() -> None:
    """Also where nothing needs a gradient, and so nobody has looked at the states before."""
    ours, theirs = fastrnn.LSTM(4, 5), nn.LSTM(4, 5)
    for module in (ours, theirs):
        module.requires_grad_(False)
        with pytest.raises(AttributeError, match="dim"):
            module(torch.randn(3, 2, 4), (None, None))


def test_what_changed_later_and_does_not_fit_is_named() -> None:
    rnn = fastrnn.RNN(4, 5)
    rnn.nonlinearity = "sine"
    with pytest.raises(RuntimeError, match="Unknown nonlinearity: sine"):
        rnn(torch.randn(3, 2, 4))
    gru = fastrnn.GRU(4, 5)
    gru.weight_ih_l0 = nn.Parameter(torch.randn(15, 6))
    with pytest.raises(RuntimeError, match="input_size"):
        gru(torch.randn(3, 2, 6))
