"""Options of the benchmarks, and the files that they leave.

pytest bench                                          all of it, some minutes
pytest bench --shapes 100,16,128,128 --cells gru      a part of it
pytest bench --cells steps                            LSTMCell, GRUCell and RNNCell, on T = 1
pytest bench --cells all                              every cell, against plain PyTorch
pytest bench --random 50 --seed 1                     shapes drawn at random, against torch.nn
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
import random_shapes
import torch
from chart import draw

from fastrnn._commands import report
from fastrnn._commands.compare import (
    EQUATIONS_ROUNDS,
    GATES,
    MODULES,
    PASSES,
    ROUNDS,
    SHAPES,
    STEP_SHAPES,
    STEPS,
    Case,
    Result,
    Shape,
)
from fastrnn._commands.machine import Machine

FOLDER = Path(__file__).parent / "results"
MACHINE = pytest.StashKey[Machine]()
RESULTS = pytest.StashKey[list[Result]]()
RANDOM = pytest.StashKey[list[random_shapes.Measured]]()


def _shapes(text: str) -> list[Shape]:
    return [Shape.parse(part) for part in text.split()]


def _cells(text: str) -> list[str]:
    """Layers of torch.nn, its Cells, or any of all."""
    cells = {"all": [*MODULES], "steps": [*STEPS]}.get(text, text.split(","))
    if not any(set(cells) <= known.keys() for known in (GATES, STEPS, MODULES)):
        raise ValueError(f"no such cell among {text!r}")
    return cells


def _against_torch(config: pytest.Config) -> bool:
    """Whether the peer is torch.nn. Otherwise there is a cell that it does not have."""
    return set(config.option.cells or GATES) <= GATES.keys() | STEPS.keys()


def _of_steps(config: pytest.Config) -> bool:
    """Whether the cells are Cells."""
    return set(config.option.cells or GATES) <= STEPS.keys()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastrnn")
    group.addoption("--shapes", type=_shapes, help='"T,B,I,H T,B,I,H ..." (default: eight)')
    group.addoption(
        "--cells",
        type=_cells,
        help="of lstm,gru,rnn (default: all three), or of lstmcell,grucell,rnncell (steps: all "
        "three), against torch.nn; all, or a list with another cell, against plain PyTorch",
    )
    group.addoption("--random", type=int, metavar="N", help="N shapes drawn at random instead")
    group.addoption("--seed", type=int, default=0, help="of --random (default: 0)")
    group.addoption("--dtype", default="float32", help="float32, float64, float16 or bfloat16")
    group.addoption("--device", type=torch.device, default=torch.device("cpu"))
    group.addoption("--threads", type=int, help="of the CPU (default: torch's)")
    group.addoption(
        "--results",
        type=Path,
        help="DIR/NAME of the .md, .json and .png (default: in bench/results, by the machine)",
    )


def pytest_configure(config: pytest.Config) -> None:
    option = config.option
    if option.random is not None and (option.shapes or not set(option.cells or GATES) <= {*GATES}):
        raise pytest.UsageError("--random draws the shapes of lstm, gru and rnn")
    if config.option.threads:
        torch.set_num_threads(config.option.threads)
    config.stash[RESULTS] = []
    config.stash[RANDOM] = []


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Shapes drawn at random have a test of their own."""
    other = "test_random_shapes.py" if config.option.random is None else "test_speed.py"
    return True if collection_path.name == other else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    option = metafunc.config.option
    dtype = getattr(torch, option.dtype)
    if option.random is not None:
        shapes = random_shapes.draw(option.random, option.seed)
    else:
        shapes = option.shapes or (STEP_SHAPES if _of_steps(metafunc.config) else SHAPES)
    choices = product(shapes, option.cells or GATES, PASSES)
    metafunc.parametrize(
        "case",
        [
            pytest.param(
                Case(cell, shape, PASSES[name], dtype, option.device), id=f"{cell}-{name}-{shape}"
            )
            for shape, cell, name in choices
        ],
    )


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> Machine:
    """Measured before the first case."""
    option = request.config.option
    found = Machine.measure(getattr(torch, option.dtype), option.device)
    request.config.stash[MACHINE] = found
    return found


@pytest.fixture(scope="session")
def against_torch(request: pytest.FixtureRequest) -> bool:
    return _against_torch(request.config)


@pytest.fixture
def results(request: pytest.FixtureRequest) -> list[Result]:
    """Where a benchmark leaves its result."""
    return request.config.stash[RESULTS]


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> list[random_shapes.Measured]:
    """Where the test of random shapes leaves what it found."""
    return request.config.stash[RANDOM]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Writes the files."""
    if config.stash[RANDOM]:
        _write_random(terminalreporter, config)
    results = config.stash[RESULTS]
    if not results:
        return
    machine, option = config.stash[MACHINE], config.option
    # A part of the results does not overwrite the whole.
    torch_only = _against_torch(config)
    part_of_cells = option.cells and option.cells not in ([*MODULES], [*STEPS])
    part = "-part" if option.shapes or part_of_cells or option.keyword else ""
    cells = "-steps" if _of_steps(config) else "" if torch_only else "-cells"
    name = f"{option.device.type}-{machine.slug}-{machine.dtype}{cells}{part}"
    target: Path = option.results or FOLDER / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if torch_only:
        text = report.document(results, machine, ROUNDS)
        draw(results, machine, target.with_name(f"{target.name}.png"))
    else:
        text = report.cells_document(results, machine, EQUATIONS_ROUNDS)
    target.with_name(f"{target.name}.md").write_text(f"# Speed\n\n{text}", "utf-8")
    target.with_name(f"{target.name}.json").write_text(
        json.dumps(report.as_json(results, machine), indent=1) + "\n", "utf-8"
    )
    terminalreporter.section("fastrnn and torch.nn" if torch_only else "fastrnn and plain PyTorch")
    terminalreporter.write_line(text)
    terminalreporter.write_line(f"written to {target}.*")


def _write_random(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    found, machine, option = config.stash[RANDOM], config.stash[MACHINE], config.option
    part = "-part" if option.cells or option.keyword else ""
    name = f"{option.device.type}-{machine.slug}-{machine.dtype}-random{part}"
    target: Path = option.results or FOLDER / name
    target.parent.mkdir(parents=True, exist_ok=True)
    text = random_shapes.document(found, machine, option.seed)
    target.with_name(f"{target.name}.md").write_text(text, "utf-8")
    target.with_name(f"{target.name}.json").write_text(
        json.dumps(random_shapes.for_programs(found, machine, option.seed), indent=1) + "\n",
        "utf-8",
    )
    terminalreporter.section("random shapes")
    terminalreporter.write_line(text)
    terminalreporter.write_line(f"written to {target}.*")
