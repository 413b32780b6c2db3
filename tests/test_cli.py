"""The command line, as a user calls it, and the comparison that it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

import fastrnn
from fastrnn import ops
from fastrnn._commands.compare import (
    COMPILED,
    EQUATIONS,
    GATES,
    LOOP,
    MODULES,
    OURS,
    PROVIDERS,
    STEPS,
    Case,
    Comparison,
    MismatchError,
    Shape,
)

TINY = Shape(2, 2, 3, 4)


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """python -m fastrnn in another folder, where nothing is but what it writes."""
    paths = [str(Path(fastrnn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", "fastrnn", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("cpus", ["two", "0", "-1", "2.5"])
def test_cpus_that_are_no_number(
    cpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTRNN_CPUS", cpus)
    done = call(tmp_path, "info")
    assert done.returncode == 1
    assert f"FASTRNN_CPUS must be a number from 1 on, got '{cpus}'" in done.stderr


def test_demo(tmp_path: Path) -> None:
    done = call(tmp_path, "demo", "--steps", "3")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ratio +[\d.]+x +[\d.]+x$", done.stdout, re.MULTILINE)
    if find_spec("matplotlib"):
        assert (tmp_path / "fastrnn-demo.png").read_bytes().startswith(b"\x89PNG")
    else:
        assert "it takes matplotlib" in done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"too short", "has 9 characters"), (b"\xff" * 9999, "not UTF-8"), (None, "No such file")],
    ids=["short", "binary", "missing"],
)
def test_demo_refuses_a_text(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    done = call(tmp_path, "demo", "--text", "text")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_info(tmp_path: Path) -> None:
    done = call(tmp_path, "info")
    assert done.returncode == 0, done.stdout + done.stderr
    assert torch.__version__ in done.stdout
    assert re.search(r"self-check +ok: \d+ random layers", done.stdout)


def test_bench(tmp_path: Path) -> None:
    done = call(tmp_path, "bench", str(TINY), "--cells", "rnn")
    assert done.returncode == 0, done.stderr
    time = r"[\d.]+ → [\d.]+, \*\*[\d.]+x\*\*"
    assert re.search(rf"^\| 2,2,3,4 \| {time} \| {time} \|$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["1,2,3"], "a shape is T,B,I,H"),
        (["1,2,3,0"], "a shape is T,B,I,H"),
        (["--cells", "lstn"], "cells are lstm, gru, rnn"),
        (["--device", "nonsense"], "argument --device"),
        (["--threads", "0"], "a whole number from 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bench_refuses(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastrnn.__main__ import main

    with pytest.raises(SystemExit, match="2"):
        main(["bench", *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("cell", GATES)
def test_comparison_refuses_wrong_numbers(cell: str, training: bool) -> None:
    def wrong(cell: str, inputs: int, hidden: int) -> nn.Module:
        layer = PROVIDERS["torch.nn"](cell, inputs, hidden)
        # In training, wrong in a gradient alone.
        if training:
            layer.weight_hh_l0.register_hook(lambda grad: grad * 1.001)
        else:
            layer.register_forward_hook(lambda module, x, out: (out[0] * 1.001, out[1]))
        return layer

    providers = {"torch.nn": PROVIDERS["torch.nn"], "wrong": wrong}
    what = "gradient of weight_hh_l0" if training else "y"
    with pytest.raises(MismatchError, match=f"wrong, {cell} {TINY}: {what} differs"):
        Comparison(Case(cell, TINY, training), providers)


def test_comparison_refuses_nan() -> None:
    def wrong(cell: str, inputs: int, hidden: int) -> nn.Module:
        layer = PROVIDERS["torch.nn"](cell, inputs, hidden)
        layer.register_forward_hook(lambda module, x, out: (out[0] * torch.nan, out[1]))
        return layer

    providers = {"torch.nn": PROVIDERS["torch.nn"], "wrong": wrong}
    with pytest.raises(MismatchError, match="y differs by nan"):
        Comparison(Case("gru", TINY, False), providers)


def test_comparison_counts_what_it_times() -> None:
    case = Case("gru", Shape(5, 2, 3, 4), True)
    result = Comparison(case).run(rounds=3)
    assert {name: len(found) for name, found in result.seconds.items()} == {
        "torch.nn": 3,
        "fastrnn": 3,
    }
    assert case.flops == 3 * 2 * 2 * 3 * 4 * (3 + 4)
    assert result.us() == pytest.approx(sorted(result.seconds["fastrnn"])[1] / 5 * 1e6)
    assert result.ratio("torch.nn") == 1
    theirs, ours = result.typical_us()
    assert result.ratio() == pytest.approx(theirs / ours)


@pytest.mark.parametrize("cell", STEPS)
def test_a_cell_is_compared_by_one_step(cell: str) -> None:
    case = Case(cell, Shape(1, 2, 3, 4), True)
    comparison = Comparison(case, block_seconds=1e-6)
    assert comparison.run(rounds=2).peers == ["torch.nn"]
    assert case.flops == 3 * 2 * 2 * GATES[STEPS[cell]] * 4 * (3 + 4)
    own = comparison.runs[OURS]
    h, last = own()
    assert own.x.shape == (2, 3)
    assert h is (last[0] if cell == "lstmcell" else last)
    with pytest.raises(ValueError, match="takes one step, and not 2"):
        Case(cell, TINY, True)


def test_every_cell_is_compared() -> None:
    assert MODULES.keys() == ops.CELLS.keys()


# Its step takes x itself where there are as many inputs as hidden units.
@pytest.mark.parametrize("shape", [TINY, Shape(2, 2, 4, 4)], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["forward", "training"])
@pytest.mark.parametrize("cell", MODULES)
def test_loops_in_plain_pytorch_agree(cell: str, training: bool, shape: Shape) -> None:
    providers = {name: EQUATIONS[name] for name in (LOOP, OURS)}
    case = Case(cell, shape, training, torch.float64)
    comparison = Comparison(case, providers, block_seconds=1e-6)
    assert comparison.run(rounds=2).peers == [LOOP]
    layer = comparison.runs[OURS].module
    weights = layer.weight_ih_l0.numel() + layer.weight_hh_l0.numel()
    assert case.flops == (3 if training else 1) * 2 * shape.B * weights


def test_a_compiled_step_agrees() -> None:
    providers = {name: EQUATIONS[name] for name in (COMPILED, OURS)}
    Comparison(Case("mut1", TINY, True), providers, block_seconds=1e-6)
