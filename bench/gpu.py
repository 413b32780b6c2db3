"""python -m bench.gpu --out DIR: everything that is to be known of a GPU, in one command.

It builds nothing. Each section runs in a process of its own, so that a kernel that fails or hangs
takes no other with it: for each path the numbers, the bits from run to run and graph capture; then
the times of the paths that passed, against torch.nn (cuDNN) in turns. It writes gpu.json, gpu.md
and gpu.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn.compare import SHAPES, Run, Shape
from fastrnn.machine import Machine

PATHS = {"F": "step by step", "A": "one CTA", "C": "cluster", "G": "grid"}
CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
ARITHMETICS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
GPU = torch.device("cuda")
REFUSED = ("does not run this shape", "refused to run so many CTAs")

# Of cuda-kernels with published figures: persistent LSTMs, small float32 ones, wide GRUs, the batch
# of a reinforcement learner.
PUBLISHED = (
    "1024,16,768,768",
    "1024,6,40,40",
    "1024,6,72,72",
    "1024,8,128,128",
    "1024,16,128,128",
    "512,1,152,152",
    "512,45,152,152",
    "512,12,192,192",
    "512,32,256,256",
    "512,64,512,512",
    "256,32,1024,1024",
    "128,128,256,256",
)


# ---- what is run ---------------------------------------------------------------------------------


@contextmanager
def arithmetic(name: str) -> Iterator[torch.dtype]:
    """The type of an arithmetic, with torch's flags for TF32 set to it."""
    precision = "tf32" if name == "tf32" else "ieee"
    flags = (torch.backends.cudnn.rnn, torch.backends.cuda.matmul)
    before = [flag.fp32_precision for flag in flags]
    for flag in flags:
        flag.fp32_precision = precision
    try:
        yield ARITHMETICS[name]
    finally:
        for flag, old in zip(flags, before):
            flag.fp32_precision = old


@contextmanager
def forced(path: str | None) -> Iterator[None]:
    before = os.environ.pop("FASTRNN_CUDA_PATH", None)
    if path:
        os.environ["FASTRNN_CUDA_PATH"] = path
    try:
        yield
    finally:
        os.environ.pop("FASTRNN_CUDA_PATH", None)
        if before is not None:
            os.environ["FASTRNN_CUDA_PATH"] = before


def layer(package: object, cell: str, shape: Shape, **options: Any) -> nn.Module:
    """On the GPU, in float64, always with the same weights."""
    name = {"lstm": "LSTM", "gru": "GRU"}.get(cell, "RNN")
    if name == "RNN":
        options["nonlinearity"] = cell.removeprefix("rnn_")
    torch.manual_seed(0)
    return getattr(package, name)(shape.I, shape.H, **options).to(GPU, torch.float64)


def draw(*sizes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*sizes, generator=generator).to(GPU, torch.float64)


def make_run(
    package: object,
    cell: str,
    shape: Shape,
    dtype: torch.dtype,
    exact: bool = False,
    **options: Any,
) -> Run:
    """A training step; exact: in float64, from the values as dtype holds them."""
    width = shape.H * (2 if options.get("bidirectional") else 1)
    module = layer(package, cell, shape, **options).to(dtype)
    x, grad_y = (draw(shape.T, shape.B, n, seed=n).to(dtype) for n in (shape.I, width))
    if exact:
        module, x, grad_y = module.double(), x.double(), grad_y.double()
    return Run(module, x, grad_y)


# ---- numbers -------------------------------------------------------------------------------------


@dataclass
class Check:
    """One thing that is right, wrong, or not possible on this path."""

    path: str
    what: str
    outcome: str  # "ok", "wrong", "refused", "error"
    detail: str = ""


def errors(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    return {
        name: float((found[name].double() - t).norm() / t.norm().clamp_min(1e-300))
        for name, t in truth.items()
    }


def less_accurate(ours: dict[str, float], theirs: dict[str, float], name: str) -> str:
    """What has an error of more than 1.5 times torch.nn's, and than a rounding.

    In float64 torch.nn is the truth itself, and only so many roundings are allowed; where TF32 is,
    cuDNN may compute in plain float32 all the same, and TF32's own rounding, 2^-11, several times.
    """
    rounding = torch.finfo(ARITHMETICS[name]).eps / 2
    allowed = {"float64": 32 * rounding, "tf32": 2**-9}.get(name, rounding)
    return "; ".join(
        f"{key} {error:.1e}, torch.nn {theirs[key]:.1e}"
        for key, error in ours.items()
        if not error <= 1.5 * theirs[key] + allowed
    )


def check_numbers(path: str, cell: str, name: str, shape: Shape, **options: Any) -> str:
    with arithmetic(name) as dtype:
        truth = make_run(nn, cell, shape, dtype, exact=True, **options).results()
        theirs = errors(make_run(nn, cell, shape, dtype, **options).results(), truth)
        with forced(path):
            ours = errors(make_run(fastrnn, cell, shape, dtype, **options).results(), truth)
    return less_accurate(ours, theirs, name)


def check_bits(path: str, cell: str, name: str, shape: Shape) -> str:
    with arithmetic(name) as dtype, forced(path):
        run = make_run(fastrnn, cell, shape, dtype)
        first, *others = ({k: t.clone() for k, t in run.results().items()} for _ in range(3))
    differ = [k for k, t in first.items() if any(not torch.equal(t, o[k]) for o in others)]
    return f"differ from run to run: {', '.join(differ)}" if differ else ""


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
            run.x.copy_(draw(*run.x.shape, seed=77).to(dtype))
        graph.replay()
        torch.cuda.synchronize()
        replayed = [y.detach().clone(), *(leaf.grad.clone() for leaf in run.leaves.values())]
        eager = run.results()
        expected = [eager["y"], *(eager[f"gradient of {k}"] for k in run.leaves)]
    return "" if all(map(torch.equal, replayed, expected)) else "replay and eager differ"


def check_sequences(path: str, cell: str, name: str, shape: Shape) -> str:
    """Packed rows of many lengths, both directions, with states that are not contiguous; sorted,
    because torch.nn's reordering would make them so."""
    lengths = sorted((1 + (7 * b) % shape.T for b in range(shape.B)), reverse=True)
    states = 2 if cell == "lstm" else 1
    with arithmetic(name) as dtype:
        found: dict[str, dict[str, Tensor]] = {}
        for who, package, exact in (
            ("truth", nn, True),
            ("theirs", nn, False),
            ("ours", fastrnn, False),
        ):
            kind = torch.float64 if exact else dtype
            module = layer(package, cell, shape, bidirectional=True).to(dtype).to(kind)
            x = draw(shape.T, shape.B, shape.I).to(dtype).to(kind).requires_grad_()
            hx = tuple(
                draw(shape.B, 2, shape.H, seed=k).to(dtype).to(kind).transpose(0, 1)
                for k in range(states)
            )
            with forced(path if who == "ours" else None):
                packed = pack_padded_sequence(x, lengths)
                y, last = module(packed, hx if states == 2 else hx[0])
                y.data.backward(torch.ones_like(y.data))
            ends = last if states == 2 else (last,)
            found[who] = {"y": y.data.detach(), "grad x": x.grad}
            found[who] |= {f"last {k}": end.detach() for k, end in enumerate(ends)}
            found[who] |= {f"grad {n}": p.grad for n, p in module.named_parameters()}
    ours, theirs = (errors(found[who], found["truth"]) for who in ("ours", "theirs"))
    return less_accurate(ours, theirs, name)


def shapes_of(path: str, small: bool) -> list[Shape]:
    """Even and odd sizes on both sides of what a path does in one way."""
    texts = {
        "F": ("9,5,16,64", "4,3,7,33", "3,1,1,1", "5,70,200,300", "256,70,32,64"),
        "A": ("9,5,16,64", "4,3,7,34", "3,1,1,2", "5,200,20,104"),
        "C": ("9,5,16,64", "4,3,7,98", "6,40,20,256", "3,9,20,360"),
        "G": ("9,5,16,64", "4,3,7,98", "6,40,20,256", "3,9,20,1000"),
    }[path]
    return [Shape.parse(text) for text in (texts[:2] if small else texts)]


def checks_of(path: str, small: bool) -> Iterator[tuple[str, Callable[[], str]]]:
    shapes, names = (
        shapes_of(path, small),
        [n for n in ARITHMETICS if path == "F" or n != "float64"],
    )
    for cell in CELLS[:2] if small else CELLS:
        for name in names:
            for shape in shapes:
                yield (
                    f"{cell} {name} {shape}",
                    lambda c=cell, n=name, s=shape: check_numbers(path, c, n, s),
                )
            options = {"bidirectional": True, "bias": False, "num_layers": 2}
            yield (
                f"{cell} {name} {shapes[0]}, two layers of two directions",
                lambda c=cell, n=name, o=options: check_numbers(path, c, n, shapes[0], **o),
            )
            yield (
                f"{cell} {name} {shapes[0]}, packed",
                lambda c=cell, n=name: check_sequences(path, c, n, shapes[0]),
            )
            yield (
                f"{cell} {name} {shapes[-1]}, bits",
                lambda c=cell, n=name: check_bits(path, c, n, shapes[-1]),
            )
            yield (
                f"{cell} {name} {shapes[0]}, graph",
                lambda c=cell, n=name: check_graph(path, c, n, shapes[0]),
            )


def lost() -> bool:
    """Whether a kernel has failed so that this process can use the device no more."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def check_path(path: str, small: bool) -> Iterator[Check]:
    for what, check in checks_of(path, small):
        try:
            detail = check()
            torch.cuda.synchronize()
            yield Check(path, what, "wrong" if detail else "ok", detail)
        except Exception as error:
            refused = any(words in str(error) for words in REFUSED)
            yield Check(path, what, "refused" if refused else "error", str(error)[:300])
            if lost():
                return


# ---- times ---------------------------------------------------------------------------------------


@dataclass
class Timing:
    """Microseconds a step, by provider; null where a path does not run the shape."""

    cell: str
    arithmetic: str
    shape: str
    training: bool
    us: dict[str, float | None]


def seconds_of(call: Callable[[], object], calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def time_case(cell: str, name: str, shape: Shape, training: bool, paths: list[str]) -> Timing:
    """Medians of 5 rounds of about 10 ms each, the providers in turns."""
    calls: dict[str, Callable[[], object]] = {}
    timing = Timing(cell, name, str(shape), training, {})
    with arithmetic(name) as dtype:
        for provider in ("torch.nn", *paths):
            package = nn if provider == "torch.nn" else fastrnn
            run = make_run(package, cell, shape, dtype)
            if not training:
                run = Run(run.module, run.x)

            def call(run: Run = run, path: str | None = provider if package is fastrnn else None):
                with forced(path), torch.inference_mode(run.grad_y is None):
                    run()

            try:
                call()
            except RuntimeError as error:
                if lost():
                    raise
                if not any(words in str(error) for words in REFUSED):
                    print(f"{provider}, {cell} {name} {shape}: {error}", file=sys.stderr)
                timing.us[provider] = None
                continue
            calls[provider] = call
        count = {}
        for provider, call in calls.items():
            call()
            count[provider] = max(1, round(0.01 / max(seconds_of(call, 1), 1e-6)))
        found: dict[str, list[float]] = {provider: [] for provider in calls}
        for i in range(5):
            for provider in list(calls)[:: 1 if i % 2 else -1]:
                n = count[provider]
                found[provider].append(seconds_of(calls[provider], n) / n / shape.T * 1e6)
    timing.us |= {provider: median(values) for provider, values in found.items()}
    return timing


def time_all(paths: list[str], seconds: float) -> Iterator[Timing]:
    """The published shapes first, in case the time does not suffice for all."""
    end = time.monotonic() + seconds
    for text in (*PUBLISHED, *map(str, SHAPES)):
        shape = Shape.parse(text)
        for cell in ("lstm", "gru", "rnn_tanh"):
            for name in ("bfloat16", "float16", "tf32", "float32"):
                for training in (False, True):
                    if time.monotonic() > end:
                        print("out of time", file=sys.stderr)
                        return
                    yield time_case(cell, name, shape, training, paths)


# ---- sections and reports ------------------------------------------------------------------------


def run_section(arguments: list[str], out: Path, limit: float) -> str:
    """One section in a process of its own. Returns how it ended."""
    command = [sys.executable, "-m", "bench.gpu", "--out", str(out), *arguments]
    try:
        done = subprocess.run(command, timeout=limit, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s: it hangs, or is slow"
    return "" if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr[-1500:]}"


def append(path: Path, item: Check | Timing) -> None:
    with path.open("a") as file:
        file.write(json.dumps(vars(item)) + "\n")


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(out: Path, ends: dict[str, str]) -> str:
    checks, timings = read(out / "checks.jsonl"), read(out / "timings.jsonl")
    machine = Machine.measure(torch.bfloat16, GPU)
    lines = [
        f"# {machine.name}",
        "",
        f"{machine.isa}; {machine.versions}; CUDA {torch.version.cuda}; cuDNN "
        f"{torch.backends.cudnn.version()}; {machine.date}.",
        "",
        "| path | ok | wrong | errors | not for this path | how the section ended |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for path, name in PATHS.items():
        own = [c["outcome"] for c in checks if c["path"] == path]
        counts = " | ".join(str(own.count(o)) for o in ("ok", "wrong", "error", "refused"))
        ended = ends.get(path, "not run").replace("\n", " ") or "whole"
        lines.append(f"| {path}, {name} | {counts} | {ended} |")
    bad = [c for c in checks if c["outcome"] in ("wrong", "error")]
    if bad:
        lines += ["", "What is wrong:", ""]
        lines += [f"- {c['path']}: {c['what']}: {c['detail']}" for c in bad[:40]]
    titles = ["cell", "arithmetic", "T,B,I,H", "pass", "torch.nn", *PATHS, "best, times as fast"]
    lines += [
        "",
        "Microseconds a step; medians of 5 rounds in turns, by CUDA events. torch.nn in the same "
        "arithmetic. A dash: the path does not run the shape.",
        "",
        f"| {' | '.join(titles)} |",
        f"| {' | '.join(['---'] * len(titles))} |",
    ]
    for t in timings:
        us = t["us"]
        best = min((v for k, v in us.items() if k != "torch.nn" and v), default=None)
        cells = [f"{us[p]:.3g}" if us.get(p) else "-" for p in ("torch.nn", *PATHS)]
        ratio = f"**{us['torch.nn'] / best:.2f}x**" if best else "-"
        row = [t["cell"], t["arithmetic"], t["shape"], "training" if t["training"] else "forward"]
        lines.append(f"| {' | '.join([*row, *cells, ratio])} |")
    result = {"machine": vars(machine), "ends": ends, "checks": checks, "timings": timings}
    (out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "gpu.md").write_text("\n".join(lines) + "\n")
    plot(timings, machine, out / "gpu.png")
    return "\n".join(lines)


def plot(timings: list[dict], machine: Machine, path: Path) -> None:
    """For each timing, how many times as fast as torch.nn each path is."""
    if find_spec("matplotlib") is None:
        print("no plot: matplotlib is not installed", file=sys.stderr)
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(16, 6))
    for letter, name in PATHS.items():
        points = [
            (i, t["us"]["torch.nn"] / t["us"][letter])
            for i, t in enumerate(timings)
            if t["us"].get(letter)
        ]
        if points:
            axes.plot(*zip(*points), ".", label=f"{letter}, {name}")
    axes.axhline(1, color="black", linewidth=1)
    axes.set_yscale("log")
    axes.set_ylabel("times as fast as torch.nn")
    starts = [i for i, t in enumerate(timings) if i == 0 or t["shape"] != timings[i - 1]["shape"]]
    axes.set_xticks(starts, [timings[i]["shape"] for i in starts], rotation=60, ha="right")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(f"{machine.name}: lstm, gru, rnn; bf16, fp16, tf32, fp32; forward, training")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--paths", default="".join(PATHS), help="of F, A, C, G (default: all)")
    parser.add_argument("--seconds", type=float, default=420, help="for all of it (default: 420)")
    parser.add_argument("--small", action="store_true", help="few checks, for a sanitizer")
    parser.add_argument("--check", choices=PATHS, help="only this path's checks, in this process")
    parser.add_argument("--warm-up", action="store_true", help="only load the libraries")
    parser.add_argument("--time", action="store_true", help="only the times, in this process")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU is visible")
    given.out.mkdir(parents=True, exist_ok=True)
    if given.check:
        for found in check_path(given.check, given.small):
            append(given.out / "checks.jsonl", found)
        return int(lost())
    if given.warm_up:
        for package in (nn, fastrnn):
            make_run(package, "lstm", SHAPES[0], torch.float32)()
        return 0
    if given.time:
        for timing in time_all(list(given.paths), given.seconds):
            append(given.out / "timings.jsonl", timing)
        return 0
    for name in ("checks.jsonl", "timings.jsonl"):
        (given.out / name).unlink(missing_ok=True)
    start, ends = time.monotonic(), {}
    small = ["--small"] if given.small else []
    print(run_section(["--warm-up"], given.out, 120) or "warm", flush=True)  # loads the libraries
    for path in given.paths:
        ends[path] = run_section(["--check", path, *small], given.out, given.seconds / 6)
        print(f"{path}: {ends[path] or 'whole'}", flush=True)
    # A path with a wrong number is timed, and the report says so; one that died would take others
    # with it.
    alive = "".join(path for path in given.paths if not ends[path])
    left = given.seconds - (time.monotonic() - start)
    if left > 30 and alive and not given.small:
        arguments = ["--time", "--paths", alive, "--seconds", str(left - 20)]
        ends["times"] = run_section(arguments, given.out, left + 30)
    print(report(given.out, ends))
    wrong = any(c["outcome"] in ("wrong", "error") for c in read(given.out / "checks.jsonl"))
    return int(wrong or any(ends.values()))


if __name__ == "__main__":
    raise SystemExit(main())
