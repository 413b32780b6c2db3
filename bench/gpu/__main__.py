"""python -m bench.gpu --out DIR: everything that is to be known of a GPU, in one command.

It builds nothing. Each section runs in a process of its own, so that a kernel that fails or hangs
takes no other with it: for each path the numbers, the bits from run to run, graph capture and what
CUDA code should bear; then the times of the paths that came to an end, against torch.nn (cuDNN) in
turns. It writes gpu.json, gpu.md and gpu.png.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

import fastrnn
from fastrnn._commands.compare import SHAPES
from fastrnn._commands.machine import Machine

from . import runs
from .checks import check_path
from .report import append, read_checks, read_timings, report
from .runs import PATHS, lost, make_run
from .times import time_all


def run_section(arguments: list[str], out: Path, limit: float) -> str:
    """One section in a process of its own. Returns how it ended."""
    command = [sys.executable, "-m", "bench.gpu", "--out", str(out), *arguments]
    try:
        done = subprocess.run(command, timeout=limit, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s: it hangs, or is slow"
    print(done.stderr, end="", file=sys.stderr, flush=True)
    return "" if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr[-1500:]}"


def time_section(paths: list[str], out: Path, end: float) -> str:
    """A path that breaks the process, or hangs in it, takes no further part."""
    ended = "no time was left"
    while paths and (left := end - time.monotonic()) > 20:
        arguments = ["--time", "--paths", "".join(paths), "--seconds", str(left)]
        known = len(read_timings(out))
        ended = run_section(arguments, out, left + 30)
        found = read_timings(out)
        culprit = found[-1].fatal if len(found) > known else ""
        if not ended or culprit not in paths:
            return ended
        paths = [path for path in paths if path != culprit]
    return ended


def run_all(out: Path, paths: list[str], seconds: float, small: bool) -> int:
    for name in ("checks.jsonl", "timings.jsonl"):
        (out / name).unlink(missing_ok=True)
    end, ends = time.monotonic() + seconds, {}
    machine = Machine.measure(torch.bfloat16, runs.GPU)  # while the GPU is sure to work
    print(run_section(["--warm-up"], out, 120) or "warm", flush=True)  # loads the libraries
    for path in paths:
        few = ["--small"] if small else []
        ends[path] = run_section(["--check", path, *few], out, seconds / 5)
        print(f"{path}: {ends[path] or 'whole'}", flush=True)
    # A path with a wrong number is timed, and the report says so.
    alive = [path for path in paths if not ends[path]]
    if not small:
        ends["times"] = time_section(alive, out, end - 10)
    print(report(out, machine, ends))
    wrong = any(check.outcome in ("wrong", "error") for check in read_checks(out))
    wrong = wrong or any(timing.problems.keys() & set(paths) for timing in read_timings(out))
    return int(wrong or any(ends.values()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the results")
    parser.add_argument("--paths", default="".join(PATHS), help="of F, A, C, G (default: all)")
    parser.add_argument("--seconds", type=float, default=420, help="for all of it (default: 420)")
    parser.add_argument("--small", action="store_true", help="few checks, for a sanitizer")
    parser.add_argument("--check", choices=PATHS, help="only this path's checks, in this process")
    parser.add_argument("--time", action="store_true", help="only the times, in this process")
    parser.add_argument("--warm-up", action="store_true", help="only load the libraries")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no GPU is visible")
    given.out.mkdir(parents=True, exist_ok=True)
    if given.check:
        check_path(given.check, given.small, partial(append, given.out / "checks.jsonl"))
        return int(lost())
    if given.time:
        done = len(read_timings(given.out))
        record = partial(append, given.out / "timings.jsonl")
        time_all(list(given.paths), done, given.seconds, record)
        return 0
    if given.warm_up:
        for package in (nn, fastrnn):
            make_run(package, "lstm", SHAPES[0], torch.float32)()
        return 0
    return run_all(given.out, list(given.paths), given.seconds, given.small)


if __name__ == "__main__":
    raise SystemExit(main())
