"""Bad arguments raise what torch.nn raises, in its words and with the shapes seen; never a crash.
Also what is odd but allowed: empty batches, numbers that are not finite."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from cases import tensors_in, twins
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import fastrnn
from fastrnn import functional, reference
from fastrnn.ops import CELLS
from fastrnn.reference import Inputs

Call = Callable[[Any], Any]  # of a package: torch.nn or fastrnn


class Bad(NamedTuple):
    """A call that raises in both packages."""

    name: str
    call: Call
    shown: str = ""  # of shapes and numbers, in our message

    def __str__(self) -> str:
        return self.name


class Stricter(NamedTuple):
    """A call for which torch.nn's error, if it raises one, is an accident of what it calls."""

    name: str
    call: Call
    error: type[Exception]
    message: str

    def __str__(self) -> str:
        return self.name


def zeros(*shape: int, **options: Any) -> Tensor:
    return torch.zeros(*shape, **options)


def packed(*lengths: int, features: int = 4, dtype: torch.dtype = torch.float32) -> PackedSequence:
    return pack_sequence([zeros(n, features, dtype=dtype) for n in lengths])


def raised(call: Call, package: Any) -> Exception:
    with pytest.raises(Exception) as caught:
        call(package)
    return caught.value


# ---- constructors --------------------------------------------------------------------------------


def bad_constructors() -> list[Bad]:
    options: dict[str, dict] = {
        "dropout above 1": {"dropout": 2},
        "negative dropout": {"dropout": -0.1},
        "dropout of bool": {"num_layers": 2, "dropout": True},
        "dropout of str": {"dropout": "a"},
        "hidden_size 0": {"hidden_size": 0},
        "negative hidden_size": {"hidden_size": -1},
        "hidden_size of float": {"hidden_size": 2.0},
        "input_size 0": {"input_size": 0},
        "negative input_size": {"input_size": -3},
        "input_size of float": {"input_size": 1.5},
        "num_layers 0": {"num_layers": 0},
        "negative num_layers": {"num_layers": -1},
        "num_layers of float": {"num_layers": 1.5},
        "bias of int": {"bias": 1},
        "bias None": {"bias": None},
        "batch_first of int": {"batch_first": 1},
        "negative proj_size": {"proj_size": -1},
        "proj_size like hidden_size": {"proj_size": 5},
        "proj_size above hidden_size": {"proj_size": 9},
        "unknown keyword": {"frobnicate": 1},
    }
    sizes = {"input_size": 4, "hidden_size": 5}
    found = []
    for name in ("LSTM", "GRU", "RNN"):
        for label, extra in options.items():
            found.append(
                Bad(f"{name} {label}", lambda p, n=name, e=extra: getattr(p, n)(**{**sizes, **e}))
            )
        found.append(Bad(f"{name} without sizes", lambda p, n=name: getattr(p, n)()))
        found.append(Bad(f"{name} with one size", lambda p, n=name: getattr(p, n)(3)))
    for name in ("LSTM", "GRU"):
        found.append(
            Bad(f"{name} nonlinearity", lambda p, n=name: getattr(p, n)(4, 5, nonlinearity="tanh"))
        )
    for name in ("LSTMCell", "GRUCell", "RNNCell"):
        found.append(Bad(f"{name} negative size", lambda p, n=name: getattr(p, n)(4, -1)))
        found.append(Bad(f"{name} size of float", lambda p, n=name: getattr(p, n)(4, 2.5)))
        found.append(Bad(f"{name} without sizes", lambda p, n=name: getattr(p, n)()))
    return [
        *found,
        Bad("GRU proj_size", lambda p: p.GRU(4, 5, proj_size=2)),
        Bad("RNN proj_size", lambda p: p.RNN(4, 5, proj_size=2)),
        Bad("RNN nonlinearity", lambda p: p.RNN(4, 5, nonlinearity="sigmoid")),
        Bad("RNN nonlinearity by position", lambda p: p.RNN(4, 5, 1, "sigmoid")),
        Bad("LSTMCell nonlinearity", lambda p: p.LSTMCell(4, 5, nonlinearity="tanh")),
    ]


def without_function(error: Exception) -> str:
    """Python names the one whose arguments do not fit, which in torch.nn is a class's base."""
    return re.sub(r"^\w+\.(__init__\(\) )", r"\1", str(error))


@pytest.mark.parametrize("bad", bad_constructors(), ids=str)
def test_bad_constructors(bad: Bad) -> None:
    theirs, ours = raised(bad.call, nn), raised(bad.call, fastrnn)
    assert type(ours) is type(theirs)
    assert without_function(ours) == without_function(theirs)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_dropout_of_one_layer_warns(name: str) -> None:
    found = []
    for package in (nn, fastrnn):
        with pytest.warns(UserWarning) as caught:
            getattr(package, name)(4, 5, dropout=0.5)
        found.append([str(w.message) for w in caught])
    assert found[1] == found[0]


# ---- forward -------------------------------------------------------------------------------------


def bad_layer_calls(name: str) -> list[Bad]:
    def layer(package: Any, **options: Any) -> nn.Module:
        return getattr(package, name)(4, 5, **options)

    def hx(*shape: int, **options: Any) -> Any:
        state = zeros(*shape, **options)
        return (state, state) if name == "LSTM" else state

    x = zeros(2, 3, 4)
    found = [
        Bad("0-D x", lambda p: layer(p)(zeros(())), "[]"),
        Bad("1-D x", lambda p: layer(p)(zeros(4)), "[4]"),
        Bad("4-D x", lambda p: layer(p)(zeros(1, 2, 3, 4)), "[1, 2, 3, 4]"),
        Bad("features", lambda p: layer(p)(zeros(2, 3, 6)), "[2, 3, 6]"),
        Bad("features, batch first", lambda p: layer(p, batch_first=True)(zeros(2, 3, 6)), "[2, 3"),
        Bad("features, unbatched", lambda p: layer(p)(zeros(2, 6)), "[2, 6]"),
        Bad("2-D hx", lambda p: layer(p)(x, hx(3, 5)), "2-D"),
        Bad("4-D hx", lambda p: layer(p)(x, hx(1, 1, 3, 5)), "4-D"),
        Bad("3-D hx, unbatched", lambda p: layer(p)(zeros(2, 4), hx(1, 1, 5)), "3-D"),
        Bad("batch of hx", lambda p: layer(p)(x, hx(1, 2, 5)), "(1, 3, 5), got [1, 2, 5]"),
        Bad("layers of hx", lambda p: layer(p)(x, hx(2, 3, 5)), "(1, 3, 5), got [2, 3, 5]"),
        Bad(
            "directions of hx",
            lambda p: layer(p, num_layers=2, bidirectional=True)(x, hx(2, 3, 5)),
            "(4, 3, 5), got [2, 3, 5]",
        ),
        Bad("features of hx", lambda p: layer(p)(x, hx(1, 3, 6)), "(1, 3, 5), got [1, 3, 6]"),
        Bad("hx, unbatched", lambda p: layer(p)(zeros(2, 4), hx(2, 5)), "(1, 5), got [2, 5]"),
        Bad(
            "hx, batch first",
            lambda p: layer(p, batch_first=True)(x, hx(1, 3, 5)),
            "(1, 2, 5), got [1, 3, 5]",
        ),
        Bad("hx on meta", lambda p: layer(p)(x, hx(1, 3, 5, device="meta")), "meta"),
        Bad("x on meta", lambda p: layer(p)(zeros(2, 3, 4, device="meta")), "meta"),
        Bad("module on meta", lambda p: layer(p, device="meta")(x), "meta"),
        Bad("x of float64", lambda p: layer(p)(x.double()), "torch.float64"),
        Bad("x of int64", lambda p: layer(p)(x.long()), "torch.int64"),
        Bad("x of complex64", lambda p: layer(p)(x.cfloat()), "torch.complex64"),
        Bad("no steps", lambda p: layer(p)(zeros(0, 3, 4))),
        Bad("no steps, batch first", lambda p: layer(p, batch_first=True)(zeros(3, 0, 4))),
        Bad("no steps, hx", lambda p: layer(p)(zeros(0, 3, 4), hx(1, 3, 5))),
        Bad("no steps, unbatched", lambda p: layer(p)(zeros(0, 4))),
        Bad("no steps, no batch", lambda p: layer(p)(zeros(0, 0, 4))),
        Bad("x is a list", lambda p: layer(p)([[1.0]])),
        Bad("x is None", lambda p: layer(p)(None)),
    ]
    if name == "LSTM":
        h = zeros(1, 3, 5)
        found += [
            Bad("hx is a tensor", lambda p: layer(p, num_layers=2)(x, zeros(2, 3, 5)), "2-D"),
            Bad("three states", lambda p: layer(p)(x, (h, h, h)), "3"),
            Bad("features of c", lambda p: layer(p)(x, (h, zeros(1, 3, 6))), "[1, 3, 6]"),
            Bad("2-D c", lambda p: layer(p)(x, (h, zeros(3, 5))), "2-D"),
            Bad("h, projected", lambda p: layer(p, proj_size=2)(x, (h, h)), "got [1, 3, 5]"),
            Bad(
                "c, projected",
                lambda p: layer(p, proj_size=2)(x, (zeros(1, 3, 2), zeros(1, 3, 2))),
                "got [1, 3, 2]",
            ),
        ]
    else:
        found += [
            Bad("hx is a tuple", lambda p: layer(p)(x, (zeros(1, 3, 5),))),
            Bad("2-D hx, packed", lambda p: layer(p)(packed(3, 2), hx(2, 5)), "got [2, 5]"),
            Bad("batch of hx, packed", lambda p: layer(p)(packed(3, 2), hx(1, 3, 5)), "[1, 3, 5]"),
            Bad("hx, packed", lambda p: layer(p)(packed(3, 2), hx(1, 2, 6)), "[1, 2, 6]"),
            Bad("features, packed", lambda p: layer(p)(packed(3, 2, features=6)), "[5, 6]"),
            Bad("type, packed", lambda p: layer(p)(packed(3, dtype=torch.float64)), "float64"),
            Bad(
                "3-D data, packed",
                lambda p: layer(p)(PackedSequence(x, torch.tensor([2, 1]))),
                "[2, 3, 4]",
            ),
        ]
    return [bad._replace(name=f"{name} {bad.name}") for bad in found]


def bad_cell_calls(name: str) -> list[Bad]:
    def cell(package: Any, **options: Any) -> nn.Module:
        return getattr(package, name)(4, 5, **options)

    def hx(*shape: int, **options: Any) -> Any:
        state = zeros(*shape, **options)
        return (state, state) if name == "LSTMCell" else state

    x = zeros(3, 4)
    found = [
        Bad("0-D x", lambda p: cell(p)(zeros(())), "[]"),
        Bad("3-D x", lambda p: cell(p)(zeros(2, 3, 4)), "[2, 3, 4]"),
        Bad("0-D hx", lambda p: cell(p)(x, hx(())), "[]"),
        Bad("3-D hx", lambda p: cell(p)(x, hx(1, 3, 5)), "[1, 3, 5]"),
        Bad("1-D hx for 2-D x", lambda p: cell(p)(x, hx(5)), "[5]"),
        Bad("2-D hx for 1-D x", lambda p: cell(p)(zeros(4), hx(1, 5)), "[1, 1, 5]"),
        Bad("features", lambda p: cell(p)(zeros(3, 6)), "[3, 6]"),
        Bad("features, unbatched", lambda p: cell(p)(zeros(6)), "[6]"),
        Bad("batch of hx", lambda p: cell(p)(x, hx(2, 5)), "got [2, 5], expected [3, 5]"),
        Bad("batch of 1 of hx", lambda p: cell(p)(x, hx(1, 5)), "got [1, 5], expected [3, 5]"),
        Bad("features of hx", lambda p: cell(p)(x, hx(3, 6)), "got [3, 6], expected [3, 5]"),
        Bad("x is None", lambda p: cell(p)(None)),
    ]
    if name == "LSTMCell":
        h = zeros(3, 5)
        found += [
            Bad("features of c", lambda p: cell(p)(x, (h, zeros(3, 6))), "hidden1"),
            Bad("3-D c", lambda p: cell(p)(x, (h, zeros(1, 3, 5))), "hx[1]"),
        ]
    elif name == "GRUCell":
        found.append(Bad("hx is a tuple", lambda p: cell(p)(x, (zeros(3, 5),))))
    else:
        found.append(Bad("nonlinearity", lambda p: cell(p, nonlinearity="sigmoid")(x)))
    return [bad._replace(name=f"{name} {bad.name}") for bad in found]


BAD_CALLS = [
    *(bad for name in ("LSTM", "GRU", "RNN") for bad in bad_layer_calls(name)),
    *(bad for name in ("LSTMCell", "GRUCell", "RNNCell") for bad in bad_cell_calls(name)),
]


@pytest.mark.parametrize("bad", BAD_CALLS, ids=str)
def test_bad_calls(bad: Bad) -> None:
    theirs, ours = raised(bad.call, nn), raised(bad.call, fastrnn)
    assert type(ours) is type(theirs), ours
    assert str(theirs) in str(ours)
    assert bad.shown in str(ours)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_subclasses_are_named_as_torch_names_them(name: str) -> None:
    def call(package: Any) -> Any:
        class Own(getattr(package, name)):
            pass

        return Own(4, 5)(zeros(()))

    theirs, ours = raised(call, nn), raised(call, fastrnn)
    assert str(theirs) in str(ours)


def stricter_calls() -> list[Stricter]:
    x = zeros(2, 3, 4)

    def mixed(package: Any, name: str) -> nn.Module:
        module = getattr(package, name)(4, 5)
        module.weight_hh_l0 = nn.Parameter(module.weight_hh_l0.double())
        return module

    def misshapen(package: Any, name: str) -> nn.Module:
        module = getattr(package, name)(4, 5)
        module.weight_hh_l0 = nn.Parameter(zeros(12, 4))
        return module

    def hx(name: str, *shape: int, **options: Any) -> Any:
        state = zeros(*shape, **options)
        return (state, state) if name.startswith("LSTM") else state

    found = []
    for name in ("LSTM", "GRU", "RNN"):
        for dtype, seen in ((torch.float64, "Double"), (torch.float16, "Half")):
            found.append(
                Stricter(
                    f"{name} hx of {dtype}",
                    lambda p, n=name, d=dtype: getattr(p, n)(4, 5)(x, hx(n, 1, 3, 5, dtype=d)),
                    RuntimeError,
                    f"same dtype, expected Float, got {seen}",
                )
            )
        found += [
            Stricter(
                f"{name} weights of two types",
                lambda p, n=name: mixed(p, n)(x),
                RuntimeError,
                "same dtype, expected Float, got Double",
            ),
            Stricter(
                f"{name} weight_hh of a wrong shape",
                lambda p, n=name: misshapen(p, n)(x),
                RuntimeError,
                r"\[12, 4\]|\[12, 3\]",
            ),
            Stricter(
                f"{name} batch sizes that do not sum up",
                lambda p, n=name: getattr(p, n)(4, 5)(
                    PackedSequence(zeros(4, 4), torch.tensor([2, 1]))
                ),
                RuntimeError,
                "batch_sizes sum up to 3, but input has 4 rows",
            ),
        ]
    for name in ("LSTMCell", "GRUCell", "RNNCell"):
        found += [
            Stricter(
                f"{name} hx is a number",
                lambda p, n=name: getattr(p, n)(4, 5)(zeros(3, 4), 1.0),
                TypeError if name == "LSTMCell" else AttributeError,
                "float",
            ),
            Stricter(
                f"{name} x of float64",
                lambda p, n=name: getattr(p, n)(4, 5)(zeros(3, 4).double()),
                RuntimeError,
                r"dtype \(torch.float64\) does not match weight dtype \(torch.float32\)",
            ),
            Stricter(
                f"{name} x of int64",
                lambda p, n=name: getattr(p, n)(4, 5)(zeros(3, 4).long()),
                RuntimeError,
                r"dtype \(torch.int64\) does not match weight dtype \(torch.float32\)",
            ),
            Stricter(
                f"{name} hx of float64",
                lambda p, n=name: (
                    getattr(p, n)(4, 5)(zeros(3, 4), hx(n, 3, 5).double())
                    if n != "LSTMCell"
                    else p.LSTMCell(4, 5)(zeros(3, 4), (zeros(3, 5), zeros(3, 5).double()))
                ),
                RuntimeError,
                "same dtype, expected Float, got Double",
            ),
            Stricter(
                f"{name} hx on meta",
                lambda p, n=name: getattr(p, n)(4, 5)(zeros(3, 4), hx(n, 3, 5, device="meta")),
                RuntimeError,
                "same device, found input tensor at cpu and hidden tensor at meta",
            ),
        ]
    h = zeros(1, 3, 5)
    return [
        *found,
        Stricter("LSTM hx is a tensor", lambda p: p.LSTM(4, 5)(x, h), RuntimeError, "3-D but got"),
        Stricter(
            "LSTM hx is a 4-D tensor",
            lambda p: p.LSTM(4, 5)(x, zeros(2, 1, 3, 5)),
            TypeError,
            "hx must be a tuple of Tensors, not Tensor",
        ),
        Stricter("LSTM hx is a number", lambda p: p.LSTM(4, 5)(x, 1.0), TypeError, "float"),
        Stricter("LSTM one state", lambda p: p.LSTM(4, 5)(x, (h,)), RuntimeError, "two hidden"),
        Stricter(
            "LSTMCell hx is a tensor",
            lambda p: p.LSTMCell(4, 5)(zeros(2, 4), zeros(2, 2, 5)),
            TypeError,
            "hx must be a tuple of Tensors, not Tensor",
        ),
        Stricter(
            "LSTMCell one state",
            lambda p: p.LSTMCell(4, 5)(zeros(3, 4), (zeros(3, 5),)),
            RuntimeError,
            "lstm_cell expects two hidden states, got 1",
        ),
        Stricter(
            "LSTMCell three states",
            lambda p: p.LSTMCell(4, 5)(zeros(3, 4), (zeros(3, 5),) * 3),
            RuntimeError,
            "lstm_cell expects two hidden states, got 3",
        ),
        Stricter(
            "LSTM features, packed",
            lambda p: p.LSTM(4, 5)(packed(3, 2, features=6)),
            RuntimeError,
            r"Expected 4, got 6, in an input of shape \[5, 6\]",
        ),
        Stricter(
            "LSTM 2-D hx, packed",
            lambda p: p.LSTM(4, 5)(packed(3, 2), (zeros(2, 5), zeros(2, 5))),
            RuntimeError,
            r"Expected hidden\[0\] size \(1, 2, 5\), got \[2, 5\]",
        ),
        Stricter(
            "LSTM batch of hx, packed",
            lambda p: p.LSTM(4, 5)(packed(3, 2), (h, h)),
            RuntimeError,
            r"Expected hidden\[0\] size \(1, 2, 5\), got \[1, 3, 5\]",
        ),
        Stricter(
            "LSTM type, packed",
            lambda p: p.LSTM(4, 5)(packed(3, dtype=torch.float64)),
            ValueError,
            r"dtype \(torch.float64\) does not match weight dtype \(torch.float32\)",
        ),
        Stricter(
            "LSTM 3-D data, packed",
            lambda p: p.LSTM(4, 5)(PackedSequence(x, torch.tensor([2, 1]))),
            RuntimeError,
            "input must have 2 dimensions, got 3",
        ),
        Stricter(
            "LSTM complex",
            lambda p: p.LSTM(4, 5, dtype=torch.cfloat)(x.cfloat()),
            RuntimeError,
            "must be float32, float64, bfloat16 or float16, got ComplexFloat",
        ),
    ]


@pytest.mark.parametrize("bad", stricter_calls(), ids=str)
def test_calls_that_are_refused_clearly(bad: Stricter) -> None:
    with pytest.raises(bad.error, match=bad.message):
        bad.call(fastrnn)


def test_a_device_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "DEVICES", ())
    for name, shape in (("LSTM", (2, 3, 4)), ("GRUCell", (3, 4))):
        module = getattr(fastrnn, name)(4, 5, device="meta")
        with pytest.raises(RuntimeError, match="no kernels for the device meta in this build"):
            module(torch.empty(*shape, device="meta"))


def test_a_cuda_tensor_without_cuda_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "DEVICES", ("cpu", "meta"))
    monkeypatch.setattr(functional.ops, "WHY_NO_CUDA", "torch is built without CUDA")
    message = (
        r"the device cuda:0 in this build \(torch is built without CUDA\); it has them for cpu"
    )
    with FakeTensorMode(), pytest.raises(RuntimeError, match=message):
        x, weights = (torch.empty(*shape, device="cuda") for shape in ((2, 3, 4), (15, 4)))
        functional.layer("gru", x, [], [weights, torch.empty(15, 5, device="cuda")])


def test_an_unknown_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_ISA", "abacus")
    with pytest.raises(RuntimeError, match=r"FASTRNN_ISA is 'abacus', .* baseline"):
        fastrnn.GRU(4, 5)(zeros(2, 3, 4))


# ---- empty batches and numbers that are not finite -----------------------------------------------

MODULES = ["LSTM", "GRU", "RNN", "RNN relu", "LSTMCell", "GRUCell", "RNNCell", "RNNCell relu"]


def pair(name: str, *args: Any, **options: Any) -> tuple[nn.Module, nn.Module]:
    name, *relu = name.split()
    return twins(name, *args, **options, **({"nonlinearity": "relu"} if relu else {}))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("initial", [False, True], ids=["zeros", "hx"])
def test_empty_batch(name: str, initial: bool) -> None:
    options = {} if "Cell" in name else {"bidirectional": True, "num_layers": 2}
    found = []
    for module in pair(name, 4, 5, **options):
        shape = [0, 4] if "Cell" in name else [3, 0, 4]
        x = zeros(*shape, dtype=torch.float64).requires_grad_()
        leading = [0] if "Cell" in name else [4, 0]
        states = [zeros(*leading, 5, dtype=torch.float64).requires_grad_() for _ in range(2)]
        states = states[: (2 if "LSTM" in name else 1) * initial]
        hx = [tuple(states) if len(states) > 1 else states[0]] if states else []
        results = tensors_in(module(x, *hx))
        sum(r.sum() for r in results).backward()
        grads = [t.grad for t in (x, *states, *module.parameters())]
        found.append((results, grads))
    (their_results, their_grads), (results, grads) = found
    assert [r.shape for r in results] == [r.shape for r in their_results]
    for ours, theirs in zip(grads, their_grads, strict=True):
        # torch's kernels for some layouts leave weights out of the graph where there are no rows.
        expected = torch.zeros_like(ours) if theirs is None else theirs
        assert torch.equal(ours, expected)


NOT_FINITE = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("value", NOT_FINITE[:2], ids=str)
@pytest.mark.parametrize("place", ["x", "hx", "weight_ih", "weight_hh", "bias_ih"])
def test_not_finite_numbers_go_where_torchs_go(
    name: str, value: float, place: str, isa: str
) -> None:
    """Forward and backward, in every output."""
    found = []
    for module in pair(name, 4, 21):
        generator = torch.Generator().manual_seed(0)
        shape, leading = ([9, 4], [9]) if "Cell" in name else ([5, 9, 4], [1, 9])
        x = torch.randn(*shape, generator=generator, dtype=torch.float64)
        states = [
            torch.randn(*leading, 21, generator=generator, dtype=torch.float64)
            for _ in range(2 if "LSTM" in name else 1)
        ]
        if place == "x":
            x[..., 3, 2] = value
        elif place == "hx":
            states[-1][..., 4, 11] = value
        else:
            with torch.no_grad():
                weight = next(p for key, p in module.named_parameters() if key.startswith(place))
                weight.view(weight.shape[0], -1)[7, 0] = value
        leaves = [t.requires_grad_() for t in (x, *states)]
        results = tensors_in(module(x, tuple(states) if len(states) > 1 else states[0]))
        sum((r * (i + 1)).sum() for i, r in enumerate(results)).backward()
        found.append([*results, *(t.grad for t in (*leaves, *module.parameters()))])
    for ours, theirs in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_not_finite_inputs_in_every_type(
    name: str, value: float, dtype: torch.dtype, isa: str
) -> None:
    module = pair(name, 4, 21, dtype=dtype)[1]
    shape = [9, 4] if "Cell" in name else [5, 9, 4]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, generator=generator).to(dtype)
    x[..., 3, 2] = value
    torch.manual_seed(0)
    base, *relu = name.split()
    exact = getattr(nn, base)(4, 21, **({"nonlinearity": "relu"} if relu else {})).double()
    exact.load_state_dict(module.state_dict())
    for ours, theirs in zip(tensors_in(module(x)), tensors_in(exact(x.double())), strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert torch.equal(ours.isposinf(), theirs.isposinf())
        assert torch.equal(ours.isneginf(), theirs.isneginf())


# ---- the ops -------------------------------------------------------------------------------------

T, B, I, H = 4, 3, 5, 6  # noqa: E741


def arguments(cell: str = "lstm", directions: int = 1, proj: int = 0, **changes: Any) -> dict:
    """Good arguments of scan, and changes to them."""
    info = CELLS[cell]
    shapes = info.shapes(I, H, proj).values()
    made = [torch.randn(*shape) for _ in range(directions) for shape in shapes]
    sizes = [proj or H] + [H] * (info.states - 1)
    good = {
        "cell": cell,
        "x": torch.randn(T, B, I),
        "states": [torch.randn(directions, B, size) for size in sizes],
        "weights": made,
        "lengths": None,
        "batch_sizes": None,
        "resets": None,
        "bidirectional": directions == 2,
        "batch_first": False,
        "save": True,
    }
    assert changes.keys() <= good.keys()
    return good | changes


def integers(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


W = arguments()["weights"]
PACKED = {"x": torch.randn(6, I), "states": [torch.randn(1, 3, H)] * 2}

BAD_SCANS: dict[str, tuple[dict, str]] = {
    "unknown cell": ({"cell": "lstn"}, "lstn"),
    "empty cell": ({"cell": ""}, "cell"),
    "1-D x": ({"x": torch.randn(I)}, "dimensions, got 1"),
    "4-D x": ({"x": torch.randn(1, T, B, I)}, "dimensions, got 4"),
    "0-D x": ({"x": torch.randn(())}, "dimensions, got 0"),
    "no features": ({"x": torch.randn(T, B, 0)}, r"\[4, 3, 0\]"),
    "no steps": ({"x": torch.randn(0, B, I)}, "larger than 0"),
    "other features": ({"x": torch.randn(T, B, I + 1)}, r"weight_ih of shape \[24, 6\].*\[24, 5\]"),
    "complex": ({"x": torch.randn(T, B, I, dtype=torch.cfloat)}, "ComplexFloat"),
    "integer": ({"x": torch.ones(T, B, I, dtype=torch.int64)}, "Long"),
    "bool": ({"x": torch.ones(T, B, I, dtype=torch.bool)}, "Bool"),
    "other type than the weights": ({"x": torch.randn(T, B, I).double()}, "dtype, expected Double"),
    "two directions of a step": (
        {"x": torch.randn(B, I), "bidirectional": True, "weights": W * 2, "states": []},
        "one direction",
    ),
    "no weights": ({"weights": []}, "2 to 5 weights per direction, got 0"),
    "one weight": ({"weights": W[:1]}, "2 to 5 weights per direction, got 1"),
    "six weights": ({"weights": [*W, *W[:2]]}, "2 to 5 weights per direction, got 6"),
    "odd weights of two directions": (
        {"weights": [*W, *W[:3]], "bidirectional": True},
        "2 to 5 weights per direction, got 7",
    ),
    "weights of one direction of two": (
        {"weights": [*W[:2], W[0][:12], W[1]], "bidirectional": True, "states": []},
        "weight_ih",
    ),
    "a projection of gru": (
        {**arguments("gru"), "weights": [*arguments("gru")["weights"], torch.randn(H, H)]},
        "does not support a projection",
    ),
    "1-D weight_hh": ({"weights": [W[0], torch.randn(24), *W[2:]]}, r"weight_hh.*\[24\]"),
    "0-D weight_hh": ({"weights": [W[0], torch.randn(()), *W[2:]]}, r"weight_hh.*\[\]"),
    "empty weight_hh": ({"weights": [W[0], torch.randn(0, 0), *W[2:]]}, r"weight_hh.*\[0, 0\]"),
    "a projection to nothing": (
        {"weights": [W[0], torch.randn(24, 0), *W[2:], torch.randn(0, H)]},
        r"weight_hh.*\[24, 0\]",
    ),
    "uneven gates": ({"weights": [W[0], torch.randn(23, H), *W[2:]]}, r"weight_hh.*\[23, 6\]"),
    "columns of weight_hh": ({"weights": [W[0], torch.randn(24, 7), *W[2:]]}, r"\[24, 7\]"),
    "rows of weight_ih": ({"weights": [torch.randn(23, I), *W[1:]]}, r"weight_ih.*\[23, 5\]"),
    "1-D weight_ih": ({"weights": [torch.randn(24), *W[1:]]}, r"weight_ih.*\[24\]"),
    "bias_ih": ({"weights": [*W[:2], torch.randn(23), W[3]]}, r"bias_ih.*\[23\]"),
    "bias_hh": ({"weights": [*W[:3], torch.randn(1, 24)]}, r"bias_hh.*\[1, 24\]"),
    "weight_hr": (
        {**arguments(proj=2), "weights": [*arguments(proj=2)["weights"][:4], torch.randn(2, 5)]},
        r"weight_hr.*\[2, 5\]",
    ),
    "type of a weight": ({"weights": [W[0], W[1].double(), *W[2:]]}, "got Double"),
    "type of a bias": ({"weights": [*W[:3], W[3].half()]}, "got Half"),
    "one state": ({"states": [torch.randn(1, B, H)]}, "has 2 states, got 1"),
    "three states": ({"states": [torch.randn(1, B, H)] * 3}, "has 2 states, got 3"),
    "batch of a state": ({"states": [torch.randn(1, 2, H)] * 2}, r"\[1, 3, 6\], got \[1, 2, 6\]"),
    "directions of a state": ({"states": [torch.randn(2, B, H)] * 2}, r"got \[2, 3, 6\]"),
    "2-D state": ({"states": [torch.randn(B, H)] * 2}, r"got \[3, 6\]"),
    "type of a state": ({"states": [torch.randn(1, B, H).double()] * 2}, "got Double"),
    "lengths too long": ({"lengths": integers(1, 2, 5)}, r"within \[0, 4\], got 5 for row 2"),
    "lengths negative": ({"lengths": integers(1, -1, 2)}, r"within \[0, 4\], got -1 for row 1"),
    "lengths huge": ({"lengths": integers(1, 2**62, 2)}, "got 4611686018427387904 for row 1"),
    "lengths of int32": ({"lengths": integers(1, 2, 3).int()}, "lengths must be .* int64"),
    "lengths of float": ({"lengths": torch.ones(B)}, "lengths must be .* int64"),
    "too few lengths": ({"lengths": integers(1, 2)}, r"lengths of shape \[3\], got \[2\]"),
    "too many lengths": ({"lengths": integers(1, 2, 3, 4)}, r"lengths of shape \[3\], got \[4\]"),
    "2-D lengths": ({"lengths": integers(1, 2, 3)[None]}, "lengths must be a 1-D"),
    "0-D lengths": ({"lengths": torch.tensor(1)}, "lengths must be a 1-D"),
    "lengths too long, batch first": (
        {"x": torch.randn(B, T, I), "batch_first": True, "lengths": integers(1, 2, 5)},
        r"within \[0, 4\]",
    ),
    "lengths and batch_sizes": (
        {**PACKED, "lengths": integers(1, 2, 3), "batch_sizes": integers(3, 2, 1)},
        "exclude each other",
    ),
    "batch_sizes grow": ({**PACKED, "batch_sizes": integers(2, 3, 1)}, "got 3 at step 1"),
    "batch_sizes 0": ({**PACKED, "batch_sizes": integers(3, 3, 0)}, "got 0 at step 2"),
    "batch_sizes 0 at first": ({**PACKED, "batch_sizes": integers(0, 0)}, "got 0 at step 0"),
    "batch_sizes negative": ({**PACKED, "batch_sizes": integers(7, -1)}, "got -1 at step 1"),
    "batch_sizes too few": ({**PACKED, "batch_sizes": integers(3, 2)}, "sum up to 5.*6 rows"),
    "batch_sizes too many": ({**PACKED, "batch_sizes": integers(3, 2, 2)}, "sum up to 7.*6 rows"),
    "batch_sizes overflow": (
        {**PACKED, "batch_sizes": integers(2**62, 2**62, 2**62, 2**62)},
        "batch_sizes",
    ),
    "batch_sizes overflow to the right sum": (
        {**PACKED, "batch_sizes": integers(2**62, 2**62, 2**62, 2**62, 6)},
        "batch_sizes",
    ),
    "batch_sizes empty": ({**PACKED, "batch_sizes": integers()}, "larger than 0"),
    "batch_sizes of int32": (
        {**PACKED, "batch_sizes": integers(3, 2, 1).int()},
        "batch_sizes must be .* int64",
    ),
    "batch_sizes 2-D": (
        {**PACKED, "batch_sizes": integers(3, 2, 1)[None]},
        "batch_sizes must be a 1-D",
    ),
    "batch_sizes with padded x": ({"batch_sizes": integers(3, 1)}, "2 dimensions, got 3"),
    "batch_sizes with other states": (
        {**PACKED, "batch_sizes": integers(2, 2, 2)},
        r"\[1, 2, 6\], got \[1, 3, 6\]",
    ),
    "shape of resets": (
        {"resets": torch.zeros(B, T, dtype=torch.bool)},
        r"resets of shape \[4, 3\], got \[3, 4\]",
    ),
    "3-D resets": ({"resets": torch.zeros(T, B, 1, dtype=torch.bool)}, r"got \[4, 3, 1\]"),
    "resets, batch first": (
        {
            "x": torch.randn(B, T, I),
            "batch_first": True,
            "resets": torch.zeros(T, B, dtype=torch.bool),
        },
        r"resets of shape \[3, 4\], got \[4, 3\]",
    ),
    "resets of int": ({"resets": torch.zeros(T, B, dtype=torch.uint8)}, "must be a bool tensor"),
    "resets of float": ({"resets": torch.zeros(T, B)}, "must be a bool tensor"),
    "resets of a packed batch": (
        {
            **PACKED,
            "batch_sizes": integers(3, 2, 1),
            "resets": torch.zeros(3, 3, dtype=torch.bool),
        },
        r"resets of shape \[6\], got \[3, 3\]",
    ),
}


@pytest.mark.parametrize("changes, message", BAD_SCANS.values(), ids=BAD_SCANS)
def test_bad_scans(changes: dict, message: str) -> None:
    given = {**arguments(), **changes}
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fastrnn.scan(**given)
    for needs_grad in (False, True):
        tensors = [t.requires_grad_(needs_grad) for t in given["weights"] if t.is_floating_point()]
        with pytest.raises((RuntimeError, KeyError), match=message):
            fastrnn.ops.scan(Inputs(**{k: v for k, v in given.items() if k != "save"}))
        for t in tensors:
            t.requires_grad_(False)


def test_the_good_arguments_are_good() -> None:
    """Or else every test of bad ones would pass for a reason that is not its own."""
    for cell in CELLS:
        torch.ops.fastrnn.scan(**arguments(cell))
        torch.ops.fastrnn.scan(**arguments(cell, 2))
    torch.ops.fastrnn.scan(**arguments(proj=2))
    torch.ops.fastrnn.scan(**arguments(lengths=integers(0, 4, 2)))
    torch.ops.fastrnn.scan(**arguments(**PACKED, batch_sizes=integers(3, 2, 1)))
    torch.ops.fastrnn.scan(**arguments(resets=torch.ones(T, B, dtype=torch.bool)))


def backward_arguments(cell: str = "lstm", proj: int = 0, **changes: Any) -> dict:
    """Good arguments of scan_backward, and changes to them."""
    given = arguments(cell, proj=proj)
    out = torch.ops.fastrnn.scan(**given)
    states = CELLS[cell].states
    grads = [torch.ones_like(t) for t in out[: 2 * states]]
    del given["save"]
    needs = {"needs_x": True, "needs_states": True, "needs_weights": True}
    outputs = [out[0], *out[1 + states :]]
    return {"grads": grads, **given, "outputs": outputs, **needs, **changes}


GOOD = backward_arguments()
Y, STEPS, SAVED = GOOD["outputs"]
G = GOOD["grads"]

BAD_FORMS: dict[str, tuple[dict, str]] = {
    "a projected GRU": (
        arguments("gru", **{"weights": [*arguments("gru")["weights"], torch.randn(2, H)]}),
        "'gru' does not support a projection",
    ),
    "a projected MUT3": (
        arguments("mut3", **{"weights": [*arguments("mut3")["weights"], torch.randn(2, H)]}),
        "'mut3' does not support a projection",
    ),
    "x itself of another size": (
        arguments("mut1", weights=[torch.randn(2 * H, I), torch.randn(2 * H, H)]),
        "'mut1' takes x itself .* got 5 and 6",
    ),
    "rows of weight_ih": (
        arguments("mut3", weights=[torch.randn(2 * H, I), torch.randn(3 * H, H)]),
        r"weight_ih of shape",
    ),
    "peepholes of a plain LSTM": (
        arguments("lstm", weights=[*arguments("lstm_peephole")["weights"], torch.randn(3 * H)]),
        r"2 to 5 weights per direction, got 6",
    ),
    "an LSTM without peepholes": (
        arguments("lstm_peephole", weights=arguments("lstm")["weights"][:2]),
        "3 to 6 weights per direction, got 2",
    ),
    "peepholes of two gates": (
        arguments("lstm_peephole", weights=[*arguments("lstm")["weights"], torch.randn(2 * H)]),
        r"weight_peephole of shape \[18\], got \[12\]",
    ),
}


@pytest.mark.parametrize("given, message", BAD_FORMS.values(), ids=BAD_FORMS)
def test_bad_forms(given: dict, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fastrnn.scan(**given)


BAD_BACKWARDS: dict[str, tuple[dict, str]] = {
    "no outputs": ({"outputs": []}, "3 saved outputs, got 0"),
    "too few outputs": ({"outputs": [Y, STEPS]}, "3 saved outputs, got 2"),
    "too many outputs": ({"outputs": [Y, STEPS, SAVED, SAVED]}, "3 saved outputs, got 4"),
    "shape of y": ({"outputs": [Y[1:], STEPS, SAVED]}, r"y of shape \[4, 3, 6\], got \[3, 3, 6\]"),
    "shape of steps": ({"outputs": [Y, STEPS[..., 1:], SAVED]}, r"states.*got \[4, 3, 5\]"),
    "shape of saved": ({"outputs": [Y, STEPS, SAVED[1:]]}, r"saved values.*got \[11, 1, 24\]"),
    "type of y": ({"outputs": [Y.double(), STEPS, SAVED]}, "got Double"),
    "type of steps": ({"outputs": [Y, STEPS.double(), SAVED]}, "got Double"),
    "type of saved": ({"outputs": [Y, STEPS, SAVED.half()]}, "got Half"),
    "no grads": ({"grads": []}, "4 gradients, got 0"),
    "too few grads": ({"grads": G[:3]}, "4 gradients, got 3"),
    "too many grads": ({"grads": [*G, G[0]]}, "4 gradients, got 5"),
    "shape of grad y": ({"grads": [G[0][1:], *G[1:]]}, r"grad of output.*got \[3, 3, 6\]"),
    "shape of grad last": ({"grads": [G[0], G[1][0], *G[2:]]}, r"grad of hidden.*got \[3, 6\]"),
    "shape of grad steps": ({"grads": [*G[:3], G[3][0]]}, r"grad of states.*got \[3, 6\]"),
    "type of grad y": ({"grads": [G[0].double(), *G[1:]]}, "got Double"),
    "type of grad last": ({"grads": [G[0], G[1].half(), *G[2:]]}, "got Half"),
    "unknown cell": (
        {"cell": "lstn"},
        f"Unknown cell 'lstn'; there are {', '.join(CELLS)}$",
    ),
    "another cell": ({"cell": "rnn_tanh"}, "."),
    "lengths": ({"lengths": integers(1, 2, 5)}, r"within \[0, 4\]"),
    "no weights": ({"weights": []}, "2 to 5 weights"),
}


@pytest.mark.parametrize("changes, message", BAD_BACKWARDS.values(), ids=BAD_BACKWARDS)
def test_bad_scan_backwards(changes: dict, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        torch.ops.fastrnn.scan_backward(**{**GOOD, **changes})


def test_scan_backward_of_no_gradients_is_zero() -> None:
    for cell, proj in (("lstm", 0), ("lstm", 2), ("gru", 0), ("rnn_relu", 0)):
        given = backward_arguments(cell, proj)
        given["grads"] = [None] * len(given["grads"])
        found = torch.ops.fastrnn.scan_backward(**given)
        for t in found:
            assert torch.equal(t, torch.zeros_like(t))


def test_scan_backward_without_states() -> None:
    """The gradient of zeros that were not given can be had, too."""
    given = backward_arguments()
    zero = [torch.zeros_like(s) for s in given["states"]]
    found, expected = (
        torch.ops.fastrnn.scan_backward(**{**given, "states": states}) for states in ([], zero)
    )
    assert len(found) == len(expected)
    for f, e in zip(found, expected, strict=True):
        assert torch.equal(f, e)


@pytest.mark.parametrize("cell", CELLS)
def test_weights_may_lie_in_any_way(cell: str, isa: str) -> None:
    given = {key: value for key, value in arguments(cell, 2).items() if key != "save"}

    def laid(t: Tensor, way: int) -> Tensor:
        if way == 0:
            return t.transpose(0, -1).contiguous().transpose(0, -1)
        return torch.stack([t, t + 1], -1)[..., 0]

    for way in range(2):
        given["weights"] = [laid(w.double(), way) for w in given["weights"]]
        given["x"] = laid(given["x"].double(), way)
        given["states"] = [laid(s.double(), way) for s in given["states"]]
        found, expected = fastrnn.ops.scan(Inputs(**given)), reference.scan(Inputs(**given))
        torch.testing.assert_close(found.y, expected[0], rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(found.last, expected[1], rtol=1e-11, atol=1e-12)


def test_nan_in_a_weight_shows_without_a_state() -> None:
    for name in ("LSTM", "GRU", "RNN"):
        theirs, ours = twins(name, 3, 5)
        for module in (theirs, ours):
            module.weight_hh_l0.data[1, 2] = torch.nan
        found, expected = (tensors_in(m(torch.ones(1, 2, 3).double())) for m in (ours, theirs))
        for f, e in zip(found, expected, strict=True):
            assert torch.equal(f.isnan(), e.isnan())
            assert f.isnan().any()
