"""Checks and times as JSON, as a table, and as a plot."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

from fastrnn._commands.machine import Machine

from .checks import Check
from .runs import PATHS
from .times import PEER, Timing, cases


def append(path: Path, item: Check | Timing) -> None:
    with path.open("a") as file:
        file.write(json.dumps(vars(item)) + "\n")


def read_checks(out: Path) -> list[Check]:
    return [Check(**found) for found in _read(out / "checks.jsonl")]


def read_timings(out: Path) -> list[Timing]:
    return [Timing(**found) for found in _read(out / "timings.jsonl")]


def _read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def report(out: Path, machine: Machine, ends: dict[str, str]) -> str:
    """Writes gpu.json, gpu.md and gpu.png; returns the text.

    ends: what each section said at its end, if it did not come to it.
    """
    checks, timings = read_checks(out), read_timings(out)
    result = {
        "machine": vars(machine),
        "ends": ends,
        "checks": [vars(c) for c in checks],
        "timings": [vars(t) for t in timings],
    }
    (out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n")
    lines = [
        f"# {machine.name}",
        "",
        f"{machine.isa}; {machine.versions}; CUDA {torch.version.cuda}; cuDNN "
        f"{torch.backends.cudnn.version()}; {machine.date}.",
        "",
        *check_lines(checks, ends),
        "",
        *timing_lines(timings),
        "",
        f"{len(timings)} of {len(cases())} cases were timed.",
        *(f"\n{section} ended early: {ended}" for section, ended in ends.items() if ended),
    ]
    text = "\n".join(lines) + "\n"
    (out / "gpu.md").write_text(text)
    plot(timings, machine, out / "gpu.png")
    return text


def check_lines(checks: list[Check], ends: dict[str, str]) -> list[str]:
    lines = [
        "| path | ok | wrong | errors | not for this path | how the section ended |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for path, name in PATHS.items():
        own = [c.outcome for c in checks if c.path == path]
        counts = " | ".join(str(own.count(o)) for o in ("ok", "wrong", "error", "refused"))
        ended = "not run" if path not in ends else "early" if ends[path] else "whole"
        lines.append(f"| {path}, {name} | {counts} | {ended} |")
    bad = [c for c in checks if c.outcome in ("wrong", "error")]
    if bad:
        lines += ["", "What is wrong:", ""]
        lines += [f"- {c.path}: {c.what}: {c.detail}" for c in bad[:40]]
    return lines


def ratio(timing: Timing, path: str) -> float | None:
    """How many times as fast as torch.nn."""
    theirs, ours = timing.us.get(PEER), timing.us.get(path)
    return theirs / ours if theirs and ours else None


def timing_lines(timings: list[Timing]) -> list[str]:
    titles = ["cell", "arithmetic", "T,B,I,H", "pass", PEER, *PATHS, "best, times as fast"]
    lines = [
        "Microseconds a step; medians of 5 rounds in turns, by CUDA events. torch.nn in the same "
        "arithmetic; in bfloat16 it copies its weights in every call. A dash: not by this path.",
        "",
        f"| {' | '.join(titles)} |",
        f"| {' | '.join(['---'] * len(titles))} |",
    ]
    for t in timings:

        def cell(provider: str, t: Timing = t) -> str:
            us = f"{t.us[provider]:.3g}" if t.us.get(provider) else "-"
            return f"{us} (!)" if provider in t.problems else us

        best = max((r for p in PATHS if (r := ratio(t, p))), default=None)
        row = [t.cell, t.arithmetic, t.shape, "training" if t.training else "forward"]
        row += [cell(provider) for provider in (PEER, *PATHS)]
        row += [f"**{best:.2f}x**" if best else "-"]
        lines.append(f"| {' | '.join(row)} |")
    problems = [f"- {p}: {t}: {what}" for t in timings for p, what in t.problems.items()]
    return [*lines, "", "Marked (!), because:", "", *problems] if problems else lines


def plot(timings: list[Timing], machine: Machine, path: Path) -> None:
    """For each timing, how many times as fast as torch.nn each path is."""
    if find_spec("matplotlib") is None:
        print("no plot: matplotlib is not installed", file=sys.stderr)
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(16, 6))
    for letter, name in PATHS.items():
        points = [(i, r) for i, t in enumerate(timings) if (r := ratio(t, letter))]
        if points:
            axes.plot(*zip(*points), ".", label=f"{letter}, {name}")
    axes.axhline(1, color="black", linewidth=1)
    axes.set_yscale("log")
    axes.set_ylabel("times as fast as torch.nn")
    shapes = [t.shape for t in timings]
    starts = [i for i, shape in enumerate(shapes) if i == 0 or shape != shapes[i - 1]]
    axes.set_xticks(starts, [shapes[i] for i in starts], rotation=60, ha="right")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title(f"{machine.name}: lstm, gru, rnn; bf16, fp16, tf32, fp32; forward, training")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
