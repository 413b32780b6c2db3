"""Streams: what they give in any cuts, which states they keep, and what they refuse."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cases import tensors_in
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import fastrnn

T, B, I, H = 13, 3, 6, 6  # noqa: E741
CUTS = {
    "steps": [0] * T,  # without time
    "chunks of one": [1] * T,
    "unequal": [5, 0, 1, 6],
    "whole": [13],
}
cuts = pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)

LAYERS = {
    "LSTM": lambda **how: fastrnn.LSTM(I, H, **how),
    "LSTM-2": lambda **how: fastrnn.LSTM(I, H, 2, **how),
    "LSTM-proj": lambda **how: fastrnn.LSTM(I, H, 2, proj_size=4, **how),
    "LSTM-f": lambda **how: fastrnn.LSTM(I, H, gates="io", **how),
    "LSTM-peephole": lambda **how: fastrnn.LSTM(I, H, peephole=True, **how),
    "GRU": lambda **how: fastrnn.GRU(I, H, **how),
    "GRU-before": lambda **how: fastrnn.GRU(I, H, 2, reset_after=False, **how),
    "RNN": lambda **how: fastrnn.RNN(I, H, 3, "relu", **how),
    "MUT1": lambda **how: fastrnn.MUT1(I, H, **how),
    "MUT2": lambda **how: fastrnn.MUT2(I, H, **how),
    "MUT3": lambda **how: fastrnn.MUT3(I, H, **how),
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)


class Model(nn.Module):
    """Several layers of both orders between others, which passes no states on."""

    def __init__(self, package: Any = fastrnn) -> None:
        super().__init__()
        self.into = nn.Linear(I, 5)
        self.blocks = nn.ModuleList([package.GRU(5, 7), package.LSTM(7, 4, 2)])
        self.top = package.RNN(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for block in self.blocks:
            x = block(input=x)[0].tanh()
        # A step has no time to transpose.
        y = self.top(x.transpose(0, 1))[0].transpose(0, 1) if x.dim() == 3 else self.top(x)[0]
        return y.exp()


NAMES = ["blocks.0", "blocks.1", "top"]


class OneLayer(nn.Module):
    """Calls its layer as it is told."""

    def __init__(self, layer: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.layer, self.call = layer, call

    def forward(self, x: Any) -> Any:
        return self.call(self.layer, x)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def parts(x: Tensor, cut: list[int], time: int = 0) -> Iterator[Tensor]:
    """x in chunks of these sizes; 0 is a step without time."""
    start = 0
    for size in cut:
        if size:
            yield x.narrow(time, start, size)
        else:
            yield x.select(time, start)
        start += size or 1
    assert start == x.shape[time]


def fed(stream: fastrnn.Stream, x: Tensor, cut: list[int], time: int = 0) -> Tensor:
    outputs = [stream(part) for part in parts(x, cut, time)]
    chunks = [y if size else y.unsqueeze(time) for y, size in zip(outputs, cut, strict=True)]
    return torch.cat(chunks, time)


def assert_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), list(expected.values())
    found, expected = flat(found), flat(expected)
    assert len(found) == len(expected) > 0
    for f, e in zip(found, expected):
        assert f.dtype == e.dtype and torch.equal(f, e)


def flat(states: Any) -> list[Tensor]:
    return [t for s in (states if isinstance(states, list) else [states]) for t in tensors_in(s)]


# ---- what a stream gives -------------------------------------------------------------------------


@cuts
@layers
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("batch", [1, B, 20])
def test_a_layer_gives_the_bits_of_the_whole(
    make: Callable[..., nn.Module], cut: list[int], batch_first: bool, batch: int
) -> None:
    layer, time = make(batch_first=batch_first), int(batch_first)
    x = torch.randn(*((batch, T) if batch_first else (T, batch)), I)
    y, last = layer(x)
    stream = fastrnn.Stream(layer, batch)
    assert torch.equal(fed(stream, x, cut, time), y)
    assert_equal(stream.state, last)


@cuts
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_give_the_bits_of_the_whole(dtype: torch.dtype, cut: list[int]) -> None:
    layer, x = fastrnn.GRU(I, H, 2, dtype=dtype), torch.randn(T, B, I, dtype=dtype)
    y, last = layer(x)
    stream = fastrnn.Stream(layer, B)
    assert torch.equal(fed(stream, x, cut), y)
    assert_equal(stream.state, last)


@cuts
@pytest.mark.parametrize("name", ["LSTM", "GRU", "MUT2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_gives_the_bits_of_calls_with_states(
    name: str, dtype: torch.dtype, cut: list[int]
) -> None:
    layer = fastrnn.quantize_(getattr(fastrnn, name)(I, H, 2).eval())
    x, outputs, hx = torch.randn(T, B, I, dtype=dtype), [], None
    for part in parts(x, [size or 1 for size in cut]):
        y, hx = layer(part, hx)
        outputs.append(y)
    stream = fastrnn.Stream(layer, B)
    assert torch.equal(fed(stream, x, cut), torch.cat(outputs))
    assert_equal(stream.state, hx)


@cuts
@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_torchs_layers(name: str, cut: list[int]) -> None:
    layer, x = getattr(nn, name)(I, H, 2, dtype=torch.float64), torch.randn(T, B, I).double()
    y, last = layer(x)
    stream = fastrnn.Stream(layer, B)
    torch.testing.assert_close(fed(stream, x, cut), y)
    torch.testing.assert_close(stream.state, last)


@cuts
def test_a_model_gives_the_bits_of_the_whole(cut: list[int]) -> None:
    # Linear is not of ours: only with one step in all calls has it the bits of itself.
    model, x = Model(), torch.randn(T, B, I)
    model.into = nn.Identity()
    model.blocks[0] = fastrnn.GRU(I, 7)
    stream = fastrnn.Stream(model, B)
    assert torch.equal(fed(stream, x, cut), model(x))
    expected, y = {}, x
    for name in NAMES:
        layer = model.get_submodule(name)
        y, expected[name] = layer(y.transpose(0, 1) if name == "top" else y)
        y = y.tanh()
    assert_equal(stream.state, expected)


@cuts
def test_a_model_of_torchs_layers_and_its_conversion(cut: list[int]) -> None:
    model, x = Model(nn).double(), torch.randn(T, B, I).double()
    expected = model(x)
    stream = fastrnn.Stream(model, B)
    torch.testing.assert_close(fed(stream, x, cut), expected)
    stream.reset()
    half = stream(x[:5])
    fastrnn.convert(model)  # in between: the states stay
    torch.testing.assert_close(torch.cat([half, stream(x[5:])]), expected)


@pytest.mark.parametrize("make", [Model, LAYERS["LSTM-proj"]], ids=["model", "layer"])
def test_a_row_without_a_batch(make: Callable[..., nn.Module]) -> None:
    model, x = make(), torch.randn(T, 1, I)
    one, batched = fastrnn.Stream(model), fastrnn.Stream(model, 1)
    for step in x:
        found, expected = one(step[0]), batched(step)
        assert found.dim() == 1 and torch.equal(found, expected[0])
    assert_equal(one.state, batched.state)


def test_lengths_and_resets_go_to_the_layer() -> None:
    layer, x = fastrnn.LSTM(I, H, 2), torch.randn(T, B, I)
    resets = torch.rand(T, B) < 0.3
    y, last = layer(x, resets=resets)
    stream = fastrnn.Stream(layer, B)
    found = [stream(x[:4], resets=resets[:4]), stream(input=x[4:], resets=resets[4:])]
    assert torch.equal(torch.cat(found), y)
    assert_equal(stream.state, last)

    # Rows of which different numbers of steps have come.
    lengths = torch.tensor([4, 0, 2])
    stream.reset()
    stream(x[:4], lengths=lengths)
    for row, n in enumerate(lengths):
        if n:
            _, last = layer(x[:n, row : row + 1])
        for s, e in zip(stream.state, last):
            assert torch.equal(s[:, row : row + 1], e if n else torch.zeros_like(e))

    stream.reset()
    y, every = stream(x, return_states=True)
    assert_equal(every, layer(x, return_states=True)[2])


def test_the_next_call_sees_changed_weights() -> None:
    layer, x = fastrnn.GRU(I, H), torch.randn(2, B, I)
    stream = fastrnn.Stream(layer, B)
    stream(x[0])
    state = stream.state
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    assert torch.equal(stream(x[1]), layer(x[1:], state)[0][0])


def test_calls_have_no_gradients_and_leave_the_mode() -> None:
    model = Model().train()
    stream = fastrnn.Stream(model, B)
    y = stream(torch.randn(B, I).requires_grad_())
    assert not y.requires_grad and not y.is_inference()
    assert not any(s.requires_grad for s in flat(list(stream.state.values())))
    assert model.training and torch.is_grad_enabled()
    with torch.inference_mode():
        stream(torch.randn(B, I))
    stream(torch.randn(B, I))
    stream.reset(0)


def test_autocast_goes_on_in_its_type() -> None:
    model, x = Model(), torch.randn(T, B, I)
    model.into, model.blocks[0] = nn.Identity(), fastrnn.GRU(I, 7)
    model.blocks[1] = fastrnn.GRU(7, 4)
    stream = fastrnn.Stream(model, B)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fed(stream, x, CUTS["unequal"]), model(x))


def test_a_layer_that_a_call_leaves_out_keeps_its_states() -> None:
    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fast, self.slow = fastrnn.GRU(I, I), fastrnn.GRU(I, H)

        def forward(self, x: Tensor, both: bool) -> Tensor:
            y = self.fast(x)[0]
            return self.slow(y)[0] if both else y

    model, x = Slow(), torch.randn(T, B, I)
    stream = fastrnn.Stream(model, B)
    ys = torch.cat([stream(step[None], both=i % 2 == 0) for i, step in enumerate(x)])
    y = model.fast(x)[0]
    assert torch.equal(ys[1::2], y[1::2])
    assert torch.equal(ys[::2], model.slow(y[::2])[0])


# ---- states --------------------------------------------------------------------------------------


@layers
def test_states_begin_as_zeros_in_the_form_of_hx(make: Callable[..., nn.Module]) -> None:
    layer, x = make(dtype=torch.float64), torch.randn(1, B, I).double()
    stream = fastrnn.Stream(layer, B)
    state = stream.state
    assert not any(s.any() for s in flat(state))
    _, last = layer(x, state)  # which has the shapes and the type that it takes
    assert [s.shape for s in flat(state)] == [s.shape for s in flat(last)]
    stream(x)
    assert_equal(stream.state, last)
    stream.reset()
    assert_equal(stream.state, state)


ROWS = {
    "a number": (1, [1]),
    "from the end": (-1, [2]),
    "numbers": ([2, 0], [2, 0]),
    "none": ([], []),
    "a slice": (slice(1, None), [1, 2]),
    "bools": ([True, False, True], [0, 2]),
    "a mask": (torch.tensor([True, True, False]), [0, 1]),
    "no one": (torch.zeros(3, dtype=torch.bool), []),
    "indices": (torch.tensor([2, 1]), [2, 1]),
    "an index": (torch.tensor(2), [2]),
    "all": (None, [0, 1, 2]),
}


@pytest.mark.parametrize("rows, numbers", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("make", [Model, LAYERS["GRU"], LAYERS["LSTM-proj"]])
def test_reset_sets_rows(make: Callable[..., nn.Module], rows: Any, numbers: list[int]) -> None:
    model = make()
    stream, other = fastrnn.Stream(model, B), fastrnn.Stream(model, B)
    stream(torch.randn(4, B, I))
    other(torch.randn(2, B, I))
    before, given = stream.state, other.state

    def parts_of(state: Any) -> list[Tensor]:
        return flat(list(state.values()) if isinstance(state, dict) else state)

    def pick(state: Any) -> Any:
        """Of the rows that are set, in their order."""
        if isinstance(state, dict):
            return {name: pick(s) for name, s in state.items()}
        return tuple(map(pick, state)) if isinstance(state, tuple) else state[:, numbers]

    stream.reset(rows)
    for now, old in zip(parts_of(stream.state), parts_of(before), strict=True):
        for row in range(B):
            expected = torch.zeros_like(old[:, row]) if row in numbers else old[:, row]
            assert torch.equal(now[:, row], expected)

    stream.state = before
    stream.reset(rows, to=pick(given))
    for now, old, new in zip(*map(parts_of, (stream.state, before, given)), strict=True):
        for row in range(B):
            assert torch.equal(now[:, row], (new if row in numbers else old)[:, row])


def test_a_row_that_begins_anew_gives_what_it_gives_alone() -> None:
    model, x = Model(), torch.randn(9, B, I)
    model.into, model.blocks[0] = nn.Identity(), fastrnn.GRU(I, 7)
    stream = fastrnn.Stream(model, B)
    stream(x[:4])
    stream.reset(1)
    y = stream(x[4:])
    assert torch.equal(y[:, 1], model(x[4:])[:, 1])
    assert torch.equal(y[:, [0, 2]], model(x)[4:, [0, 2]])


def test_one_state_for_all_rows_and_rows_before_any_call() -> None:
    layer = fastrnn.LSTM(I, H)
    stream, start = fastrnn.Stream(layer, B), (torch.randn(1, 1, H), torch.randn(1, 1, H))
    stream.reset(2)
    assert not any(s.any() for s in stream.state)
    stream.reset([0, 2], to=start)
    for s, one in zip(stream.state, start):
        assert torch.equal(s, torch.cat([one, torch.zeros_like(one), one], 1))


@pytest.mark.parametrize("make", [Model, LAYERS["LSTM"]], ids=["model", "layer"])
def test_state_is_a_copy_both_ways(make: Callable[..., nn.Module]) -> None:
    model, x = make(), torch.randn(6, B, I)
    stream = fastrnn.Stream(model, B)
    stream(x[:3])
    saved = stream.state
    expected = stream(x[3:])
    stream.state = saved
    for s in flat(list(saved.values()) if isinstance(saved, dict) else saved):
        s.fill_(7)
    for s in flat(list(stream.state.values()) if isinstance(saved, dict) else stream.state):
        s.fill_(7)
    assert torch.equal(stream(x[3:]), expected)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("make", [Model, LAYERS["LSTM"]], ids=["model", "layer"])
def test_copies_go_on_by_themselves(make: Callable[..., nn.Module], how: Callable) -> None:
    x = torch.randn(3, B, I)
    stream = fastrnn.Stream(make(), B)
    stream(x[0])
    other = how(stream)
    y = stream(x[1])
    stream(x[2])
    assert torch.equal(other(x[1]), y)


def test_streams_share_a_model_that_stays_as_it_was() -> None:
    model, x = Model(), torch.randn(T, B, I)
    streams = [fastrnn.Stream(model, B), fastrnn.Stream(model, 1)]
    expected = [fed(fastrnn.Stream(model, B), x, CUTS["steps"])]
    expected.append(fed(fastrnn.Stream(model, 1), x[:, :1], CUTS["steps"]))
    found = [[], []]
    for step in x:
        found[0].append(streams[0](step))
        found[1].append(streams[1](step[:1]))
        model(step[None])  # which neither takes nor leaves a state
    assert_equal([torch.stack(f) for f in found], expected)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_streams_share_a_model_in_threads() -> None:
    model, x = Model(), torch.randn(60, 4, I)
    expected = [torch.stack([*map(fastrnn.Stream(model), x[:, i])]) for i in range(4)]
    found: list[Any] = [None] * 4
    start = threading.Barrier(4)

    def work(i: int) -> None:
        stream = fastrnn.Stream(model)
        start.wait()
        found[i] = torch.stack([*map(stream, x[:, i])])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_equal(found, expected)


def test_hooks_of_others_see_what_the_layer_sees() -> None:
    model, seen = Model(), []
    model.top.register_forward_hook(lambda m, inputs, out: seen.append(out[0].shape))
    model.top.register_forward_pre_hook(lambda m, inputs: (inputs[0] + 1,))
    stream, x = fastrnn.Stream(model, B), torch.randn(4, B, I)
    y = torch.stack([stream(step) for step in x])
    assert seen == [(B, 3)] * 4
    torch.testing.assert_close(y, model(x))


# ---- what it refuses -----------------------------------------------------------------------------


def compiled_inside() -> nn.Module:
    return OneLayer(torch.compile(fastrnn.GRU(I, H)), lambda layer, x: layer(x))


def compiled_in_place() -> nn.Module:
    model = Model()
    model.compile()
    return model


MODELS = {
    "bidirectional": (
        lambda: nn.Sequential(nn.Linear(I, I), fastrnn.GRU(I, H, bidirectional=True)),
        "the layer '1' is bidirectional: its outputs need the end",
    ),
    "a bidirectional layer": (
        lambda: nn.LSTM(I, H, bidirectional=True),
        "^the layer is bidirectional",
    ),
    "a cell": (lambda: nn.ModuleDict({"a": fastrnn.GRUCell(I, H)}), "the module 'a' is a cell"),
    "torch's cell": (lambda: nn.LSTMCell(I, H), "^the module is a cell"),
    "scripted": (
        lambda: OneLayer(torch.jit.script(nn.GRU(I, H)), lambda layer, x: layer(x)),
        "the module 'layer' is a .*GRU",
    ),
    "torch.ao's": (
        lambda: torch.ao.nn.quantizable.LSTM(I, H),
        "^the module is a torch.ao",
    ),
    "compiled": (lambda: torch.compile(fastrnn.GRU(I, H)), "^the module is compiled"),
    "compiled inside": (compiled_inside, "the module 'layer' is compiled"),
    "compiled in place": (compiled_in_place, "^the module is compiled"),
    "no layer": (lambda: nn.Linear(I, H), "no recurrent layer in this Linear"),
}


@pytest.mark.parametrize("make, message", MODELS.values(), ids=MODELS)
def test_models_that_it_refuses(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fastrnn.Stream(make(), B)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_it_refuses_no_rows(batch_size: int) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        fastrnn.Stream(fastrnn.GRU(I, H), batch_size)


def twice(layer: nn.Module, x: Tensor) -> Tensor:
    return layer(layer(x)[0])[0]


CALLS = {
    "twice": (twice, lambda: torch.randn(B, I), "the layer 'layer' was called twice"),
    "hx": (
        lambda layer, x: layer(x, torch.zeros(1, B, H)),
        lambda: torch.randn(2, B, I),
        "the layer 'layer' was given an hx",
    ),
    "hx by name": (
        lambda layer, x: layer(x, hx=torch.zeros(1, B, H)),
        lambda: torch.randn(2, B, I),
        "the layer 'layer' was given an hx",
    ),
    "forward": (
        lambda layer, x: layer.forward(x),
        lambda: torch.randn(2, B, I),
        "called none of its recurrent layers",
    ),
    "rows of a step": (
        lambda layer, x: layer(x),
        lambda: torch.randn(B + 1, I),
        r"'layer' was given a step \[B, I\] of 4 rows, and batch_size is 3",
    ),
    "rows of a chunk": (
        lambda layer, x: layer(x),
        lambda: torch.randn(B, 2, I),
        r"'layer' was given a chunk \[t, B, I\] of 2 rows, and batch_size is 3",
    ),
    "no rows": (
        lambda layer, x: layer(x),
        lambda: torch.randn(I),
        r"takes a step \[B, I\] or a chunk .* got a tensor of shape \[6\]",
    ),
    "packed": (
        lambda layer, x: layer(x),
        lambda: pack_sequence([torch.randn(2, I)] * B),
        "takes a step .* got PackedSequence",
    ),
    "nested": (
        lambda layer, x: layer(x),
        lambda: torch.nested.nested_tensor([torch.randn(2, I)] * B, layout=torch.jagged),
        "takes a step .* got NestedTensor",
    ),
    "nothing": (lambda layer, x: layer(None), lambda: None, "got NoneType"),
}


@pytest.mark.parametrize("call, x, message", CALLS.values(), ids=CALLS)
def test_calls_that_it_refuses(call: Callable, x: Callable, message: str) -> None:
    model = OneLayer(fastrnn.GRU(I, H), call)
    stream = fastrnn.Stream(model, B)
    with pytest.raises(RuntimeError, match=message):
        stream(x())
    assert not model.layer._forward_hooks and not model.layer._forward_pre_hooks


def test_a_layer_refuses_hx_and_other_features() -> None:
    stream = fastrnn.Stream(fastrnn.GRU(I, H), B)
    for args, options in (((torch.zeros(1, B, H),), {}), ((), {"hx": torch.zeros(1, B, H)})):
        with pytest.raises(RuntimeError, match=r"^the layer was given an hx"):
            stream(torch.randn(2, B, I), *args, **options)
    with pytest.raises(RuntimeError, match="must be equal to input_size"):
        stream(torch.randn(B, I + 1))


def test_a_call_that_raises_leaves_the_states() -> None:
    model, x = Model(), torch.randn(3, B, I)
    stream = fastrnn.Stream(model, B)
    stream(x[0])
    before = stream.state
    model.top.forward = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        stream(x[1])
    assert_equal(stream.state, before)
    del model.top.forward
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    other = fastrnn.Stream(model, B)
    other.state = before
    assert torch.equal(stream(x[1]), other(x[1]))


def test_a_stream_within_a_stream_is_refused() -> None:
    layer = fastrnn.GRU(I, H)
    inner = fastrnn.Stream(layer, B)
    model = OneLayer(layer, lambda layer, x: inner(x))
    with pytest.raises(RuntimeError, match=r"was given an hx|called twice"):
        outer = fastrnn.Stream(model, B)
        outer(torch.randn(B, I))
        outer(torch.randn(B, I))


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape)


STATES = {
    "a tensor": ("LSTM", None, zeros(1, B, H), TypeError, r"takes a tuple \(h, c\)"),
    "a tuple": ("GRU", None, (zeros(1, B, H),), TypeError, "takes a tensor .* got a tuple"),
    "one of two": ("LSTM", None, (zeros(1, B, H),), ValueError, "takes 2 states, got 1"),
    "a shape": ("GRU", None, zeros(1, B, 5), ValueError, r"shape \[1, 3, 6\], got \[1, 3, 5\]"),
    "rows": ("GRU", [0, 1], zeros(1, B, H), ValueError, r"shape \[1, 2, 6\], got \[1, 3, 6\]"),
    "no dict": ("Model", None, zeros(1, B, H), TypeError, "a dict by layers, got a Tensor"),
    "names": ("Model", None, {"top": zeros(1, B, 3)}, ValueError, "the layers are"),
    "no such row": ("GRU", 3, zeros(1, 1, H), IndexError, "out of bounds"),
    "rows to zeros": ("GRU", [0, 7], None, IndexError, "out of bounds"),
    "a mask": ("GRU", [True] * 4, None, IndexError, "mask"),
}


@pytest.mark.parametrize("name, rows, to, error, message", STATES.values(), ids=STATES)
def test_states_that_it_refuses(name: str, rows: Any, to: Any, error: Any, message: str) -> None:
    stream = fastrnn.Stream(Model() if name == "Model" else LAYERS[name](), B)
    stream(torch.randn(B, I))
    before = stream.state
    with pytest.raises(error, match=message):
        stream.reset(rows, to=to)
    assert_equal(stream.state, before)
