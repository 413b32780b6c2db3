"""What a call costs where the kernel has next to nothing to do: python bench/call.py.

One step of one row, from the module down. Each column is what a layer of the call adds: Python
over the op, and of the op the kernel over scan without one, allocation over the checks, the checks
over an op with the same arguments that does nothing (bench/call.cpp). All of them take turns, as do
torch.nn and fastrnn in training; times are medians of the rounds, in microseconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.utils.cpp_extension import load

import fastrnn
from fastrnn._commands.compare import NAMES, STEPS
from fastrnn._commands.machine import Machine

SIZE = 64
ROUNDS, BLOCK_SECONDS = 15, 0.01
ROOT = Path(__file__).parent.parent
STAGES = ("dispatched", "checked", "allocated")
LINEAR = "torch.nn.Linear"

Call = Callable[[], Any]


class AllocatesOnly(Function):
    """The least that a Function in Python costs: as many tensors in and out, and no kernel."""

    @staticmethod
    def forward(ctx: Any, outputs: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        return tuple(torch.empty_like(inputs[0]) for _ in range(outputs))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *map(torch.empty_like, ctx.saved_tensors)


def medians(calls: Mapping[str, Call], rounds: int) -> dict[str, float]:
    """Microseconds of each call."""

    def seconds(call: Call, times: int) -> float:
        start = perf_counter()
        for _ in range(times):
            call()
        return (perf_counter() - start) / times

    times = {name: max(1, round(BLOCK_SECONDS / seconds(c, 20))) for name, c in calls.items()}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(seconds(call, times[name]))
    return {name: median(all_) * 1e6 for name, all_ in found.items()}


def build() -> None:
    flags = ["-std=c++20", "-O3", "-g0", "-w", f"-I{ROOT / 'csrc'}"]
    with TemporaryDirectory() as folder:
        source = str(ROOT / "bench/call.cpp")
        load("call", [source], flags, build_directory=folder, is_python_module=False)


def inputs(name: str, given: bool) -> tuple[Tensor, tuple[Any, ...]]:
    """A module's x, and hx if it is given."""
    shape = (1, SIZE) if name in STEPS else (1, 1, SIZE)
    h, c = torch.randn(shape), torch.randn(shape)
    return torch.randn(shape), ((h, c) if name.startswith("lstm") else h,) * given


def inference(name: str, given: bool, linear: nn.Module) -> dict[str, Call]:
    """The module and the stages of its op."""
    module, (x, hx) = getattr(fastrnn, NAMES[name])(SIZE, SIZE), inputs(name, given)
    states = [t for state in hx for t in (state if isinstance(state, tuple) else (state,))]
    layer = STEPS.get(name, name)
    cell = "rnn_tanh" if layer == "rnn" else layer
    arguments = (cell, x, states, [*module.parameters()], None, None, None, False, False, False)
    ops = {stage: getattr(torch.ops.fastrnn_call, stage).default for stage in STAGES}
    ops["op"] = torch.ops.fastrnn.scan.default
    calls = {stage: lambda op=op: op(*arguments) for stage, op in ops.items()}
    return {LINEAR: lambda: linear(x), **calls, "module": lambda: module(x, *hx)}


def step(call: Callable[..., Any], x: Tensor, parameters: Sequence[Tensor]) -> Call:
    """A training step: forward, and backward of its first result."""
    leaves, grad = [x.requires_grad_(), *parameters], torch.randn(*x.shape[:-1], SIZE)

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        out = call(x)
        (out if isinstance(out, Tensor) else out[0]).backward(grad)

    return run


def training(name: str) -> dict[str, Call]:
    x = inputs(name, False)[0]
    peer, ours = (getattr(package, NAMES[name])(SIZE, SIZE) for package in (nn, fastrnn))
    weights = [*ours.parameters()]
    outputs = 3 if name.startswith("lstm") else 2
    least = step(lambda x: AllocatesOnly.apply(outputs, x, *weights), x, weights)
    found = {"torch.nn": step(peer, x, [*peer.parameters()]), "fastrnn": step(ours, x, weights)}
    return found | {"Function": least}


def row(*entries: str) -> str:
    return f"| {' | '.join(entries)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--no-grad", action="store_true", help="instead of inference mode")
    parser.add_argument("--results", type=Path, help="DIR/NAME of the .md")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    build()
    machine = Machine.measure(torch.float32, torch.device("cpu"))
    mode = torch.no_grad if args.no_grad else torch.inference_mode
    linear = nn.Linear(SIZE, SIZE)
    lines = [
        "# A call\n",
        f"{machine.name}, {machine.isa}, {args.threads} threads, float32; {machine.versions}; "
        f"{machine.date}.\n",
        f"Microseconds of T = B = 1, I = H = {SIZE}, in {mode.__name__}; the last column is the "
        f"module's time over that of {LINEAR}({SIZE}, {SIZE}).\n",
        row("module", "Python", "dispatcher", "checks", "allocation", "kernel", "all", "ratio"),
        row(*["---"] * 8),
    ]
    for name in NAMES:
        for given in (False, True):
            with mode():
                us = medians(inference(name, given, linear), args.rounds)
            parts = [
                us["module"] - us["op"],
                us["dispatched"],
                us["checked"] - us["dispatched"],
                us["allocated"] - us["checked"],
                us["op"] - us["allocated"],
                us["module"],
            ]
            label = NAMES[name] + " with hx" * given
            ratio = f"{us['module'] / us[LINEAR]:.2f}"
            lines.append(row(label, *(f"{part:.1f}" for part in parts), ratio))
    lines += [
        f"\n{LINEAR} takes {us[LINEAR]:.1f}.\n",
        "Microseconds of a training step, forward and backward; Function is an autograd.Function "
        "that takes and returns as many tensors and only allocates.\n",
        row("module", "torch.nn", "fastrnn", "Function", "ratio"),
        row(*["---"] * 5),
    ]
    for name in NAMES:
        us = medians(training(name), args.rounds)
        shown = (f"{t:.1f}" for t in us.values())
        lines.append(row(NAMES[name], *shown, f"{us['torch.nn'] / us['fastrnn']:.2f}x"))
    text = "\n".join([*lines, ""])
    print(text)
    if args.results:
        args.results.with_name(f"{args.results.name}.md").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
