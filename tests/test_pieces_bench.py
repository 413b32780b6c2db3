"""The speed of the engine's pieces: that all are timed, and that floors and reports are right."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from bench.pieces import __main__ as command
from bench.pieces import floor, program, report
from bench.pieces.program import Figure
from fastrnn import ops
from fastrnn._commands.compare import GATES, Case, Shape
from fastrnn._commands.machine import Machine

TILES = {2: 6, 3: 4, 4: 3, 6: 2, 8: 1}  # vectors, and the most rows, of 16 registers


@pytest.fixture(scope="module")
def built(pytestconfig: pytest.Config) -> Path:
    """The program, built at the first use and after changes, in pytest's cache."""
    folder = pytestconfig.cache.mkdir("bench_pieces")
    return program.build("baseline", "float32", folder, "-O1")


@pytest.fixture(scope="module")
def measured(built: Path) -> list[Figure]:
    return program.measure(built, program.KINDS, 2, milliseconds=1e-6, repetitions=2)


def of_kind(figures: list[Figure], kind: str) -> list[Figure]:
    return [f for f in figures if f.kind == kind]


def test_all_kinds_are_timed(measured: list[Figure]) -> None:
    assert {f.kind for f in measured} == program.KINDS.keys()
    assert all(0 < f.best_ns <= f.median_ns and f.work > 0 for f in measured)
    names = [(f.kind, *f.of.items()) for f in measured]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("dtype", program.TYPES)
def test_every_tile_is_timed(measured: list[Figure], dtype: str) -> None:
    tiles = [f for f in of_kind(measured, "tiles") if f.has(type=dtype, layout="strided")]
    found = {(int(f.of["vectors"]), int(f.of["rows"]), f.of["from"]): f for f in tiles}
    assert found.keys() == {
        (vectors, rows, place)
        for vectors, most in TILES.items()
        for rows in range(1, most + 1)
        for place in ("L1", "L2")
    }
    lanes = 2 if dtype == "float64" else 4
    assert found[2, 6, "L2"].work == 2 * 6 * 2 * lanes * 128


def test_every_cell_is_timed(measured: list[Figure]) -> None:
    cells = of_kind(measured, "cells")
    assert {f.of["cell"] for f in cells} == ops.CELLS.keys()
    assert {f.of["form"] for f in cells if f.has(cell="lstm")} == {"plain", "projected"}
    assert {f.of["form"] for f in cells if f.has(cell="mut1")} == {"plain", "x"}
    for cell in ("gru_before", "mut3"):
        assert {f.of["phase"] for f in cells if f.has(cell=cell)} == {"0", "1"}
    assert {f.of["pass"] for f in cells} == {"forward", "saving", "backward"}


def test_teams_have_up_to_all_threads(built: Path) -> None:
    kinds = ("meetings", "reading")
    found = program.measure(built, kinds, 3, milliseconds=1e-6, repetitions=1)
    assert [f.of["members"] for f in of_kind(found, "meetings")] == ["2", "3"]
    assert {f.of["threads"] for f in of_kind(found, "reading")} == {"1", "2", "3"}
    alone = program.measure(built, kinds, 1, milliseconds=1e-6, repetitions=1)
    assert not of_kind(alone, "meetings")


def test_all_that_is_timed_is_reported(measured: list[Figure]) -> None:
    text = report.document(measured, _machine(), 2, 2)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        f"## {name}"
        for name in (
            "Tiles",
            "Products",
            "Packing",
            "Few rows",
            "Reading",
            "Cells",
            "Functions",
            "Meetings",
        )
    ]
    entries = sum(line.count(" (") for line in text.splitlines() if line.startswith("|"))
    assert entries == len(measured)


def test_the_program_refuses_what_it_does_not_know(built: Path) -> None:
    with pytest.raises(program.subprocess.CalledProcessError):
        program.measure(built, ["tails"], 1)


# ---- made-up figures ----------------------------------------------------------------------------


def _machine(dtype: str = "float32", threads: int = 2) -> Machine:
    return Machine("A CPU", "avx2", threads, dtype, "fastrnn 0", "2026-01-01", 100.0, {2**17: 10.0})


def figure(kind: str, best: float, median: float | None = None, **of: object) -> Figure:
    """Of that speed, in the unit of its kind."""
    work = 1000.0
    ns = [
        value * work if program.KINDS[kind] == program.NS else work / value
        for value in (best, median or best)
    ]
    return Figure(kind, {k.rstrip("_"): str(v) for k, v in of.items()}, *ns, work)


def _tile(best: float, median: float, rows: int, vectors: int, **of: object) -> Figure:
    named = {"type": "float32", "layout": "strided", "from": "L1", **of}
    return figure("tiles", best, median, **named, rows=rows, vectors=vectors)


def test_a_line_is_parsed() -> None:
    found = Figure.parse("kind=packing pass=forward from=L2\t100\t200\t1000\n")
    assert found == Figure("packing", {"pass": "forward", "from": "L2"}, 100, 200, 1000)
    assert (found.best, found.median) == (10, 5)
    times = Figure.parse("kind=cells cell=gru\t100\t200\t10")
    assert (times.best, times.median) == (10, 20)


def test_tiles_are_shown_with_their_share_of_the_best() -> None:
    figures = [
        _tile(80, 75, 6, 2),
        _tile(20, 10, 1, 2),
        _tile(60, 55, 1, 8),
        _tile(40, 40, 1, 2, **{"from": "L2"}),
        _tile(50, 50, 6, 2, type="bfloat16"),
    ]
    lines = report.document(figures, _machine(), 2, 3).splitlines()
    for line in (
        "| rows | 2 | 8 |",
        "| 6 | 80.0 (75.0), **100%** |  |",
        "| 1 | 20.0 (10.0), 25% | 60.0 (55.0), 75% |",
        "| 1 | 40.0 (40.0), 50% |",
        "| 6 | 50.0 (50.0), **100%** |",
    ):
        assert line in lines
    assert report.as_json(figures, _machine())["figures"][0] == {
        "kind": "tiles",
        "type": "float32",
        "layout": "strided",
        "from": "L1",
        "rows": "6",
        "vectors": "2",
        "unit": "GFLOP/s",
        "best": pytest.approx(80),
        "median": pytest.approx(75),
        "best_ns": pytest.approx(12.5),
        "median_ns": pytest.approx(1000 / 75),
        "work": 1000,
    }


def test_products_are_shown_with_their_share_of_the_types_best_tile() -> None:
    product = figure(
        "products", 30, 20, type="bfloat16", pass_="forward", rows=16, gates=4, units=128
    )
    entry = "| 16 128 | 30.0 (20.0){} |"

    def lines(*tiles: Figure) -> list[str]:
        return report.document([*tiles, product], _machine("bfloat16"), 2, 3).splitlines()

    assert entry.format("") in lines()
    narrow, wide = _tile(40, 40, 6, 2, type="bfloat16"), _tile(60, 60, 6, 2)
    pairs = _tile(120, 120, 6, 2, type="bfloat16-pairs")
    assert entry.format(", 75%") in lines(narrow)
    assert entry.format(", 50%") in lines(narrow, wide)
    assert entry.format(", 25%") in lines(narrow, wide, pairs)
    assert entry.format(", 75%") in lines(narrow, _tile(90, 90, 6, 2, type="float16"))


def _figures(tile: float = 80) -> list[Figure]:
    """Reading is fast within 4 KiB a thread, and packing within 4 KiB."""
    found = [
        _tile(tile, tile, 6, 2),
        _tile(tile / 2, tile / 2, 1, 8),
        figure("meetings", 250, members=2),
    ]
    for threads in (1, 2):
        found.append(figure("reading", 100 * threads, threads=threads, bytes=4096))
        found.append(figure("reading", 10 * threads, threads=threads, bytes=65536))
    for direction in ("forward", "backward"):
        fast, slow = (20, 5) if direction == "forward" else (10, 2)
        found.append(figure("packing", fast, pass_=direction, bytes=4096))
        found.append(figure("packing", slow, pass_=direction, bytes=65536))
    for cell, times in {"lstm": (40, 44, 16), "gru": (28, 30, 6), "rnn_tanh": (8, 9, 2)}.items():
        for direction, ns in zip(("forward", "saving", "backward"), times, strict=True):
            for place, more in (("L1", 0), ("L2", 5)):
                of = {"cell": cell, "form": "plain", "phase": 0, "pass": direction}
                found.append(figure("cells", ns + more, **of, **{"from": place}, lanes=8))
    of = {"cell": "lstm", "form": "projected", "phase": 0, "pass": "forward"}
    found.append(figure("cells", 1, **of, **{"from": "L1"}, lanes=8))
    return found


def _rates(tile: float = 80, machine: Machine | None = None) -> floor.Rates:
    calls = {(cell, training): 50.0 if training else 20.0 for cell in GATES for training in (0, 1)}
    return floor.Rates(_figures(tile), machine or _machine(), calls)


def test_products_run_at_the_best_tile_or_at_mm() -> None:
    assert _rates(tile=80).gflops() == pytest.approx(80)
    assert _rates(tile=30).gflops() == pytest.approx(50)  # 100 on two threads


def test_the_floor_of_a_forward_pass_is_the_sum_of_its_parts() -> None:
    found = floor.floor(Case("lstm", Shape(10, 4, 16, 20), False), _rates())
    # Two threads share four rows, and never meet.
    products = 10 * 2 * 4 * 80 * (16 + 20) / 160e3
    gates = 10 * 4 * 3 * 40 / 2e3
    packing = 4 * 80 * (16 + 20) / 5e3 / 2
    expected = floor.Floor(products, 0, gates, packing, 0, 20)
    assert vars(found) == pytest.approx(vars(expected))
    assert found.us == pytest.approx(sum(vars(expected).values()))


def test_the_floor_of_training_has_both_passes() -> None:
    found = floor.floor(Case("rnn", Shape(10, 4, 16, 20), True), _rates())
    weights = 4 * 20 * (16 + 20)  # fast: less than 4 KiB
    assert vars(found) == pytest.approx(
        {
            "products": 3 * 10 * 2 * 4 * 20 * (16 + 20) / 160e3,
            "reading": 0,
            "gates": 10 * 4 * 3 * (9 + 2) / 2e3,
            "packing": weights / 20e3 / 2 + weights / 10e3 / 2,
            "meetings": 0,
            "call": 50,
        }
    )


def test_threads_that_share_a_row_meet_where_it_pays() -> None:
    """1000 units of a row take longer to read than a meeting, 20 do not."""
    large = floor.floor(Case("rnn", Shape(10, 1, 16, 1000), False), _rates())
    assert large.meetings == pytest.approx(10 * 0.25)
    assert large.reading == pytest.approx(10 * (4e6 / 20e3 - 2 * 1e6 / 160e3))
    small = floor.floor(Case("rnn", Shape(10, 1, 16, 20), False), _rates())
    assert small.meetings == 0
    assert small.products == pytest.approx(10 * 2 * 20 * (16 + 20) / 80e3)


@pytest.mark.parametrize(
    ("shape", "training", "passes"),
    [
        (Shape(1, 8, 16, 16), False, ""),
        (Shape(1, 8, 16, 16), True, ""),
        (Shape(2, 8, 16, 16), False, ""),
        (Shape(2, 8, 16, 16), True, "b"),
        (Shape(3, 8, 16, 16), False, "f"),
        (Shape(1, 9, 16, 16), True, "fb"),
    ],
    ids=str,
)
def test_weights_of_few_rows_are_not_packed(shape: Shape, training: bool, passes: str) -> None:
    packing = floor.floor(Case("rnn", shape, training), _rates()).packing
    times = {"f": 2048 / 20e3 / 2, "b": 2048 / 10e3 / 2}
    assert packing == pytest.approx(sum(times[one] for one in passes))


def _timed(share: float, shape: Shape, training: bool = False) -> floor.Timed:
    parts = floor.Floor(60.0, 10.0, 15.0, 5.0, 0.0, 10.0)
    return floor.Timed(Case("gru", shape, training), 100 / share, 120 / share, parts)


@pytest.mark.parametrize(
    ("timed", "slow"),
    [
        (_timed(0.84, Shape(10, 16, 8, 128)), True),
        (_timed(0.86, Shape(10, 16, 8, 128)), False),
        (_timed(0.5, Shape(10, 15, 8, 128)), False),
        (_timed(0.5, Shape(10, 16, 8, 127)), False),
    ],
    ids=["slow", "fast", "few rows", "few units"],
)
def test_what_is_far_from_its_floor_is_flagged(timed: floor.Timed, slow: bool) -> None:
    assert timed.is_slow == slow
    text = report.floor_document([timed], _machine())
    flag = f"{timed.share:.0%} **!**"
    assert (flag in text) == slow
    parts = f"{100 / timed.share:.0f} | 100 | 60.0 | 10.0 | 15.0 | 5.00 | 0.00 | 10.0 |"
    assert (f"| GRU forward {timed.case.shape} | {parts}" in text) == slow


def test_floors_are_reported_by_shape() -> None:
    timed = [_timed(0.5, Shape(10, 1, 8, 8)), _timed(0.8, Shape(10, 1, 8, 8), True)]
    text = report.floor_document(timed, _machine())
    assert "| T,B,I,H | GRU forward | GRU training |" in text.splitlines()
    assert "| 10,1,8,8 | 20.0, 50% | 12.5, 80% |" in text.splitlines()
    assert "1.20 times the best" in text
    found = report.floor_json(timed, [], _machine())["floors"][1]
    assert (found["cell"], found["training"], found["share"]) == ("gru", True, pytest.approx(0.8))
    assert found["parts_us"]["products"] == 60


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def quick(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is made up, and a program that is built."""
    monkeypatch.setattr(Machine, "measure", lambda dtype, device: _machine())
    monkeypatch.setattr(program, "build", lambda isa, dtype: built)
    monkeypatch.setattr(floor, "measure", partial(floor.measure, rounds=1, block_seconds=1e-6))


def test_the_command_writes_what_it_measures(quick: None, tmp_path: Path) -> None:
    few = ["--milliseconds", "1e-6", "--repetitions", "1", "--results", str(tmp_path / "found")]
    command.main(["--only", "functions,meetings", *few])
    text = (tmp_path / "found.md").read_text()
    assert "## Functions" in text and "## Meetings" in text and "## Tiles" not in text
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert {f["kind"] for f in figures} == {"functions", "meetings"}
    command.main(["--floor", "2,2,3,4", *few])
    assert "| 2,2,3,4 |" in (tmp_path / "found.md").read_text()
    floors = json.loads((tmp_path / "found.json").read_text())["floors"]
    assert len(floors) == 6 and all(f["floor_us"] > 0 for f in floors)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "tails"], "the pieces are tiles,products,"),
        (["--floor", "--only", "tiles"], "not those of --only"),
        (["1,2,3,4"], "shapes belong to --floor"),
        (["--dtype", "int8"], "invalid choice"),
    ],
    ids=" ".join,
)
def test_the_command_refuses(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.parsed(arguments)
    assert message in capsys.readouterr().err


def test_every_instruction_set_can_be_compiled_for() -> None:
    assert set(torch.ops.fastrnn.cpu_isas().split(": ")[1].split()) <= program.ISAS.keys()
