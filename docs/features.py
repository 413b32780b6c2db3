"""Makes features.md: tries each feature on torch.nn and on fastrnn. python docs/features.py

A feature is a function of a layer's class that raises where the layer cannot do it, or does it
wrongly.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jvp, stack_module_state, vmap
from torch.nn.utils import parametrizations, rnn
from torch.utils.flop_counter import FlopCounterMode

import fastrnn

TARGET = Path(__file__).with_name("features.md")
CELLS = ("LSTM", "GRU", "RNN")
T, B, I, H = 5, 3, 4, 6  # noqa: E741

Make = Callable[..., nn.Module]
FEATURES: dict[str, dict[str, Callable[[Make], Any]]] = {}


def feature(group: str, name: str) -> Callable[[Callable[[Make], Any]], Callable[[Make], Any]]:
    """Adds a row to the table."""

    def add(attempt: Callable[[Make], Any]) -> Callable[[Make], Any]:
        FEATURES.setdefault(group, {})[name] = attempt
        return attempt

    return add


def x(*shape: int) -> Tensor:
    return torch.randn(*(shape or (T, B, I)))


# ---- sequences and states ------------------------------------------------------------------------


@feature("Layers", "layers, directions, dropout, `batch_first`")
def _(make: Make) -> None:
    layer = make(I, H, num_layers=2, bidirectional=True, dropout=0.5, batch_first=True)
    assert layer(x(B, T, I))[0].shape == (B, T, 2 * H)


@feature("Layers", "unbatched input")
def _(make: Make) -> None:
    assert make(I, H)(x(T, I))[0].shape == (T, H)


@feature("Layers", "`proj_size`")
def _(make: Make) -> None:
    make(I, H, proj_size=2)(x())


@feature("Layers", "float64, bfloat16 and float16, with gradients, on the CPU")
def _(make: Make) -> None:
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        make(I, H, dtype=dtype)(x().to(dtype))[0].sum().backward()


@feature("Layers", "complex numbers")
def _(make: Make) -> None:
    make(I, H, dtype=torch.complex64)(x().to(torch.complex64))


@feature("Layers", "variants: LSTM without a gate or with peepholes, GRU with r before the product")
def _(make: Make) -> None:
    kind = make(1, 1)
    option = {"gates": "io"} if "LSTM" in type(kind).__name__ else {"reset_after": False}
    make(I, H, **option)(x())


@feature("Sequences", "`PackedSequence`")
def _(make: Make) -> None:
    make(I, H)(rnn.pack_sequence([x(3, I), x(2, I)]))


@feature("Sequences", "`lengths=`, with 0")
def _(make: Make) -> None:
    y = make(I, H)(x(), lengths=torch.tensor([5, 0, 2]))[0]
    assert not y[2:, 2].any()


@feature("Sequences", "jagged NestedTensor")
def _(make: Make) -> None:
    nested = torch.nested.nested_tensor([x(3, I), x(2, I)], layout=torch.jagged)
    make(I, H, batch_first=True)(nested)


@feature("Sequences", "episodes that begin within a sequence, `resets=`")
def _(make: Make) -> None:
    make(I, H)(x(), resets=torch.rand(T, B) < 0.3)


@feature("Sequences", "the states after every step, `return_states=True`")
def _(make: Make) -> None:
    make(I, H)(x(), return_states=True)


@feature("Sequences", "no rows: B = 0")
def _(make: Make) -> None:
    make(I, H)(x(T, 0, I))


@feature("Sequences", "no steps: T = 0")
def _(make: Make) -> None:
    make(I, H)(x(0, B, I))


# ---- numbers -------------------------------------------------------------------------------------


@feature("Bits", "the same however a sequence is cut into chunks")
def _(make: Make) -> None:
    layer, whole = make(32, 48), x(9, 2, 32)
    with torch.no_grad():
        y, state, parts = layer(whole)[0], None, []
        for chunk in whole.split([1, 4, 4]):
            part, state = layer(chunk, state)
            parts.append(part)
    assert torch.equal(torch.cat(parts), y)


@feature("Bits", "the same on any number of threads")
def _(make: Make) -> None:
    layer, whole, before = make(64, 64), x(10, 16, 64), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(layer(whole)[0])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], y) for y in found)


# ---- gradients -----------------------------------------------------------------------------------


def loss(layer: nn.Module, of: Tensor) -> Tensor:
    return layer(of)[0].square().sum()


@feature("Gradients", "double backward")
def _(make: Make) -> None:
    leaf = x().requires_grad_()
    (first,) = torch.autograd.grad(loss(make(I, H), leaf), leaf, create_graph=True)
    first.square().sum().backward()


@feature("Gradients", "forward-mode AD, `torch.func.jvp`")
def _(make: Make) -> None:
    layer, point, tangent = make(I, H), x(), x()
    _, found = jvp(lambda v: layer(v)[0], (point,), (tangent,))
    with torch.no_grad():
        near = (layer(point + 0.01 * tangent)[0] - layer(point - 0.01 * tangent)[0]) / 0.02
    torch.testing.assert_close(found, near, rtol=0, atol=1e-3)


@feature("Gradients", "`torch.func.hessian`")
def _(make: Make) -> None:
    layer = make(2, 2)
    hessian(lambda v: loss(layer, v))(x(2, 1, 2))


@feature("Gradients", "`vmap` over inputs")
def _(make: Make) -> None:
    layer, inputs = make(I, H), x(2, T, B, I)
    found = vmap(lambda v: layer(v)[0])(inputs)
    torch.testing.assert_close(found, torch.stack([layer(v)[0] for v in inputs]))


@feature("Gradients", "`vmap` over weights, for ensembles")
def _(make: Make) -> None:
    members, inputs = [make(I, H) for _ in range(3)], x()
    weights, buffers = stack_module_state(members)
    found = vmap(lambda w, b: functional_call(members[0], (w, b), (inputs,))[0])(weights, buffers)
    torch.testing.assert_close(found, torch.stack([m(inputs)[0] for m in members]))


@feature("Gradients", "gradients of each sample by `vmap(grad)`")
def _(make: Make) -> None:
    layer = make(I, H)
    weights = {name: p.detach() for name, p in layer.named_parameters()}

    def of_sample(w: dict[str, Tensor], sample: Tensor) -> Tensor:
        return functional_call(layer, w, (sample[:, None],))[0].square().sum()

    vmap(grad(of_sample), (None, 1))(weights, x())


@feature("Gradients", "less memory by computing the gates again, `recompute=True`")
def _(make: Make) -> None:
    loss(make(I, H, recompute=True), x()).backward()


@feature("Gradients", "`y` changed in place before backward")
def _(make: Make) -> None:
    y = make(I, H)(x())[0]
    y.mul_(2)
    y.sum().backward()


# ---- compilers and export ------------------------------------------------------------------------


@feature("Compilers", "`torch.compile(fullgraph=True)`")
def _(make: Make) -> None:
    torch._dynamo.reset()
    layer = torch.compile(make(I, H), fullgraph=True, backend="aot_eager")
    loss(layer, x()).backward()


@feature("Compilers", "`torch.export` with any number of steps and rows")
def _(make: Make) -> None:
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(make(I, H), (x(),), dynamic_shapes=(dynamic,))
    program.module()(x(9, 2, I))


@feature("Compilers", "`torch.onnx`, with any number of steps and rows")
def _(make: Make) -> None:
    layer, shapes = make(I, H).eval(), ({0: "steps", 1: "batch"},)
    if type(layer).__module__.startswith("fastrnn"):
        fastrnn.onnx.export(layer, (x(),), dynamic_shapes=shapes)
    else:
        torch.onnx.export(layer, (x(),), dynamic_shapes=shapes, dynamo=True)


@feature("Compilers", "`torch.jit.script`")
def _(make: Make) -> None:
    torch.jit.script(nn.Sequential(make(I, H)))


@feature("Compilers", "`torch.jit.trace` and save, with gradients enabled")
def _(make: Make) -> None:
    torch.jit.save(torch.jit.trace(make(I, H), x(), check_trace=False), io.BytesIO())


@feature("Compilers", "`torch.fx.symbolic_trace` of a model that holds it")
def _(make: Make) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = make(I, H)

        def forward(self, v: Tensor) -> Tensor:
            return self.layer(v)[0] + 1

    torch.fx.symbolic_trace(Model())(x())


@feature("Compilers", "`torch.utils.flop_counter` counts it")
def _(make: Make) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        make(I, H)(x())
    assert counter.get_total_flops() > 0


# ---- modules -------------------------------------------------------------------------------------


@feature("Modules", "autocast to bfloat16 returns bfloat16")
def _(make: Make) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert make(I, H)(x())[0].dtype == torch.bfloat16


@feature("Modules", "parametrizations, such as `weight_norm`")
def _(make: Make) -> None:
    layer = parametrizations.weight_norm(make(I, H), "weight_hh_l0")
    loss(layer, x()).backward()


@feature("Modules", "`copy.deepcopy`, `torch.save`, `load_state_dict` of torch.nn's")
def _(make: Make) -> None:
    layer = copy.deepcopy(make(I, H))
    torch.save(layer, io.BytesIO())
    kind = next(c for c in CELLS if c in type(layer).__name__)
    layer.load_state_dict(getattr(nn, kind)(I, H).state_dict())


@feature("Modules", "`isinstance(layer, torch.nn.LSTM)`, or GRU, or RNN")
def _(make: Make) -> None:
    assert isinstance(make(I, H), (nn.LSTM, nn.GRU, nn.RNN))


@feature("Modules", "weights of int8 for inference: torch.ao's `quantize_dynamic`, or `quantize_`")
def _(make: Make) -> None:
    model = nn.Sequential(make(I, H)).eval()
    kind = type(model[0])
    if kind.__module__.startswith("fastrnn"):
        fastrnn.quantize_(model)
    else:
        model = torch.ao.quantization.quantize_dynamic(model, {kind})
    assert type(model[0]) is not kind or model[0].weight_hh_l0.dtype == torch.int8
    with torch.inference_mode():
        model(x())


# ---- the table -----------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What others print while they fail says nothing here."""
    logging.disable()
    with (
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        yield
    logging.disable(logging.NOTSET)


def can(attempt: Callable[[Make], Any], package: Any) -> str:
    """yes, no, or which cells can."""
    found = []
    for cell in CELLS:
        torch.manual_seed(0)
        try:
            with quiet():
                attempt(getattr(package, cell))
        except Exception:
            logging.disable(logging.NOTSET)
        else:
            found.append(cell)
    if not found:
        return "no"
    return "yes" if len(found) == len(CELLS) else ", ".join(found)


def table() -> str:
    lines = ["| | torch.nn | fastrnn |", "| --- | --- | --- |"]
    for group, features in FEATURES.items():
        lines.append(f"| **{group}** | | |")
        for name, attempt in features.items():
            lines.append(f"| {name} | {can(attempt, nn)} | {can(attempt, fastrnn)} |")
    return "\n".join(lines)


def document() -> str:
    version = torch.__version__.partition("+")[0]
    return f"""# What torch.nn can, and what fastrnn can

`python docs/features.py` tries each of these on the CPU, on LSTM, GRU and RNN, and makes this
table; a test tries fastrnn's column again. Where only some of the three can, they are named. This
is PyTorch {version}; some of what torch.nn can depends on the machine.

{table()}

Beyond the table: both have kernels for the CPU and for CUDA, and torch.nn has others (MPS, XPU).
[The README](../README.md#limits) has fastrnn's limits in words.
"""


if __name__ == "__main__":
    text = document()
    TARGET.write_text(text, "utf-8")
    print(text)
