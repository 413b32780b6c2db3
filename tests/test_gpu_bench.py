"""bench/gpu.py without a GPU: its checks and reports, on the CPU's kernels."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import pytest
import torch

from bench import gpu
from fastrnn import functional, ops
from fastrnn.compare import Shape

SHAPE = Shape(4, 5, 3, 6)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds_of(call: object, calls: int) -> float:
        start = perf_counter()
        for _ in range(calls):
            call()
        return perf_counter() - start

    monkeypatch.setattr(gpu, "GPU", torch.device("cpu"))
    monkeypatch.setattr(gpu, "seconds_of", seconds_of)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)


@pytest.mark.parametrize("name", gpu.ARITHMETICS)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_checks_pass_where_the_numbers_are_right(cell: str, name: str) -> None:
    assert gpu.check_numbers("F", cell, name, SHAPE, bidirectional=True, num_layers=2) == ""
    assert gpu.check_sequences("F", cell, name, SHAPE) == ""
    assert gpu.check_bits("F", cell, name, SHAPE) == ""


def test_checks_fail_where_they_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    right, calls = ops.scan, []

    def wrong(*args: object, **options: object) -> ops.Output:
        calls.append(None)
        out = right(*args, **options)
        return out._replace(y=out.y * (1 + 1e-3 * len(calls)))

    monkeypatch.setattr(functional.ops, "scan", wrong)
    assert "y 1.0e-03" in gpu.check_numbers("F", "gru", "float32", SHAPE)
    assert "y" in gpu.check_sequences("F", "gru", "float32", SHAPE)
    assert "y" in gpu.check_bits("F", "gru", "float32", SHAPE)


def test_settings_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "G")
    before = torch.backends.cudnn.rnn.fp32_precision
    with gpu.arithmetic("float32"), gpu.forced("A"):
        assert torch.backends.cudnn.rnn.fp32_precision == "ieee"
        assert os.environ["FASTRNN_CUDA_PATH"] == "A"
    assert torch.backends.cudnn.rnn.fp32_precision == before
    assert os.environ["FASTRNN_CUDA_PATH"] == "G"


def test_failures_become_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> str:
        raise RuntimeError(f"FASTRNN_CUDA_PATH is 'A', but that path {gpu.REFUSED[0]} and type")

    def fails() -> str:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    checks = [("a", lambda: ""), ("b", lambda: "y 1"), ("c", refused), ("d", fails), ("e", refused)]
    monkeypatch.setattr(gpu, "lost", lambda: False)
    monkeypatch.setattr(gpu, "checks_of", lambda path, small: iter(checks))
    outcomes = [c.outcome for c in gpu.check_path("A", small=False)]
    assert outcomes == ["ok", "wrong", "refused", "error", "refused"]
    monkeypatch.setattr(gpu, "lost", lambda: True)
    outcomes = [c.outcome for c in gpu.check_path("A", small=False)]
    assert outcomes == ["ok", "wrong", "refused"]


def test_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timing = gpu.time_case("gru", "float32", SHAPE, True, ["F", "A"])
    assert timing.us.keys() == {"torch.nn", "F", "A"} and all(timing.us.values())
    timing.us |= {"torch.nn": 12.0, "F": 6.0, "A": None}
    gpu.append(tmp_path / "timings.jsonl", timing)
    gpu.append(tmp_path / "checks.jsonl", gpu.Check("F", "gru", "ok"))
    gpu.append(tmp_path / "checks.jsonl", gpu.Check("C", "gru", "wrong", "y 1e-1"))
    text = gpu.report(tmp_path, {"F": "", "C": "exit code 1"})
    assert "| F, step by step | 1 | 0 | 0 | 0 | whole |" in text
    assert "- C: gru: y 1e-1" in text
    assert "| gru | float32 | 4,5,3,6 | training | 12 | 6 | - | - | - | **2.00x** |" in text
    assert (tmp_path / "gpu.md").read_text().strip() == text.strip()
    assert (tmp_path / "gpu.png").exists() == (find_spec("matplotlib") is not None)
    assert json.loads((tmp_path / "gpu.json").read_text())["timings"][0]["cell"] == "gru"


def test_a_section_that_hangs_or_fails_is_named(tmp_path: Path) -> None:
    assert "no GPU is visible" in gpu.run_section(["--check", "A"], tmp_path, 60)
    assert "stopped after 0 s" in gpu.run_section(["--check", "A"], tmp_path, 0.01)
