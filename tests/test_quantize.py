"""Weights of int8: products, layers against a reference that quantises alike, and the modules."""

from __future__ import annotations

import copy
import io
import os
import pickle
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from calls import Program
from pieces import start
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import fastrnn
from fastrnn import functional, ops, quantization, reference
from fastrnn.quantization import Quantized, dequantize, pack, quantize_, quantize_rows, unpack
from fastrnn.reference import Inputs

ISAS = torch.ops.fastrnn.cpu_isas().split(": ")[1].split()
WIDTHS = ("baseline", "avx2", "avx512", "avx512_vnni")
LANES = {"baseline": 4, "avx2": 8}


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FASTRNN_ISA", request.param)
    return request.param


# ---- products ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pieces(pytestconfig: pytest.Config) -> Iterator[Program]:
    with start(pytestconfig.cache.mkdir("pieces")) as program:
        yield program


def _integers(generator: np.random.Generator, rows: int, columns: int, kind: str) -> np.ndarray:
    """Of [-127, 127], where each row has one of the two ends, so that its scale is exactly 1."""
    if kind == "extreme":  # where 16 bits would saturate
        return np.where(generator.random((rows, columns)) < 0.9, 127, -127)
    drawn = generator.integers(-127, 128, (rows, columns))
    drawn[:, generator.integers(columns)] = generator.choice([-127, 127], rows)
    return drawn


@pytest.mark.parametrize("width", WIDTHS)
def test_products_are_exact(pieces: Program, width: str) -> None:
    call, lanes = getattr(pieces, f"int8_weights_{width}"), LANES.get(width, 16)
    generator = np.random.default_rng(0)
    parts = [(1, 0, 1), (4, 0, 4), (3, 1, 2)] * 3  # gates of a matrix, and which of them
    depths = [(depth, "drawn") for depth in (1, 3, 4, 5, 31, 32, 33, 130)]
    for (depth, kind), units in product([*depths, (64, "extreme"), (700, "extreme")], (1, 16, 33)):
        for rows, (gates, first, count) in zip((1, 2, 3, 7, 8, 9, 17), parts):
            a = _integers(generator, rows, depth, kind)
            b = _integers(generator, gates * units, depth, kind)
            packed = pack(torch.from_numpy(b).to(torch.int8), gates).numpy().view(np.uint8)
            scale = generator.choice([0.5, 1, 2], gates * units).astype(np.float32)
            bias = generator.integers(-8, 8, gates * units).astype(np.float32)
            found = call(a.astype(np.float32), packed, scale, bias, first, count)
            found = found.reshape(rows, -1, count, lanes).transpose(0, 2, 1, 3)
            found = found.reshape(rows, count, -1)[:, :, :units]
            exact = (a.astype(np.int64) @ b.astype(np.int64).T).astype(np.float32)
            expected = (exact * scale + bias).reshape(rows, gates, units)
            np.testing.assert_array_equal(found, expected[:, first : first + count])


@pytest.mark.parametrize("width", WIDTHS)
def test_the_longest_sums_fit(pieces: Program, width: str) -> None:
    depth = quantization.LONGEST
    q, one = torch.full((1, depth), 127, dtype=torch.int8), np.ones(1, np.float32)
    packed = pack(q, 1).numpy().view(np.uint8)
    for sign in (1, -1):
        a = np.full((1, depth), 127 * sign, np.float32)
        found = getattr(pieces, f"int8_weights_{width}")(a, packed, one, 0 * one, 0, 1)
        assert found[0, 0] == np.float32(sign * 127 * 127 * depth)


def test_packing_is_invertible_and_holds_the_sums() -> None:
    for gates, units, columns in product((1, 3, 4), (1, 16, 37), (1, 4, 7, 64)):
        q = torch.randint(-127, 128, (gates * units, columns), dtype=torch.int8)
        packed = pack(q, gates)
        assert packed.shape == (-(-units // 16), gates, (-(-columns // 4) + 1) * 64)
        assert torch.equal(unpack(packed, units, columns), q)
        sums = packed[:, :, -64:].contiguous().view(torch.int32).transpose(0, 1).flatten(1)
        assert torch.equal(sums[:, :units].flatten(), q.sum(1, dtype=torch.int32))
        assert packed.count_nonzero() <= q.count_nonzero() + 4 * q.sum(1).count_nonzero()


def test_rows_are_quantised_to_nearest() -> None:
    w = torch.randn(20, 33)
    w[3] = 0
    q, scale = quantize_rows(w)
    assert torch.equal(q.abs().amax(1), torch.where(w.abs().amax(1) > 0, 127, 0).to(torch.int8))
    assert ((q * scale[:, None] - w).abs() <= scale[:, None] * 0.5001).all()
    packed = pack(q, 4)
    torch.testing.assert_close(dequantize(packed, scale, 33), q * scale[:, None], rtol=0, atol=0)


# ---- layers --------------------------------------------------------------------------------------


def _quantised_rows(a: Tensor) -> Tensor:
    """What a product makes of what it multiplies."""
    largest = a.abs().amax(-1, keepdim=True)
    return (a * (127 / largest).where(largest > 1e-36, 0.0)).round() * (largest / 127)


def _linear(a: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found = _quantised_rows(a.float()).double() @ weight.double().T
    return (found if bias is None else found + bias).float()


class Layer:
    """A layer of the functional interface: float32 weights, and what is made of them."""

    def __init__(self, cell: str, inputs: int, hidden: int, **options: Any) -> None:
        generator = torch.Generator().manual_seed(inputs + hidden)
        self.cell, self.info = cell, ops.CELLS[cell]
        self.bidirectional = options.pop("bidirectional", False)
        shapes = self.info.shapes(inputs, hidden, **options)
        self.weights: list[Tensor] = []  # what the products see, dequantised
        self.packed: list[Tensor] = []
        self.scales: list[Tensor] = []
        for _ in range(2 if self.bidirectional else 1):
            for name, shape in shapes.items():
                w = torch.randn(shape, generator=generator) / hidden**0.5
                if len(shape) == 1:
                    self.weights.append(w)
                    self.packed.append(w)
                    continue
                q, scale = quantize_rows(w)
                units = shape[0] if name == "weight_hr" else hidden
                self.packed.append(pack(q, shape[0] // units))
                self.scales.append(scale)
                self.weights.append(q * scale[:, None])
        sizes = [options.get("proj_size") or hidden] + [hidden] * (self.info.states - 1)
        self.sizes = sizes

    def __call__(self, x: Tensor, states: Sequence[Tensor] = (), **how: Any) -> reference.Output:
        with torch.no_grad():
            return functional.layer(
                self.cell,
                x,
                states,
                self.packed,
                scales=self.scales,
                bidirectional=self.bidirectional,
                all_states=True,
                **how,
            )

    def states(self, batch: int, scale: float = 1.0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(batch)
        directions = 2 if self.bidirectional else 1
        return [
            scale * torch.randn(directions, batch, size, generator=generator) for size in self.sizes
        ]


FORMS = [
    *((cell, {}) for cell in ops.CELLS),
    *((cell, {"proj_size": 9}) for cell, info in ops.CELLS.items() if info.projects),
    *((cell, {"bias": False}) for cell in ("lstm", "gru", "rnn_relu")),
    *((cell, {"takes_x": True}) for cell, info in ops.CELLS.items() if info.takes_x),
]
# Whose products read nothing that a step itself computes: one rounding of a float32 cannot move an
# integer there.
ONE_PHASE = ("lstm", "lstm_i", "lstm_f", "lstm_o", "lstm_peephole", "gru", "rnn_tanh", "rnn_relu")


@pytest.mark.parametrize("cell, options", FORMS, ids=lambda v: str(v).replace(" ", ""))
def test_every_step_is_the_references(
    isa: str, cell: str, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step from the states that the kernel itself had before it."""
    monkeypatch.setattr(reference, "linear", _linear)
    tight = 0
    sizes = [(1, 5, 7), (2, 16, 16), (3, 33, 17), (8, 4, 64), (17, 70, 37)]
    for batch, inputs, hidden in sizes:
        if options.get("takes_x"):
            inputs = hidden
        layer = Layer(cell, inputs, hidden, **options)
        x = torch.randn(4, batch, inputs, generator=torch.Generator().manual_seed(1))
        states = layer.states(batch, 3.0)
        y, last, steps = layer(x, states)
        every = [y, *steps]
        for t in range(len(x)):
            before = states if t == 0 else [s[t - 1][None] for s in every]
            expected = reference.scan(Inputs(cell, x[t][None], before, layer.weights))
            for found, wanted in zip(every, (expected.y, *expected.steps), strict=True):
                error = (found[t] - wanted[0]).abs().amax(-1)
                tight += int((error < 4e-6).sum()) - len(error)
                # An operand's integer that is one off.
                assert error.max() < 0.03
        for end, sequence in zip(last, every, strict=True):
            assert torch.equal(end[0], sequence[-1])
    one_phase = cell in ONE_PHASE and "proj_size" not in options
    assert tight == 0 if one_phase else tight > -20


def test_the_reference_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without quantisation of x and h it is farther away than the tolerance."""
    layer = Layer("lstm", 33, 17)
    x = torch.randn(1, 3, 33)
    y = layer(x).y
    expected = reference.scan(Inputs("lstm", x, (), layer.weights)).y
    assert (y - expected).abs().max() > 1e-4


@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_before", "mut1", "rnn_relu"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_16_bit_input_is_what_float32_input_is_but_rounded(
    isa: str, cell: str, dtype: torch.dtype
) -> None:
    layer = Layer(cell, 19, 37)
    x = torch.randn(1, 5, 19, generator=torch.Generator().manual_seed(1)).to(dtype)
    states = [s.to(dtype) for s in layer.states(5)]
    found = layer(x, states)
    expected = layer(x.float(), [s.float() for s in states])
    assert found.y.dtype == dtype and {s.dtype for s in found.steps} <= {torch.float32}
    for a, b in zip((found.y, *found.last), (expected.y, *expected.last), strict=True):
        if cell in ONE_PHASE:
            assert torch.equal(a, b.to(dtype))
        else:
            torch.testing.assert_close(a.float(), b, rtol=2e-2, atol=2e-2)


def test_peepholes_follow_the_type_of_x(isa: str) -> None:
    layer = Layer("lstm_peephole", 19, 37)
    x = torch.randn(1, 5, 19, generator=torch.Generator().manual_seed(1)).bfloat16()
    rounded = copy.copy(layer)
    rounded.packed = [*layer.packed[:-1], layer.packed[-1].bfloat16().float()]
    assert torch.equal(layer(x).y, rounded(x.float()).y.bfloat16())


def test_instruction_sets_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer("lstm", 70, 37)
    x, states = torch.randn(1, 9, 70), layer.states(9)
    found = []
    for isa in ISAS:
        monkeypatch.setenv("FASTRNN_ISA", isa)
        found.append(layer(x, states).y)
    for y in found[1:]:
        torch.testing.assert_close(y, found[0], rtol=0, atol=2e-6)


CELLS = ("lstm", "gru", "gru_before", "mut2", "rnn_tanh")


@pytest.mark.parametrize("cell", CELLS)
def test_bits_do_not_depend_on_threads_batches_or_chunks(isa: str, cell: str) -> None:
    threads = torch.get_num_threads()
    for batch, inputs, hidden in ((1, 40, 200), (3, 7, 130), (70, 20, 50)):
        layer = Layer(cell, inputs, hidden, bidirectional=True)
        x, states = torch.randn(12, batch, inputs), layer.states(batch)
        try:
            runs = []
            for count in (1, 2, 3, 5):
                torch.set_num_threads(count)
                runs.append(layer(x, states))
        finally:
            torch.set_num_threads(threads)
        for run in runs[1:]:
            for a, b in zip((run.y, *run.last, *run.steps), _all(runs[0]), strict=True):
                assert torch.equal(a, b)
        for row in range(min(batch, 3)):
            alone = layer(x[:, row : row + 1], [s[:, row : row + 1] for s in states])
            assert torch.equal(alone.y, runs[0].y[:, row : row + 1])
        # Chunks go forward, so one direction alone.
        layer = Layer(cell, inputs, hidden)
        whole, states = layer(x, layer.states(batch)), layer.states(batch)
        parts = []
        for chunk in x.split([1, 2, 9]):
            y, states, _ = layer(chunk, states)
            parts.append(y)
        assert torch.equal(torch.cat(parts), whole.y)
        assert all(map(torch.equal, states, whole.last))


def _all(out: reference.Output) -> tuple[Tensor, ...]:
    return (out.y, *out.last, *out.steps)


@pytest.mark.parametrize("cell", CELLS)
def test_lengths_packed_batches_and_resets(isa: str, cell: str) -> None:
    layer = Layer(cell, 11, 21, bidirectional=True)
    lengths = torch.tensor([7, 7, 5, 2, 1])
    x, states = torch.randn(7, 5, 11), layer.states(5)
    found = layer(x, states, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = layer(x[:length, row : row + 1], [s[:, row : row + 1] for s in states])
        assert torch.equal(found.y[:length, row], alone.y[:, 0])
        assert not found.y[length:, row].any()
        for a, b in zip(found.last, alone.last, strict=True):
            assert torch.equal(a[:, row], b[:, 0])
    packed = pack_padded_sequence(x, lengths)
    y = layer(packed.data, states, batch_sizes=packed.batch_sizes).y
    assert torch.equal(y, pack_padded_sequence(found.y, lengths).data)
    swapped = layer(x.transpose(0, 1), states, lengths=lengths, batch_first=True)
    assert torch.equal(swapped.y.transpose(0, 1), found.y)
    one = Layer(cell, 11, 21)
    resets = torch.zeros(7, 5, dtype=torch.bool)
    resets[3] = True
    whole = one(x, one.states(5), resets=resets).y
    assert torch.equal(whole[3:], one(x[3:]).y)


def test_single_steps(isa: str) -> None:
    layer = Layer("gru", 11, 21)
    x, (h,) = torch.randn(5, 11), layer.states(5)
    assert torch.equal(layer(x, [h[0]]).y, layer(x[None], [h]).y[0])


def test_rows_that_are_not_finite_stay_alone(isa: str) -> None:
    layer = Layer("gru", 11, 21)
    x = torch.randn(1, 4, 11)
    clean = layer(x).y
    x[0, 1, 3], x[0, 2, 10] = float("nan"), float("inf")
    y = layer(x).y
    assert y[0, 1].isnan().all() and y[0, 2].isnan().all()
    assert torch.equal(y[0, [0, 3]], clean[0, [0, 3]])


def test_zeros_and_tiny_rows(isa: str) -> None:
    layer = Layer("lstm", 11, 21)
    zeros = layer(torch.zeros(1, 2, 11)).y
    assert zeros.isfinite().all()
    for tiny in (1e-45, 1e-38, 1e-35):
        torch.testing.assert_close(layer(torch.full((1, 2, 11), tiny)).y, zeros, rtol=0, atol=1e-30)


# ---- modules -------------------------------------------------------------------------------------

MODULES = [
    (nn.LSTM, {}),
    (nn.LSTM, {"num_layers": 2, "bidirectional": True, "proj_size": 3}),
    (nn.GRU, {"num_layers": 3, "batch_first": True}),
    (nn.RNN, {"nonlinearity": "relu", "bias": False}),
    (fastrnn.LSTM, {"peephole": True, "bidirectional": True}),
    (fastrnn.LSTM, {"gates": "io", "num_layers": 2}),
    (fastrnn.GRU, {"reset_after": False}),
    (fastrnn.GRU, {"bidirectional": True, "num_layers": 2, "dropout": 0.5}),
    (fastrnn.RNN, {}),
    (fastrnn.MUT1, {"num_layers": 2}),
    (fastrnn.MUT2, {"learned_input": True}),
    (fastrnn.MUT3, {"bidirectional": True}),
]
EACH = pytest.mark.parametrize("kind, options", MODULES, ids=lambda v: getattr(v, "__name__", ""))


def _made(kind: type, options: dict, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return kind(7, 10, **options).eval()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, PackedSequence):
        return [value.data]
    return [value] if isinstance(value, Tensor) else [t for v in value for t in _tensors(v)]


def _equal(a: Any, b: Any) -> bool:
    return all(map(torch.equal, _tensors(a), _tensors(b)))


@EACH
def test_a_layer_is_close_to_what_it_was(kind: type, options: dict) -> None:
    layer = _made(kind, options)
    shape, x = repr(layer), torch.randn(5, 4, 7)
    expected = layer(x)
    found = quantize_(layer)
    assert found is layer and type(layer) is Quantized and isinstance(layer, nn.RNNBase)
    assert not list(layer.parameters())
    assert repr(layer) == f"Quantized{shape[:-1]}, dtype=torch.int8)"
    with torch.no_grad():
        y = layer(x)
    for a, b in zip(_tensors(y), _tensors(expected), strict=True):
        assert a.shape == b.shape
        assert 0 < (a - b).abs().max() < 0.05
    hx = y[1]
    with torch.no_grad():
        again = layer(x, hx)
        one = layer(x[:, 0] if not layer.batch_first else x[0], _first(hx))
        assert torch.equal(one[0], again[0][:, 0] if not layer.batch_first else again[0][0])
    packed = pack_sequence([x[:n, 0] for n in (1, 3, 2)], enforce_sorted=False)
    with torch.no_grad():
        y, last = layer(packed)
    assert isinstance(y, PackedSequence) and _tensors(last)[0].shape[1] == 3


def _first(hx: Any) -> Any:
    return hx[:, 0] if isinstance(hx, Tensor) else tuple(s[:, 0] for s in hx)


@EACH
def test_a_module_is_its_functional_layers(kind: type, options: dict) -> None:
    layer = quantize_(_made(kind, options | {"num_layers": 1, "batch_first": False, "dropout": 0}))
    x = torch.randn(5, 4, 7)
    names = layer._flat_weights_names
    weights = [getattr(layer, name) for name in names]
    scales = [getattr(layer, f"{name}_scale") for name in names if hasattr(layer, f"{name}_scale")]
    with torch.no_grad():
        expected = functional.layer(
            layer._cell, x, (), weights, scales=scales, bidirectional=layer.bidirectional
        )
        y, last = layer(x)
    assert _equal((y, last), (expected.y, expected.last))


@EACH
def test_saving_and_loading(kind: type, options: dict, tmp_path: Any) -> None:
    layer, x = quantize_(_made(kind, options)), torch.randn(5, 4, 7)
    with torch.no_grad():
        expected = layer(x)
        assert _equal(copy.deepcopy(layer)(x), expected)
        assert _equal(pickle.loads(pickle.dumps(layer))(x), expected)
        torch.save(layer, tmp_path / "layer.pt")
        assert _equal(torch.load(tmp_path / "layer.pt", weights_only=False)(x), expected)
        file = io.BytesIO()
        torch.save(layer.state_dict(), file)
        file.seek(0)
        state = torch.load(file)  # with weights_only
        for assign in (False, True):
            other = quantize_(_made(kind, options, seed=1))
            assert not _equal(other(x), expected)
            other.load_state_dict(state, assign=assign)
            assert _equal(other(x), expected)
    saved = {k for k in state if not k.endswith(("_scale", "_extra_state"))}
    assert saved == set(_made(kind, options).state_dict()) - {"_extra_state"}
    assert {state[k].dtype for k in saved if k.startswith(("weight_ih", "weight_hh"))} == {
        torch.int8
    }


def test_a_state_dict_of_another_layer_is_refused() -> None:
    def state(kind: type, *args: Any, **options: Any) -> dict:
        return quantize_(kind(*args, **options)).state_dict()

    layer = quantize_(fastrnn.LSTM(5, 10))
    wrong = [
        state(fastrnn.LSTM, 7, 10),  # of the same shapes
        state(fastrnn.LSTM, 5, 9),
        state(fastrnn.LSTM, 5, 10, num_layers=2),
        state(fastrnn.LSTM, 5, 10, bias=False),
        state(fastrnn.GRU, 5, 10),
        state(fastrnn.LSTM, 5, 10, peephole=True),
        fastrnn.LSTM(5, 10).state_dict(),
        {k: v for k, v in layer.state_dict().items() if not k.endswith("scale")},
    ]
    for found in wrong:
        with pytest.raises(RuntimeError, match="in loading state_dict"):
            layer.load_state_dict(found)
    for plain in (nn.LSTM(5, 10), fastrnn.LSTM(5, 10), fastrnn.LSTM(5, 10, gates="io")):
        with pytest.raises(RuntimeError, match="in loading state_dict"):
            plain.load_state_dict(layer.state_dict())
    with pytest.raises(RuntimeError, match=r"'int8 lstm\(5, 10\)'.*'int8 lstm\(7, 10\)'"):
        layer.load_state_dict(wrong[0])
    layer.load_state_dict(state(nn.LSTM, 5, 10))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8)
        self.inner = nn.ModuleList([fastrnn.GRU(8, 9), nn.LSTMCell(9, 9), nn.Linear(9, 2)])
        self.same = self.lstm

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.inner[0](self.lstm(x)[0])
        return self.inner[2](self.inner[1](y[-1])[0])


def test_a_model() -> None:
    model, x = Model().eval(), torch.randn(5, 3, 6)
    before = model(x)
    assert quantize_(model) is model
    assert model.same is model.lstm and type(model.lstm) is type(model.inner[0]) is Quantized
    assert type(model.inner[1]) is nn.LSTMCell and type(model.inner[2]) is nn.Linear
    with torch.no_grad():
        after = model(x)
    assert 0 < (after - before).abs().max() < 0.05
    quantize_(model)  # again does nothing
    with torch.no_grad():
        assert torch.equal(model(x), after)
    other = quantize_(Model().eval())
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(x), after)


def test_int8_is_a_quarter_of_the_memory() -> None:
    layer = nn.LSTM(256, 256)
    size = sum(p.numel() * p.element_size() for p in layer.parameters())
    quantize_(layer)
    assert sum(b.numel() * b.element_size() for b in layer.buffers()) < 0.28 * size


def test_changes_of_type_change_nothing() -> None:
    layer, x = quantize_(_made(nn.LSTM, {})), torch.randn(5, 4, 7)
    with torch.no_grad():
        expected = layer(x)
        for change in ("half", "bfloat16", "double", "float"):
            getattr(layer, change)()
            assert {b.dtype for b in layer.buffers()} == {torch.int8, torch.float32}
            assert _equal(layer(x), expected)
        y, (h, c) = layer.half()(x.half())
        assert y.dtype == h.dtype == c.dtype == torch.float16
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x)[0].dtype == torch.bfloat16
        assert layer.to("meta").weight_ih_l0.is_meta
        assert layer(x.to("meta"))[0].shape == (5, 4, 10)


def test_weights_of_16_bits_and_float64_can_be_quantised() -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        layer, x = _made(nn.GRU, {"dtype": dtype}), torch.randn(5, 4, 7)
        expected = layer.float()(x)[0]
        with torch.no_grad():
            assert (quantize_(layer.to(dtype))(x)[0] - expected).abs().max() < 0.05


# ---- errors --------------------------------------------------------------------------------------


def test_no_gradients() -> None:
    layer, x = quantize_(nn.LSTM(7, 10)), torch.randn(5, 4, 7)
    with pytest.raises(RuntimeError, match=r"no gradient: call eval\(\)"):
        layer(x)
    with torch.inference_mode():
        layer(x)
    with torch.no_grad():
        layer(x)
    layer.eval()
    layer(x)
    with pytest.raises(RuntimeError, match="no gradient: the input or a state requires one"):
        layer(x.requires_grad_())
    state = torch.zeros(1, 4, 10)
    with pytest.raises(RuntimeError, match="no gradient: the input or a state requires one"):
        layer(x.detach(), (state, state.clone().requires_grad_()))
    with pytest.raises(RuntimeError, match="no gradient: the input or a state requires one"):
        layer(pack_sequence([x[:, 0]]))
    with torch.no_grad():
        layer(x)
    for transform in (torch.func.grad(lambda x: layer(x)[0].sum()), torch.func.vmap(layer)):
        with pytest.raises(RuntimeError, match=r"no gradient|no vmap"):
            transform(torch.randn(2, 5, 7))


def test_what_quantize_refuses() -> None:
    class Own(nn.LSTM):
        pass

    def bad() -> nn.Module:
        layer = nn.LSTM(3, 4)
        with torch.no_grad():
            layer.weight_hh_l0[2, 1] = float("nan")
        return layer

    normed = nn.utils.parametrizations.weight_norm(nn.LSTM(3, 4), "weight_hh_l0")
    cases = [
        (nn.Linear(3, 4), "no layer to quantise in this Linear"),
        (Own(3, 4), "no subclasses"),
        (normed, "no layer to quantise"),
        (nn.LSTMCell(3, 4), "no cells"),
        (nn.Sequential(fastrnn.GRU(3, 4), bad()), "weight_hh_l0 of a LSTM is not finite"),
        (nn.GRU(133145, 1), "has 133145 columns"),
    ]
    for model, message in cases:
        with pytest.raises(ValueError, match=message):
            quantize_(model)
        assert not any(isinstance(m, Quantized) for m in model.modules())
    with pytest.raises(ValueError, match=r"torch\.int8 only, got torch\.float16"):
        quantize_(nn.LSTM(3, 4), torch.float16)
    with pytest.raises(TypeError, match="quantize_"):
        Quantized(3, 4)
    with pytest.raises(RuntimeError, match="made by quantize_"):
        quantize_(nn.LSTM(3, 4)).reset_parameters()


def test_what_a_call_refuses() -> None:
    layer = quantize_(nn.LSTM(7, 10)).eval()
    with pytest.raises(ValueError, match="float32, bfloat16 or float16, got float64"):
        layer(torch.zeros(5, 4, 7).double())
    with pytest.raises(RuntimeError, match="Expected 7, got 8"):
        layer(torch.zeros(5, 4, 8))
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size \(1, 4, 10\)"):
        layer(torch.zeros(5, 4, 7), (torch.zeros(1, 4, 9), torch.zeros(1, 4, 10)))
    with pytest.raises(RuntimeError, match="not the same dtype"):
        layer(torch.zeros(5, 4, 7), (torch.zeros(1, 4, 10).half(), torch.zeros(1, 4, 10)))
    with pytest.raises(ValueError, match="2D or 3D"):
        layer(torch.zeros(7))


def test_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = quantize_(nn.LSTM(7, 10)).eval()

    class OnCuda:
        device = torch.device("cuda", 0)

    with pytest.raises(RuntimeError, match="int8 run on the CPU only, and the input is on cuda:0"):
        functional.layer("lstm", OnCuda(), (), [], scales=[layer.weight_ih_l0_scale])


@pytest.mark.parametrize("cell, options", FORMS[:2] + FORMS[12:14], ids=str)
def test_the_op_refuses_what_does_not_fit(cell: str, options: dict) -> None:
    layer = Layer(cell, 7, 18, **options)
    x = torch.zeros(2, 3, 7)
    weights, scales = layer.packed, layer.scales
    wrong: list[tuple[Any, Any, str]] = [
        ([weights[0][:, :, 1:], *weights[1:]], scales, "weight_ih of shape"),
        ([weights[0].float(), *weights[1:]], scales, "not the same dtype, expected Char"),
        ([weights[0], weights[1][:1], *weights[2:]], scales, "weight_hh of shape"),
        ([*weights[:2], weights[2].half(), *weights[3:]], scales, "not the same dtype"),
        (weights, scales[:1], "scales per direction"),
        (weights, [scales[0][1:], *scales[1:]], "scale of shape"),
        (weights, [scales[0], scales[1][:0], *scales[2:]], "the scale of weight_hh must be"),
        (weights, [scales[0].half(), *scales[1:]], "not the same dtype"),
    ]
    if options:
        wrong.append((weights, [*scales[:2], scales[2][:0]], "the scale of weight_hr is empty"))
    for given, with_scales, message in wrong:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fastrnn.scan_int8(
                cell, x, [], given, with_scales, None, None, None, False, False, False
            )
    with pytest.raises(RuntimeError, match="got float64"):
        torch.ops.fastrnn.scan_int8(
            cell, x.double(), [], weights, scales, None, None, None, False, False, False
        )


# ---- compilers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"proj_size": 3, "num_layers": 2, "bidirectional": True}])
def test_compile_and_export(options: dict) -> None:
    layer, x = quantize_(_made(nn.LSTM, options)), torch.randn(5, 4, 7)
    with torch.no_grad():
        expected = layer(x)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        assert _equal(compiled(x), expected)
        shapes = {"input": {0: torch.export.Dim("T"), 1: torch.export.Dim("B")}}
        program = torch.export.export(layer, (x,), dynamic_shapes=shapes)
        assert _equal(program.module()(x), expected)
        other = torch.randn(9, 2, 7)
        assert _equal(program.module()(other), layer(other))


@pytest.mark.parametrize("cell, options", FORMS, ids=lambda v: str(v).replace(" ", ""))
def test_the_op_is_as_its_fake_says(cell: str, options: dict) -> None:
    layer = Layer(cell, 18, 18, **options)
    how = (None, None, None, False, False)
    arguments = (cell, torch.randn(2, 3, 18), layer.states(3), layer.packed, layer.scales, *how)
    for all_states in (False, True):
        torch.library.opcheck(
            torch.ops.fastrnn.scan_int8.default,
            (*arguments, all_states),
            test_utils=("test_schema", "test_faketensor"),
        )


# ---- a model that has learnt something -----------------------------------------------------------


class Reader(nn.Module):
    def __init__(self, kind: type, symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 16)
        self.layer = kind(16, 48)
        self.head = nn.Linear(48, symbols)

    def forward(self, text: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(text))[0])


@pytest.mark.parametrize("kind", [fastrnn.LSTM, fastrnn.GRU, fastrnn.RNN])
def test_a_trained_model_loses_little(kind: type) -> None:
    with open(os.__file__, encoding="utf-8") as file:
        source = file.read()
    symbols = sorted(set(source))
    text = torch.tensor([symbols.index(c) for c in source])
    torch.manual_seed(0)
    model = Reader(kind, len(symbols))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)

    def loss_at(starts: Tensor) -> Tensor:
        batch = text[starts[None] + torch.arange(33)[:, None]]
        return cross_entropy(model(batch[:-1]).flatten(0, 1), batch[1:].flatten())

    for _ in range(120):
        optimizer.zero_grad()
        loss_at(torch.randint(len(text) - 33, (16,))).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()
    starts = torch.randint(len(text) - 33, (128,))
    with torch.no_grad():
        before = loss_at(starts)
        assert before < 3  # of 4.5 before training
        quantize_(model)
        after = loss_at(starts)
    assert after != before
    assert abs(after - before) < 0.01 * before
