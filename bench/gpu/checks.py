"""What must be right on a GPU, path by path; an empty string says that it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn._commands.compare import Run, Shape

from . import runs
from .runs import (
    ARITHMETICS,
    CELLS,
    arithmetic,
    at_most,
    draw,
    draw_input,
    errors,
    forced,
    layer,
    make_run,
)

SECONDS = 30  # a check that takes more hangs
RUNS = 20  # whose bits must be equal
MANY_STEPS = 70001  # more than fit into 16 bits

Name = str
Job = tuple[Name, Callable[[], str]]


@dataclass
class Check:
    """One thing that is right, wrong, or not possible on this path."""

    path: str
    what: str
    outcome: str  # "ok", "wrong", "refused", "error"
    detail: str = ""


# ---- numbers -------------------------------------------------------------------------------------


def less_accurate(ours: dict[str, float], theirs: dict[str, float], name: str) -> str:
    """What has an error of more than 1.5 times torch.nn's, and than two roundings.

    In float64 torch.nn is the truth itself, and both add up thousands of products in orders of
    their own; where TF32 is, cuDNN may compute in plain float32 all the same, and TF32's own
    rounding, 2^-11, several times.
    """
    rounding = torch.finfo(ARITHMETICS[name]).eps / 2
    allowed = {"float64": 128 * rounding, "tf32": 2**-9}.get(name, 2 * rounding)
    return "; ".join(
        f"{key} {error:.1e}, torch.nn {theirs[key]:.1e}"
        for key, error in ours.items()
        if not error <= 1.5 * theirs[key] + allowed
    )


def check_numbers(path: str, cell: str, name: str, shape: Shape, **options: object) -> str:
    with arithmetic(name) as dtype:
        truth = make_run(nn, cell, shape, dtype, exact=True, **options).results()
        theirs = errors(make_run(nn, cell, shape, dtype, **options).results(), truth)
        with forced(path):
            ours = errors(make_run(fastrnn, cell, shape, dtype, **options).results(), truth)
    return less_accurate(ours, theirs, name)


def check_sequences(path: str, cell: str, name: str, shape: Shape) -> str:
    """Packed rows of many lengths, in both directions, from states that are not contiguous, which
    cuDNN refuses; sorted, because the reordering of others would make them so."""
    lengths = sorted((1 + (7 * b) % shape.T for b in range(shape.B)), reverse=True)
    states = 2 if cell == "lstm" else 1

    def run(package: object, dtype: torch.dtype, exact: bool = False) -> dict[str, Tensor]:
        kind = torch.float64 if exact else dtype
        module = layer(package, cell, shape, bidirectional=True).to(dtype).to(kind)
        x = draw_input(cell, shape.T, shape.B, shape.I).to(dtype).to(kind).requires_grad_()
        hx = [draw_input(cell, shape.B, 2, shape.H, seed=1 + k) for k in range(states)]
        hx = [h.to(dtype).to(kind).transpose(0, 1) for h in hx]
        if package is nn:
            hx = [h.contiguous() for h in hx]
        y, last = module(pack_padded_sequence(x, lengths), tuple(hx) if states == 2 else hx[0])
        y.data.backward(torch.ones_like(y.data))
        ends = last if states == 2 else (last,)
        found = {"y": y.data.detach(), "grad x": x.grad}
        found |= {f"last {k}": end.detach() for k, end in enumerate(ends)}
        return found | {f"grad {n}": p.grad for n, p in module.named_parameters()}

    with arithmetic(name) as dtype:
        truth = run(nn, dtype, exact=True)
        theirs = errors(run(nn, dtype), truth)
        with forced(path):
            ours = errors(run(fastrnn, dtype), truth)
    return less_accurate(ours, theirs, name)


def check_bits(path: str, cell: str, name: str, shape: Shape) -> str:
    with arithmetic(name) as dtype, forced(path):
        run = make_run(fastrnn, cell, shape, dtype)
        first = {k: t.clone() for k, t in run.results().items()}
        differ = set()
        for _ in range(RUNS - 1):
            differ |= {k for k, t in run.results().items() if not torch.equal(t, first[k])}
    return f"differ from run to run: {', '.join(sorted(differ))}" if differ else ""


def check_graph(path: str, cell: str, name: str, shape: Shape) -> str:
    """A captured training step, replayed on another input, has the bits of an eager one."""
    with arithmetic(name) as dtype, forced(path):
        run = make_run(fastrnn, cell, shape, dtype)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        for leaf in run.leaves.values():
            leaf.grad = None
        with torch.cuda.graph(graph):
            y, _ = run.module(run.x)
            y.backward(run.grad_y)
        with torch.no_grad():
            run.x.copy_(draw_input(cell, *run.x.shape, seed=77).to(dtype))
        graph.replay()
        torch.cuda.synchronize()
        replayed = [y.detach().clone(), *(leaf.grad.clone() for leaf in run.leaves.values())]
        eager = run.results()
        expected = [eager["y"], *(eager[f"gradient of {k}"] for k in run.leaves)]
    return "" if all(map(torch.equal, replayed, expected)) else "replay and eager differ"


# ---- behaviour -----------------------------------------------------------------------------------


def check_autocast(path: str) -> str:
    """A float32 layer in autocast computes and returns float16, as the layer in float16 does."""
    shape = Shape(7, 5, 24, 32)
    run = make_run(fastrnn, "gru", shape, torch.float32)
    half = make_run(fastrnn, "gru", shape, torch.float16)
    with forced(path), torch.autocast(runs.GPU.type, torch.float16):
        y, _ = run.module(run.x)
    with forced(path):
        expected, _ = half.module(half.x)
    y.backward(run.grad_y.to(y.dtype))
    if y.dtype != torch.float16 or run.x.grad.dtype != torch.float32:
        return f"y is {y.dtype}, and the gradient of x {run.x.grad.dtype}"
    return "" if torch.equal(y, expected) else "not the bits of the layer in float16"


def check_many_steps(path: str) -> str:
    """Of an odd batch; a row alone gives the same."""
    shape = Shape(MANY_STEPS, 3, 8, 16)
    run = make_run(fastrnn, "gru", shape, torch.float32, training=False)
    with forced(path), arithmetic("float32"), torch.inference_mode():
        y, last = run.module(run.x)
        alone, _ = run.module(run.x[:, :1].contiguous())
    if not torch.equal(y[-1], last[0]):
        return "the last state is not the last output"
    return less_accurate(errors({"y": alone}, {"y": y[:, :1]}), {"y": 1e-6}, "float32")


def check_evaluation(path: str) -> str:
    """In evaluation mode there are gradients, too, which cuDNN has not."""
    run = make_run(fastrnn, "lstm", Shape(6, 4, 8, 24), torch.float32)
    with forced(path):
        expected = run.results()["gradient of x"].clone()
        run.module.eval()
        found = run.results()["gradient of x"]
    return "" if torch.equal(found, expected) else "the gradient is another one"


def check_stream(path: str) -> str:
    """Work goes to the current stream: what a long kernel before it there writes is its input."""
    run = make_run(fastrnn, "lstm", Shape(20, 8, 64, 64), torch.float32, training=False)
    wanted = draw(*run.x.shape, seed=5).float()
    with forced(path), torch.inference_mode():
        expected, _ = run.module(wanted)
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            run.x.copy_(wanted)
            y, _ = run.module(run.x)
        stream.synchronize()
    return "" if torch.equal(y, expected) else "the layer did not wait for its stream"


def check_devices(path: str) -> str:
    """A layer on a device that is not the current one."""
    last = torch.cuda.device_count() - 1
    if last < 1:
        raise RuntimeError(runs.ONE_GPU)
    run = make_run(fastrnn, "gru", Shape(5, 3, 8, 16), torch.float32)
    with forced(path):
        expected = run.results()
        there = Run(run.module.to(f"cuda:{last}"), run.x.to(f"cuda:{last}"), run.grad_y.to(last))
        found = there.results()
    same = all(torch.equal(t, expected[k].to(t.device)) for k, t in found.items())
    return "" if same else f"cuda:{last} gives other bits than cuda:0"


BEHAVIOUR = {
    "autocast": check_autocast,
    "more than 65535 steps": check_many_steps,
    "gradients in evaluation mode": check_evaluation,
    "the current stream": check_stream,
    "another device than the current one": check_devices,
}


# ---- all of a path -------------------------------------------------------------------------------


def shapes_of(path: str, small: bool) -> list[Shape]:
    """Even and odd sizes on both sides of what a path does in one way; the last has many steps."""
    texts = {
        "F": ("9,5,16,64", "4,3,7,33", "3,40,1,1", "2,1,5,31", "5,70,200,300", "256,70,32,64"),
        "A": ("9,5,16,64", "4,3,7,34", "3,40,1,2", "5,200,20,104", "1000,9,32,96"),
        "C": ("9,5,16,64", "4,3,7,98", "6,40,20,256", "3,9,20,360", "1000,16,64,256"),
        "G": ("9,5,16,64", "4,3,7,98", "6,40,20,256", "3,9,20,1000", "1000,8,64,768"),
    }[path]
    return [Shape.parse(text) for text in (texts[:2] if small else texts)]


def checks_of(path: str, small: bool) -> Iterator[Job]:
    shapes = shapes_of(path, small)
    layers = {"bidirectional": True, "bias": False, "num_layers": 2}
    for cell in CELLS[:2] if small else CELLS:
        for name in [n for n in ARITHMETICS if path == "F" or n != "float64"]:
            case = path, cell, name
            about, first, last = f"{cell} {name}", shapes[0], shapes[-1]
            for shape in shapes:
                yield f"{about} {shape}", partial(check_numbers, *case, shape)
            yield f"{about} {first}, two layers", partial(check_numbers, *case, first, **layers)
            yield f"{about} {first}, packed", partial(check_sequences, *case, first)
            yield f"{about} {last}, bits", partial(check_bits, *case, last)
            yield f"{about} {first}, graph", partial(check_graph, *case, first)
    if not small:
        for what, check in BEHAVIOUR.items():
            yield what, partial(check, path)


def check_path(path: str, small: bool, record: Callable[[Check], None]) -> None:
    for what, job in checks_of(path, small):
        hangs = Check(path, what, "error", f"not done after {SECONDS} s")
        with at_most(None if small else SECONDS, partial(record, hangs)):
            try:
                detail = job()
                torch.cuda.synchronize()
                record(Check(path, what, "wrong" if detail else "ok", detail))
            except Exception as error:
                outcome = "refused" if runs.refused(error) else "error"
                record(Check(path, what, outcome, str(error)[:300]))
                if runs.lost():
                    return
