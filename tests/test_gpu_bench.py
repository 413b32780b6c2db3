"""bench/gpu without a GPU: its checks and reports, on the CPU's kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import pytest
import torch

from bench.gpu import __main__ as command
from bench.gpu import checks, report, runs, times
from fastrnn import functional, ops
from fastrnn._commands.compare import Shape
from fastrnn._commands.machine import Machine

SHAPE = Shape(4, 5, 3, 6)
MACHINE = Machine("GPU", "sm_90", 2, "bfloat16", "torch", "2026-11-21", 1.0, {})


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds_of(call: object, calls: int) -> float:
        start = perf_counter()
        for _ in range(calls):
            call()
        return perf_counter() - start

    monkeypatch.setattr(runs, "GPU", torch.device("cpu"))
    monkeypatch.setattr(ops, "is_plain", lambda x: False)  # as for a tensor on a GPU
    monkeypatch.setattr(times, "seconds_of", seconds_of)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@pytest.fixture
def wrong_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call is further off than the last one."""
    right, calls = ops.scan, []

    def wrong(*args: object, **options: object) -> ops.Output:
        calls.append(None)
        out = right(*args, **options)
        return out._replace(y=out.y * (1 + 1e-3 * len(calls)))

    monkeypatch.setattr(functional.ops, "scan", wrong)


# ---- checks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", runs.ARITHMETICS)
@pytest.mark.parametrize("cell", runs.CELLS)
def test_checks_pass_where_the_numbers_are_right(cell: str, name: str) -> None:
    assert checks.check_numbers("F", cell, name, SHAPE, bidirectional=True, num_layers=2) == ""
    assert checks.check_sequences("F", cell, name, SHAPE) == ""
    assert checks.check_bits("F", cell, name, SHAPE) == ""


def test_behaviour_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MANY_STEPS", 101)
    for check in (checks.check_autocast, checks.check_evaluation, checks.check_many_steps):
        assert check("F") == ""


@pytest.mark.usefixtures("wrong_scan")
def test_checks_fail_where_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MANY_STEPS", 101)
    assert "y 1.0e-03" in checks.check_numbers("F", "gru", "float32", SHAPE)
    assert "y" in checks.check_sequences("F", "gru", "float32", SHAPE)
    assert "y" in checks.check_bits("F", "gru", "float32", SHAPE)
    assert checks.check_autocast("F") and checks.check_many_steps("F")


def test_relu_is_on_both_sides_of_its_kink_and_not_on_it() -> None:
    module = runs.layer(torch.nn, "rnn_relu", Shape(200, 3, 8, 16), num_layers=2)
    y, _ = module(runs.draw_input("rnn_relu", 200, 3, 8))
    assert (y[..., 1::2] == 0).all() and y[..., ::2].min() > 0.1 and y.max() < 10


def test_settings_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "G")
    before = torch.backends.cudnn.rnn.fp32_precision
    with runs.arithmetic("float32"), runs.forced("A"):
        assert torch.backends.cudnn.rnn.fp32_precision == "ieee"
        assert os.environ["FASTRNN_CUDA_PATH"] == "A"
    assert torch.backends.cudnn.rnn.fp32_precision == before
    assert os.environ["FASTRNN_CUDA_PATH"] == "G"


def refuses() -> str:
    raise RuntimeError(f"FASTRNN_CUDA_PATH is 'A', but that path {runs.REFUSED[0]} and type")


def fails() -> str:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_failures_become_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    def outcomes() -> list[str]:
        found = []
        checks.check_path("A", small=False, record=found.append)
        return [check.outcome for check in found]

    jobs = [("a", lambda: ""), ("b", lambda: "y 1"), ("c", refuses), ("d", fails), ("e", refuses)]
    monkeypatch.setattr(checks, "checks_of", lambda path, small: iter(jobs))
    monkeypatch.setattr(runs, "lost", lambda: False)
    assert outcomes() == ["ok", "wrong", "refused", "error", "refused"]
    monkeypatch.setattr(runs, "lost", lambda: True)
    assert outcomes() == ["ok", "wrong", "refused"]


def test_what_hangs_is_named_and_ended(tmp_path: Path) -> None:
    script = f"""
import time
from functools import partial
from pathlib import Path
from bench.gpu import checks, report
checks.SECONDS = 0.1
checks.checks_of = lambda *_: iter([("a", str), ("b", lambda: time.sleep(60)), ("c", str)])
checks.torch.cuda.synchronize = lambda: None
checks.check_path("C", False, partial(report.append, Path({str(tmp_path)!r}) / "checks.jsonl"))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 1
    found = [(c.what, c.outcome, c.detail) for c in report.read_checks(tmp_path)]
    assert found == [("a", "ok", ""), ("b", "error", "not done after 0.1 s")]


# ---- times ---------------------------------------------------------------------------------------


def time_both_paths(*problems: str) -> times.Timing:
    found = []
    times.time_case(times.Timing("gru", "float32", str(SHAPE), True), ["F", "A"], found.append)
    assert len(found) == 1 and list(found[0].problems) == list(problems)
    return found[0]


def test_times() -> None:
    timing = time_both_paths()
    assert timing.us.keys() == {"torch.nn", "F", "A"} and all(timing.us.values())
    assert str(times.cases()[1]) == "lstm bfloat16 1024,16,768,768 training"


@pytest.mark.usefixtures("wrong_scan")
def test_results_that_differ_are_timed_and_marked() -> None:
    timing = time_both_paths("F", "A")
    assert timing.problems["F"].startswith("not torch.nn's: y") and timing.us["F"]


def test_a_path_that_fails_is_marked_and_one_that_refuses_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def scan(*args: object, **options: object) -> ops.Output:
        return fails() if os.environ.get("FASTRNN_CUDA_PATH") == "F" else refuses()

    monkeypatch.setattr(functional.ops, "scan", scan)
    monkeypatch.setattr(runs, "lost", lambda: False)
    timing = time_both_paths("F")
    assert "illegal memory access" in timing.problems["F"]
    assert timing.us["F"] is None and timing.us["A"] is None and timing.us["torch.nn"]


def test_a_path_that_breaks_the_process_takes_no_further_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def run_section(arguments: list[str], out: Path, limit: float) -> str:
        paths = arguments[2]
        asked.append(paths)
        timing = times.Timing("gru", "float32", str(SHAPE), True)
        if "C" in paths:
            timing.problems, timing.fatal = {"F": "not torch.nn's", "C": "not done"}, "C"
        report.append(out / "timings.jsonl", timing)
        return "exit code 1" if "C" in paths else ""

    monkeypatch.setattr(command, "run_section", run_section)
    assert command.time_section(["F", "C", "G"], tmp_path, perf_counter() + 1e6) == ""
    assert asked == ["FCG", "FG"]


# ---- the report ----------------------------------------------------------------------------------


def test_the_report(tmp_path: Path) -> None:
    timing = times.Timing("gru", "float32", str(SHAPE), True)
    timing.us = {"torch.nn": 12.0, "F": 6.0, "A": None, "C": None}
    timing.problems = {"C": "not done after 20 s"}
    nothing = times.Timing("gru", "tf32", str(SHAPE), False, {"torch.nn": None, "F": 6.0})
    for item in (timing, nothing):
        report.append(tmp_path / "timings.jsonl", item)
    report.append(tmp_path / "checks.jsonl", checks.Check("F", "gru", "ok"))
    report.append(tmp_path / "checks.jsonl", checks.Check("C", "gru", "wrong", "y 1e-1"))
    text = report.report(tmp_path, MACHINE, {"F": "", "C": "exit code 1: |", "times": ""})
    assert "| F, step by step | 1 | 0 | 0 | 0 | whole |" in text
    assert "| C, cluster | 0 | 1 | 0 | 0 | early |" in text
    assert "- C: gru: y 1e-1" in text
    assert f"2 of {len(times.cases())} cases were timed.\n\nC ended early: exit code 1: |\n" in text
    assert "| gru | float32 | 4,5,3,6 | training | 12 | 6 | - | - (!) | - | **2.00x** |" in text
    assert "| gru | tf32 | 4,5,3,6 | forward | - | 6 | - | - | - | - |" in text
    assert "- C: gru float32 4,5,3,6 training: not done after 20 s" in text
    assert (tmp_path / "gpu.md").read_text() == text
    assert (tmp_path / "gpu.png").exists() == (find_spec("matplotlib") is not None)
    assert json.loads((tmp_path / "gpu.json").read_text())["timings"][0]["cell"] == "gru"


def test_a_section_that_hangs_or_fails_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "no GPU is visible" in command.run_section(["--check", "A"], tmp_path, 60)
    assert "stopped after 0 s" in command.run_section(["--check", "A"], tmp_path, 0.01)
