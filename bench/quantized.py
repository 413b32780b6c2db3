"""Weights of int8 against float32 and against other implementations: python bench/quantized.py.

One layer, forward, of as many inputs as hidden units. fastrnn in float32 and with weights of int8,
torch.ao's dynamic quantisation (qint8), and ONNX Runtime's DynamicQuantizeLSTM where onnx and
onnxruntime are installed (it has no GRU) take turns with a rest between them; times are medians, in
microseconds of a step. The error is the largest difference from float32's y.
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn
from fastrnn._commands.compare import NAMES, Shape
from fastrnn._commands.machine import Machine

ROUNDS, TURN_SECONDS = 7, 0.08
REST_SECONDS = 0.05  # the threads of each provider spin for a while after a call
WARM_UP_CALLS = 3
SIZES = (64, 128, 256, 512, 1024)
SHAPES = tuple(Shape(T, B, H, H) for T in (1, 100) for B in (1, 4) for H in SIZES)
FLOAT, INT8, AO, ONNX = "float32", "int8", "torch.ao", "ONNX Runtime"

Call = Callable[[], Tensor]  # y


def _module_call(module: nn.Module, x: Tensor) -> Call:
    return lambda: module(x)[0]


def _ao(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated
        kinds = {nn.LSTM, nn.GRU}
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(module), kinds, torch.qint8)[0]


def _onnx(module: nn.LSTM, x: Tensor, threads: int) -> Call:
    import onnx
    from engines.engines import OnnxRuntime
    from engines.graphs import graph_of, output_names
    from onnxruntime.quantization import quantize_dynamic

    steps, batch, _ = x.shape
    logging.getLogger().setLevel(logging.ERROR)  # it advises to optimise the graph before
    with TemporaryDirectory() as folder:
        before, after = Path(folder, "before.onnx"), Path(folder, "after.onnx")
        onnx.save(graph_of(module, steps, batch, False), before)
        # Without VNNI its products of full int8 would saturate.
        vnni = "vnni" in Path("/proc/cpuinfo").read_text()
        quantize_dynamic(before, after, per_channel=True, reduce_range=not vnni)
        model = onnx.load(after)
    if [node.op_type for node in model.graph.node] != ["DynamicQuantizeLSTM"]:
        raise RuntimeError("ONNX Runtime has not quantised the layer")
    y = torch.empty(steps, 1, batch, module.hidden_size)
    last = {name: y.new_empty(1, *y.shape[2:]) for name in output_names(module)}
    run = OnnxRuntime(model, threads).bound({"x": x}, {"y": y, **last})

    def call(keep: Any = (x, last)) -> Tensor:
        run()
        return y[:, 0]

    return call


def calls_of(cell: str, shape: Shape) -> dict[str, Call]:
    steps, batch, inputs, hidden = shape
    torch.manual_seed(0)
    x = torch.randn(steps, batch, inputs)
    theirs = getattr(nn, NAMES[cell])(inputs, hidden).eval()
    ours = getattr(fastrnn, NAMES[cell])(inputs, hidden).eval()
    ours.load_state_dict(theirs.state_dict())
    int8 = fastrnn.quantize_(copy.deepcopy(ours))
    calls = {FLOAT: ours, INT8: int8, AO: _ao(theirs)}
    found = {name: _module_call(module, x) for name, module in calls.items()}
    if cell == "lstm" and find_spec("onnxruntime") and find_spec("onnx"):
        found[ONNX] = _onnx(theirs, x, torch.get_num_threads())
    return found


def turn(call: Call) -> float:
    """The median seconds of a call."""
    for _ in range(WARM_UP_CALLS):
        call()
    seconds: list[float] = []
    end = perf_counter() + TURN_SECONDS
    while not seconds or perf_counter() < end:
        start = perf_counter()
        call()
        seconds.append(perf_counter() - start)
    return median(seconds)


def row(cell: str, shape: Shape, rounds: int) -> str:
    calls = calls_of(cell, shape)
    exact = calls[FLOAT]().clone()
    errors = {name: float((call() - exact).abs().max()) for name, call in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds):
        for name in list(calls)[:: 1 if i % 2 == 0 else -1]:
            time.sleep(REST_SECONDS)
            found[name].append(turn(calls[name]))
    fields = [f"{cell} {shape}"]
    for name in (FLOAT, INT8, AO, ONNX):
        fields.append(f"{median(found[name]) / shape.T * 1e6:.3g}" if name in calls else "")
    for name in (FLOAT, AO, ONNX):
        ratios = [a / b for a, b in zip(found.get(name, ()), found[INT8])]
        fields.append(f"{median(ratios):.2f}x" if ratios else "")
    fields += [f"{errors[name]:.4f}" if name in calls else "" for name in (INT8, AO, ONNX)]
    return _line(fields)


def _line(fields: Sequence[str]) -> str:
    return f"| {' | '.join(fields)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", type=Shape.parse, metavar="T,B,I,H")
    parser.add_argument("--cells", nargs="+", choices=("lstm", "gru"), default=("lstm", "gru"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, help="of all providers (default: torch's)")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    print(Machine.measure(torch.float32, torch.device("cpu")))
    names = [FLOAT, INT8, AO, ONNX, f"int8 to {FLOAT}", f"to {AO}", f"to {ONNX}"]
    names += [f"error of {name}" for name in (INT8, AO, ONNX)]
    print(_line(["T,B,I,H", *names]), _line(["---"] * (1 + len(names))), sep="\n")
    with torch.inference_mode():
        for cell in given.cells:
            for shape in given.shapes or SHAPES:
                print(row(cell, shape, given.rounds), flush=True)


if __name__ == "__main__":
    main()
