"""Whole models: convert, revert, report and patched, and what models are put through."""

from __future__ import annotations

import copy
import io
import pickle
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import assert_equal, outcome, tensors_in
from torch import Tensor, nn
from torch._dynamo.testing import EagerAndRecordGraphs
from torch.nn.utils import parametrizations, parametrize, prune

import fastrnn
from fastrnn import conversion, functional

LAYERS = ("LSTM", "GRU", "RNN")
NAMES = (*LAYERS, "LSTMCell", "GRUCell", "RNNCell")
KEPT = {name: getattr(conversion, name) for name in LAYERS}

keeps = pytest.mark.parametrize("keep_type", [False, True], ids=["ours", "kept"])
each = pytest.mark.parametrize("name", NAMES)
each_layer = pytest.mark.parametrize("name", LAYERS)


def make(name: str, package: Any = nn, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return getattr(package, name)(4, 5, dtype=torch.float64, **options)


def target(name: str, keep_type: bool) -> type[nn.Module]:
    return KEPT.get(name, getattr(fastrnn, name)) if keep_type else getattr(fastrnn, name)


def example(name: str) -> Tensor:
    shape = (3, 4) if name.endswith("Cell") else (6, 3, 4)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Tagger(nn.Module):
    """A model of several recurrent modules."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.encoder = nn.ModuleList(
            [
                nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True, dropout=0.3),
                nn.GRU(6, 5, batch_first=True),
            ]
        )
        self.rnn = nn.RNN(5, 4, nonlinearity="relu", batch_first=True)
        self.steps = nn.ModuleDict(
            {"lstm": nn.LSTMCell(4, 4), "gru": nn.GRUCell(4, 4), "rnn": nn.RNNCell(4, 4)}
        )
        self.out = nn.Linear(4, 7)

    def forward(self, words: Tensor) -> Tensor:
        x = self.embed(words)
        for layer in (*self.encoder, self.rnn):
            x = layer(x)[0]
        h, c = self.steps["lstm"](x[:, -1])
        h = self.steps["rnn"](self.steps["gru"](h + c))
        return self.out(x + h[:, None])


WORDS = torch.arange(24).reshape(4, 6) % 11


def tagger() -> nn.Module:
    torch.manual_seed(0)
    return Tagger().double()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> list[float]:
    losses = []
    for step in range(steps):
        torch.manual_seed(step)  # of dropout
        optimizer.zero_grad()
        loss = model(WORDS).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def recurrent(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, (nn.RNNBase, nn.RNNCellBase))]


# ---- convert and revert --------------------------------------------------------------------------


@keeps
@each
def test_one_module(name: str, keep_type: bool) -> None:
    """The model itself: to fastrnn's and back, the same object with the same content."""
    module, x = make(name), example(name)
    expected, attributes = outcome(module, x), dict(vars(module))
    assert fastrnn.convert(module, keep_type=keep_type) is module
    assert type(module) is target(name, keep_type)
    assert module.__class__ is type(module) and isinstance(module, getattr(fastrnn, name))
    assert isinstance(module, getattr(nn, name)) is (keep_type or name.endswith("Cell"))
    assert repr(module) == repr(make(name))
    assert_equal(outcome(module, x), expected)
    assert vars(module).keys() == attributes.keys()
    assert all(vars(module)[key] is value for key, value in attributes.items())
    assert fastrnn.revert(module) is module
    assert type(module) is getattr(nn, name)
    found = outcome(module, x)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@keeps
def test_a_model(keep_type: bool) -> None:
    model, plain = tagger(), tagger()
    parameters = dict(model.named_parameters())
    model.eval()
    model.encoder[1].train()
    modes = {name: m.training for name, m in model.named_modules()}
    assert fastrnn.convert(model, keep_type=keep_type) is model
    names = ("LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell")
    assert [type(m) for m in recurrent(model)] == [target(name, keep_type) for name in names]
    assert {name: m.training for name, m in model.named_modules()} == modes
    found = dict(model.named_parameters())
    assert found.keys() == parameters.keys()
    assert all(found[name] is p for name, p in parameters.items())
    assert_equal(outcome(model.eval(), WORDS), outcome(plain.eval(), WORDS))
    fastrnn.revert(model)
    assert [type(m) for m in recurrent(model)] == [getattr(nn, name) for name in names]
    assert torch.equal(model(WORDS), plain(WORDS))


@keeps
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_an_optimizer_made_before_goes_on(
    optimizer: type[torch.optim.Optimizer], keep_type: bool
) -> None:
    """Its moments, too; dropout draws torch.nn's masks."""
    losses = []
    for change in (lambda model: model, lambda model: fastrnn.convert(model, keep_type=keep_type)):
        model = tagger()
        own = optimizer(model.parameters(), lr=0.1)
        before = train(model, own)
        change(model)
        losses.append(before + train(model, own))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-10, atol=0)
    assert len(set(losses[0])) == 4


def test_skip_is_asked_by_name_and_module() -> None:
    model, asked = tagger(), []

    def skip(name: str, module: nn.Module) -> bool:
        asked.append((name, module))
        return name.startswith("encoder") or isinstance(module, nn.GRUCell)

    fastrnn.convert(model, skip=skip)
    assert asked == [(n, m) for n, m in model.named_modules() if m in recurrent(model)]
    names = ("nn.LSTM", "nn.GRU", "RNN", "LSTMCell", "nn.GRUCell", "RNNCell")
    expected = [getattr(nn, n[3:]) if n.startswith("nn.") else getattr(fastrnn, n) for n in names]
    assert [type(m) for m in recurrent(model)] == expected


def test_a_skip_that_raises_changes_nothing() -> None:
    def skip(name: str, module: nn.Module) -> bool:
        if isinstance(module, nn.RNNCell):
            raise KeyError(name)
        return False

    model = tagger()
    with pytest.raises(KeyError, match=r"steps\.rnn"):
        fastrnn.convert(model, skip=skip)
    assert fastrnn.report(model).startswith("0 of 6 ")


def test_the_last_convert_counts() -> None:
    model = tagger()
    for keep_type in (False, False, True, True, False):
        fastrnn.convert(model, keep_type=keep_type)
        assert [isinstance(model.rnn, c) for c in (fastrnn.RNN, nn.RNN)] == [True, keep_type]


def test_a_shared_module_stays_shared() -> None:
    layer = nn.GRU(4, 4)
    model = fastrnn.convert(nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)}))
    assert model["a"] is model["b"][0] is layer
    assert type(layer) is fastrnn.GRU


@each_layer
def test_kept_types_can_be_made(name: str) -> None:
    """By code that makes another one of the same class."""
    made = make(name, conversion, num_layers=2)
    assert isinstance(made, (getattr(nn, name))) and isinstance(made, getattr(fastrnn, name))
    assert_equal(outcome(made, example(name)), outcome(make(name, num_layers=2), example(name)))


@pytest.mark.parametrize(
    "variant",
    [
        lambda: fastrnn.LSTM(4, 4, gates="io"),
        lambda: fastrnn.LSTMCell(4, 4, peephole=True),
        lambda: fastrnn.GRU(4, 4, reset_after=False),
        lambda: fastrnn.GRUCell(4, 4, reset_after=False),
        lambda: fastrnn.MUT1(4, 4),
        lambda: fastrnn.quantize_(nn.GRU(4, 4).eval()),
    ],
)
def test_what_torch_does_not_have_stays(variant: Callable[[], nn.Module]) -> None:
    """It cannot be torch.nn's, in no sense."""
    module = variant()
    before = type(module)
    for change in (fastrnn.revert, fastrnn.convert, KEPT_CONVERT):
        assert type(change(module)) is before
    assert fastrnn.report(module).endswith("  on fastrnn")


def KEPT_CONVERT(model: nn.Module) -> nn.Module:  # noqa: N802
    return fastrnn.convert(model, keep_type=True)


def test_forget_bias_is_an_lstm_of_torchs() -> None:
    module = fastrnn.LSTM(4, 5, forget_bias=1.0, dtype=torch.float64)
    expected = outcome(module, example("LSTM"))
    assert type(fastrnn.revert(module)) is nn.LSTM
    assert_equal(outcome(module, example("LSTM")), expected)
    fastrnn.convert(module).reset_parameters()
    assert (module.bias_ih_l0[5:10] == 1).all()


@each_layer
def test_revert_lays_the_weights_out_for_cudnn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[nn.Module] = []
    monkeypatch.setattr(nn.RNNBase, "flatten_parameters", lambda self: called.append(self))
    module = fastrnn.convert(make(name))
    called.clear()
    module.flatten_parameters()  # ours, which has nothing to do
    assert not called
    fastrnn.revert(module)
    assert called == [module]


# ---- what is left, and report --------------------------------------------------------------------


class Streaming(nn.LSTM):
    def forward(self, input: Tensor, hx: Any = None) -> Any:
        return super().forward(input.flip(0), hx)


class Named(nn.GRU):
    """A subclass without a forward of its own."""


class Marked(nn.Parameter):
    pass


def with_forward_of_its_own() -> nn.Module:
    module = make("LSTM")
    module.forward = module.forward
    return module


def with_weights_of_a_class() -> nn.Module:
    module = make("RNNCell")
    module._parameters["weight_hh"] = Marked(module.weight_hh.detach())
    return module


def in_a_model(module: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Identity(), module)


def quantized_by_torch() -> nn.Module:
    model = in_a_model(nn.GRU(4, 5))
    return torch.ao.quantization.quantize_dynamic(model, dtype=torch.qint8)[1]


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "own forward": (
        lambda: Streaming(4, 5),
        f"{__name__}.Streaming  not converted: a subclass of torch.nn.LSTM with a forward of its "
        "own",
    ),
    "subclass": (
        lambda: Named(4, 5),
        f"{__name__}.Named  not converted: a subclass of torch.nn.GRU",
    ),
    "base": (
        lambda: nn.RNNBase("GRU", 4, 5),
        "torch.nn.RNNBase  not converted: torch.nn has no such layer",
    ),
    "instance": (
        with_forward_of_its_own,
        "torch.nn.LSTM  not converted: forward is set on the instance",
    ),
    "parametrized": (
        lambda: parametrizations.weight_norm(nn.GRU(4, 5), "weight_hh_l0"),
        "torch.nn.utils.parametrize.ParametrizedGRU  not converted: parametrized: convert before, "
        "or after remove_parametrizations",
    ),
    "scripted": (
        lambda: dict(torch.jit.script(in_a_model(nn.GRU(4, 5))).named_modules())["1"],
        "RecursiveScriptModule of GRU  not converted: scripted or traced",
    ),
    "quantized": (
        quantized_by_torch,
        "torch.ao.nn.quantized.dynamic.modules.rnn.GRU  not converted: a class of torch.ao's",
    ),
    "type": (
        lambda: nn.GRU(4, 5).to(torch.float8_e4m3fn),
        "torch.nn.GRU  not converted: fastrnn has no kernels for torch.float8_e4m3fn",
    ),
    "tensors": (
        with_weights_of_a_class,
        "torch.nn.RNNCell  not converted: its weights are tensors of the class Marked",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(("make_it", "line"), LEFT.values(), ids=LEFT.keys())
def test_left_alone_and_named(make_it: Callable[[], nn.Module], line: str) -> None:
    module = make_it()
    before, model = type(module), in_a_model(module)
    for change in (fastrnn.convert, KEPT_CONVERT, fastrnn.revert):
        assert type(change(model)[1]) is before
        assert fastrnn.report(model) == f"0 of 1 recurrent modules run on fastrnn\n1  {line}"


def test_a_device_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.GRU(4, 5, device="meta")
    monkeypatch.setattr(functional, "DEVICES", ("cpu",))
    why = "fastrnn has no kernels for the device meta in this build; it has them for cpu"
    assert type(fastrnn.convert(module)) is nn.GRU
    assert fastrnn.report(module).endswith(f"(the model)  torch.nn.GRU  not converted: {why}")
    with pytest.raises(RuntimeError, match=f"^{why}$"):
        fastrnn.GRU(4, 5, device="meta")(torch.ones(2, 3, 4, device="meta"))


def test_a_gpu_without_kernels_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "DEVICES", ("cpu",))
    monkeypatch.setattr(functional.ops, "WHY_NO_CUDA", "torch is built without CUDA")
    found = functional.why_no_kernels(torch.device("cuda", 1))
    assert "the device cuda:1 in this build (torch is built without CUDA); it has" in found


def test_report_of_a_model() -> None:
    model = tagger()
    fastrnn.convert(model, skip=lambda name, module: name == "steps.gru")
    fastrnn.convert(model.encoder, keep_type=True)
    model.rnn.to(torch.float8_e5m2)
    assert fastrnn.report(model).splitlines() == [
        "5 of 6 recurrent modules run on fastrnn",
        "encoder.0   fastrnn.conversion.LSTM  on fastrnn",
        "encoder.1   fastrnn.conversion.GRU   on fastrnn",
        "rnn         fastrnn.RNN              fastrnn's, but calls raise: fastrnn has no kernels "
        "for torch.float8_e5m2",
        "steps.lstm  fastrnn.LSTMCell         on fastrnn",
        "steps.gru   torch.nn.GRUCell         not converted: convert takes it",
        "steps.rnn   fastrnn.RNNCell          on fastrnn",
    ]


def test_weights_of_a_class_are_no_matter_afterwards() -> None:
    """As FSDP shards them, and puts them together for a call."""
    module = fastrnn.convert(make("RNNCell"))
    expected = outcome(module, example("RNNCell"))
    module._parameters["weight_hh"] = Marked(module.weight_hh.detach())
    assert fastrnn.report(module).endswith("  on fastrnn")
    assert_equal(outcome(module, example("RNNCell")), expected)


def test_report_of_a_model_without() -> None:
    assert fastrnn.report(nn.Linear(2, 2)) == "no recurrent module in this Linear"


def test_report_is_the_function() -> None:
    """No command's module takes its name."""
    import fastrnn.__main__

    assert fastrnn.report is conversion.report and fastrnn.__main__.bench.report is not None


def test_a_model_on_meta_is_converted_before_it_has_weights() -> None:
    with torch.device("meta"):
        model = tagger()
    assert fastrnn.report(fastrnn.convert(model)).startswith("6 of 6 ")
    model.to_empty(device="cpu").load_state_dict(tagger().state_dict())
    assert_equal(outcome(model.eval(), WORDS), outcome(tagger().eval(), WORDS))


# ---- what models are put through -----------------------------------------------------------------


@keeps
def test_hooks_stay(keep_type: bool) -> None:
    model, calls = tagger(), []
    layer = model.encoder[0]
    layer.register_forward_pre_hook(lambda module, args: calls.append("before"))
    layer.register_forward_hook(lambda module, args, out: calls.append("after"))
    layer.register_full_backward_hook(lambda module, *grads: calls.append("backward"))
    layer.weight_hh_l0.register_hook(lambda grad: calls.append("weight"))
    layer.register_buffer("mean", torch.zeros(1))
    for change in (lambda m: fastrnn.convert(m, keep_type=keep_type), fastrnn.revert):
        change(model)(WORDS).sum().backward()
        assert sorted(calls) == ["after", "backward", "before", "weight"]
        assert calls[:2] == ["before", "after"] and "encoder.0.mean" in model.state_dict()
        calls.clear()


@keeps
def test_state_dicts_go_both_ways(keep_type: bool) -> None:
    plain, model = tagger(), tagger()
    nn.init.zeros_(model.encoder[0].weight_hh_l0)
    keys = list(plain.state_dict())
    fastrnn.convert(model, keep_type=keep_type)
    assert list(model.state_dict()) == keys
    assert not any(model.load_state_dict(plain.state_dict(), strict=True))
    assert_equal(outcome(model.eval(), WORDS), outcome(plain.eval(), WORDS))
    assert not any(plain.load_state_dict(model.state_dict(), strict=True))
    other = fastrnn.convert(tagger(), keep_type=not keep_type)
    assert not any(other.load_state_dict(model.state_dict(), strict=True, assign=True))


def saved_and_loaded(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "clone",
    [copy.deepcopy, saved_and_loaded, lambda model: pickle.loads(pickle.dumps(model))],
    ids=["deepcopy", "torch.save", "pickle"],
)
@keeps
def test_copies(clone: Callable[[nn.Module], nn.Module], keep_type: bool) -> None:
    model = fastrnn.convert(tagger(), keep_type=keep_type)
    found = clone(model)
    assert [type(m) for m in recurrent(found)] == [type(m) for m in recurrent(model)]
    assert not set(found.parameters()) & set(model.parameters())
    assert_equal(outcome(found.eval(), WORDS), outcome(model.eval(), WORDS))
    assert torch.equal(fastrnn.revert(found)(WORDS), tagger().eval()(WORDS))


@each_layer
def test_modules_pickled_by_an_old_torch(name: str) -> None:
    """They had no proj_size, and held weights where there are names now."""
    module = make(name)
    state = module.__getstate__()
    del state["proj_size"]
    state["_all_weights"] = [list(module._parameters.values())]
    del state["_flat_weights_names"], state["_flat_weights"]
    old = getattr(nn, name).__new__(getattr(nn, name))
    old.__setstate__(state)
    assert_equal(outcome(fastrnn.convert(old), example(name)), outcome(module, example(name)))
    assert old.proj_size == 0 and old._flat_weights_names == module._flat_weights_names


def compiled(model: nn.Module, **options: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(model, backend="aot_eager", **options)


class Steps(nn.Module):
    """A layer and a cell, for the compiler."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.cell = make("GRU"), nn.GRUCell(5, 3, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(self.layer(x)[0][-1]).sin()


def test_compile() -> None:
    model, x = fastrnn.convert(Steps()), example("GRU")
    assert_equal(outcome(model, x, call=compiled(model, fullgraph=True)), outcome(model, x))


def test_compile_of_kept_types_is_compile_of_torchs() -> None:
    """It breaks the graph at the layers, unless it is told otherwise; cells are no obstacle."""
    model, x = fastrnn.convert(Steps(), keep_type=True), example("GRU")
    expected = outcome(model, x)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="RNN, GRU, or LSTM"):
        compiled(model, fullgraph=True)(x)
    assert_equal(outcome(model, x, call=compiled(model)), expected)
    with torch._dynamo.config.patch(allow_rnn=True):
        assert_equal(outcome(model, x, call=compiled(model, fullgraph=True)), expected)
    cell = model.cell
    x = x[0, :, :1].expand(3, 5)
    assert_equal(outcome(cell, x, call=compiled(cell, fullgraph=True)), outcome(cell, x))


def test_a_compiled_model_is_converted_late() -> None:
    """Its guards see that the classes are others, and it compiles again."""
    graphs = EagerAndRecordGraphs()
    torch._dynamo.reset()
    model, x = Steps(), example("GRU")
    call = torch.compile(model, backend=graphs)

    def scans() -> int:
        return sum("fastrnn.scan" in str(n.target) for g in graphs.graphs for n in g.graph.nodes)

    with torch.no_grad():
        expected = call(x)
        assert scans() == 0
        fastrnn.convert(call)
        assert fastrnn.report(call).splitlines()[1:] == [
            "_orig_mod.layer  fastrnn.GRU      on fastrnn",
            "_orig_mod.cell   fastrnn.GRUCell  on fastrnn",
        ]
        torch.testing.assert_close(call(x), expected, rtol=1e-11, atol=1e-12)
        assert scans() == 2


@keeps
def test_export(keep_type: bool) -> None:
    model = fastrnn.convert(tagger(), keep_type=keep_type).eval()
    with torch.no_grad():
        program = torch.export.export(model, (WORDS,))
        called = [str(node.target) for node in program.graph.nodes]
        assert sum(name == "fastrnn.scan.default" for name in called) == 7
        torch.testing.assert_close(program.module()(WORDS), model(WORDS))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@keeps
def test_quantization(keep_type: bool) -> None:
    """torch.ao's knows torch.nn's classes only, kept types neither; ours takes all layers."""
    model = fastrnn.convert(tagger().float(), keep_type=keep_type).eval()
    found = torch.ao.quantization.quantize_dynamic(model, dtype=torch.qint8)
    assert [type(m) for m in recurrent(found)] == [type(m) for m in recurrent(model)]
    assert type(found.out) is torch.ao.nn.quantized.dynamic.Linear
    expected = fastrnn.convert(fastrnn.quantize_(tagger().float())).eval()
    fastrnn.quantize_(model)
    with torch.inference_mode():
        assert torch.equal(model(WORDS), expected(WORDS))
    shown = [type(m).__name__ for m in model.modules()].count("Quantized")
    assert shown == 3 and repr(model) == repr(expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "change",
    [
        lambda m, name: nn.utils.weight_norm(m, name),
        lambda m, name: nn.utils.spectral_norm(m, name),
        lambda m, name: prune.l1_unstructured(m, name, amount=0.4),
        lambda m, name: parametrizations.weight_norm(m, name),
        lambda m, name: parametrizations.orthogonal(m, name),
    ],
    ids=["weight_norm", "spectral_norm", "prune", "parametrized norm", "orthogonal"],
)
@keeps
@each
def test_weights_that_are_computed(
    name: str, keep_type: bool, change: Callable[[nn.Module, str], nn.Module]
) -> None:
    """Hooks before and after convert; parametrizations after it."""
    weight = "weight_hh" if name.endswith("Cell") else "weight_hh_l0"
    results = []
    for order in ("none", "convert last", "convert first"):
        module = make(name)
        if order == "convert first":
            fastrnn.convert(module, keep_type=keep_type)
        torch.manual_seed(1)
        change(module, weight)
        if order == "convert last":
            fastrnn.convert(module, keep_type=keep_type)
        torch.manual_seed(2)
        results.append(outcome(module.eval(), example(name)))
        assert isinstance(module, getattr(fastrnn, name)) is (
            order == "convert first"
            or (order == "convert last" and not parametrize.is_parametrized(module))
        )
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


@keeps
@each
def test_parametrizations_come_off(name: str, keep_type: bool) -> None:
    weight = "weight_hh" if name.endswith("Cell") else "weight_hh_l0"
    module = fastrnn.convert(make(name), keep_type=keep_type)
    parametrizations.weight_norm(module, weight)
    assert fastrnn.report(module).startswith("1 of 1 ")
    assert parametrize.is_parametrized(fastrnn.revert(module))
    parametrize.remove_parametrizations(module, weight)
    assert type(module) is target(name, keep_type)
    assert type(fastrnn.revert(module)) is getattr(nn, name)


@keeps
@each
def test_replicas_of_data_parallel(name: str, keep_type: bool) -> None:
    """What torch.nn.parallel.replicate does with each module: the weights of a replica are plain
    tensors, and no parameters."""
    module = fastrnn.convert(make(name), keep_type=keep_type)
    replica = module._replicate_for_data_parallel()
    for key, p in module.named_parameters():
        setattr(replica, key, (p * 2).view_as(p))
    assert not list(replica.parameters()) and type(replica) is type(module)
    double = make(name)
    with torch.no_grad():
        for p in double.parameters():
            p *= 2
    x = example(name)
    found, expected = tensors_in(replica(x)), tensors_in(double(x))
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-11, atol=1e-12)
    assert found[0].requires_grad
    assert_equal(outcome(module, x), outcome(make(name), x))


@keeps
@each_layer
def test_flatten_parameters(name: str, keep_type: bool) -> None:
    module = fastrnn.convert(make(name, num_layers=2), keep_type=keep_type)
    pointers = [p.data_ptr() for p in module.parameters()]
    module.flatten_parameters()
    module.float().double().flatten_parameters()
    assert len(pointers) == 8 and module._flat_weights == list(module.parameters())


@keeps
@each
def test_methods_are_torchs(name: str, keep_type: bool) -> None:
    """All that torch.nn's has, for subclasses and for code that calls them; ours differ where they
    have something of their own to do."""
    theirs, ours = getattr(nn, name), target(name, keep_type)
    own = {"forward", "extra_repr", "reset_parameters", "flatten_parameters"}
    own |= {"_save_to_state_dict", "_load_from_state_dict", "__init__"}
    for key in dir(theirs):
        value = getattr(theirs, key)
        if callable(value) and not key.startswith("__") and key not in own:
            assert getattr(ours, key) == value, key
    checks = {"check_forward_args", "permute_hidden", "check_hidden_size", "check_input"}
    checks |= {"get_expected_hidden_size"}
    checks |= {"get_expected_cell_size"} if name == "LSTM" else set()
    if name in LAYERS:
        assert checks <= set(dir(ours))


@each_layer
def test_a_subclass_with_torchs_methods_in_its_forward(name: str) -> None:
    """As models have them that sort the batch themselves, derived from ours or from torch.nn's."""

    def sorted_layer(base: type[nn.Module]) -> type[nn.Module]:
        class Sorted(base):
            def forward(self, input: Tensor, hx: Any, order: Tensor) -> Any:
                hx = self.permute_hidden(hx, order)
                self.check_forward_args(input, hx, None)
                y, last = super().forward(input.index_select(1, order), hx)
                return y, self.permute_hidden(last, order.argsort())

        return Sorted

    order, shape = torch.tensor([2, 0, 1]), (1, 3, 5)
    h, c = torch.linspace(-1, 1, 30, dtype=torch.float64).view(2, *shape)
    hx = (h, c) if name == "LSTM" else h
    results = []
    for package in (nn, fastrnn, conversion):
        torch.manual_seed(0)
        module = sorted_layer(getattr(package, name))(4, 5, dtype=torch.float64)
        results.append(outcome(module, example(name), hx, order))
        with pytest.raises(RuntimeError, match=r"Expected hidden.* size \(1, 2, 5\)"):
            module(example(name)[:, :2], hx, order)
    assert_equal(results[1], results[0])
    assert_equal(results[2], results[0])


# ---- patched -------------------------------------------------------------------------------------


class Early(nn.GRU):
    """A subclass made before."""


EARLY = nn.LSTM


def test_patched() -> None:
    theirs = {name: getattr(nn, name) for name in NAMES}
    with fastrnn.patched():
        assert all(getattr(nn, name) is getattr(fastrnn, name) for name in NAMES)
        model = tagger()
        early, name = Early(4, 5), EARLY(4, 5)
        assert isinstance(torch.nn.LSTM(2, 3), fastrnn.LSTM)
        assert not isinstance(name, nn.LSTM)
        with fastrnn.patched():
            pass
        assert nn.LSTM is fastrnn.LSTM  # the outer one's
    assert {name: getattr(nn, name) for name in NAMES} == theirs
    assert fastrnn.report(model).startswith("6 of 6 ")
    assert [type(early), type(name)] == [Early, nn.LSTM]
    assert torch.nn.modules.rnn.LSTM is nn.LSTM
    assert_equal(outcome(model.eval(), WORDS), outcome(tagger().eval(), WORDS))


def test_patched_ends_with_an_error() -> None:
    theirs = nn.LSTM
    with pytest.raises(ValueError, match="greater than zero"), fastrnn.patched():
        nn.LSTM(0, 1)
    assert nn.LSTM is theirs


def test_patched_as_a_decorator() -> None:
    build = fastrnn.patched()(tagger)
    for _ in range(2):
        assert fastrnn.report(build()).startswith("6 of 6 ")
        assert fastrnn.report(tagger()).startswith("0 of 6 ")


def test_patched_subclass_that_names_its_base() -> None:
    """What the docstring says that it cannot do."""

    class Old(nn.LSTM):
        def __init__(self) -> None:
            nn.LSTM.__init__(self, 2, 3)

    Old()
    with fastrnn.patched(), pytest.raises(AttributeError):
        Old()


def test_convert_and_pickles_within_patched() -> None:
    data = pickle.dumps(make("LSTM"))
    with fastrnn.patched():
        loaded = pickle.loads(data)
        assert type(loaded) is EARLY
        assert pickle.dumps(loaded)
        assert type(fastrnn.convert(loaded)) is fastrnn.LSTM
        assert type(fastrnn.revert(loaded)) is EARLY


def test_patched_before_a_first_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and subclasses of a module that is imported within are ours for good."""
    (tmp_path / "imported_late.py").write_text(
        "from torch import nn\nfrom torch.nn import LSTM\nclass Late(nn.GRU): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with fastrnn.patched():
        late = import_module("imported_late")
    del sys.modules["imported_late"]
    assert late.LSTM is fastrnn.LSTM and issubclass(late.Late, fastrnn.GRU)


# ---- models that initialise by isinstance --------------------------------------------------------


class Pretrained(nn.Module):
    """Makes models as transformers does: without weights; then those of the file are loaded, and
    the missing ones come into being by _init_weights, which asks isinstance."""

    def __init__(self, layer: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.lstm = (layer or nn.LSTM)(4, 5)
        self.out = nn.Linear(5, 2)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.LSTM, nn.Linear)):
            for p in module.parameters(recurse=False):
                nn.init.constant_(p, 0.25)

    @classmethod
    def from_pretrained(cls, weights: dict[str, Tensor], *args: Any) -> Pretrained:
        with torch.device("meta"):
            model = cls(*args)
        model.to_empty(device="cpu")
        with torch.no_grad():
            for p in model.parameters():
                p.fill_(torch.nan)  # what memory that nobody has written may hold
        missing = set(model.load_state_dict(weights, strict=False).missing_keys)
        for name, module in model.named_modules():
            if any(key.rpartition(".")[0] == name for key in missing):
                model._init_weights(module)
        return model


HEAD = {key: t for key, t in Pretrained().state_dict().items() if key.startswith("out")}


def test_models_that_initialise_by_isinstance() -> None:
    """Built with fastrnn.LSTM, the layer stays without weights, silently."""
    assert Pretrained.from_pretrained(HEAD, fastrnn.LSTM).lstm.weight_hh_l0.isnan().all()
    with fastrnn.patched():  # which makes isinstance ask for fastrnn.LSTM
        assert (Pretrained.from_pretrained(HEAD).lstm.weight_hh_l0 == 0.25).all()
    # The ways that the documentation shows: torch.nn first, or a kept type.
    model = fastrnn.convert(Pretrained.from_pretrained(HEAD))
    assert (model.lstm.weight_hh_l0 == 0.25).all() and type(model.lstm) is fastrnn.LSTM
    assert (Pretrained.from_pretrained(HEAD, conversion.LSTM).lstm.weight_hh_l0 == 0.25).all()
    # Weights that are drawn anew after convert need the kept type.
    for keep_type in (False, True):
        model = fastrnn.convert(Pretrained(), keep_type=keep_type)
        model.apply(model._init_weights)
        assert (model.lstm.weight_hh_l0 == 0.25).all().item() is keep_type
