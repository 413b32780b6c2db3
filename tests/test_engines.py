"""The inference engines that fastrnn is compared with: they compute the same, or are not timed."""

from __future__ import annotations

import pytest
import torch

from fastrnn._commands.compare import (
    GATES,
    OURS,
    PEER,
    Case,
    Comparison,
    MismatchError,
    Result,
    Shape,
)
from fastrnn._commands.machine import Machine

pytest.importorskip("onnx")
from bench.engines import engines, graphs, layers, report, stacks

INSTALLED = engines.installed()
TINY, STACK = Shape(3, 2, 3, 4), stacks.Stack(3, 4)


@pytest.fixture(params=INSTALLED)
def engine(request: pytest.FixtureRequest) -> dict[str, engines.Engine]:
    return {request.param: INSTALLED[request.param]}


@pytest.fixture
def wrong_gates(monkeypatch: pytest.MonkeyPatch) -> None:
    for cell, node in graphs.NODES.items():
        monkeypatch.setitem(graphs.NODES, cell, node._replace(gates=node.gates[::-1]))


def test_an_engine_is_there() -> None:
    assert INSTALLED
    assert set(engines.versions()) == set(INSTALLED)
    assert len(INSTALLED) + len(engines.missing()) == len(engines.ENGINES)


@pytest.mark.parametrize("shape", [Shape(1, 1, 5, 4), Shape(6, 3, 2, 7)], ids=str)
@pytest.mark.parametrize("cell", GATES)
def test_a_layer_is_timed(engine: dict[str, engines.Engine], cell: str, shape: Shape) -> None:
    """It is compared before, with all providers."""
    result = layers.time_layer(Case(cell, shape, False), engine, 2, rounds=2, block_seconds=0.001)
    assert set(result.seconds) == {PEER, OURS, *engine}
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in result.seconds.values())


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_layer_with_other_numbers_is_refused(
    engine: dict[str, engines.Engine], cell: str, wrong_gates: None
) -> None:
    with pytest.raises(MismatchError, match=f"{next(iter(engine))}, {cell} 3,2,3,4: y differs"):
        Comparison(Case(cell, TINY, False), layers.providers(engine, 1), 0.001)


@pytest.mark.parametrize("cell", GATES)
def test_a_stack_is_timed(engine: dict[str, engines.Engine], cell: str) -> None:
    latency = stacks.time_stack(cell, STACK, engine, 1, rounds=2, turn_seconds=0.002)
    assert set(latency.seconds) == {PEER, OURS, *engine}
    for name in latency.seconds:
        assert 0 < latency.us(name) <= latency.us_99(name)


def test_a_stack_with_other_states_is_refused(
    engine: dict[str, engines.Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(module: torch.nn.RNNBase) -> list[str]:
        return graphs.output_names(module)[::-1]

    monkeypatch.setattr(stacks, "output_names", swapped)
    with pytest.raises(MismatchError, match="y of step 1 differs"):
        stacks.steps_of("lstm", STACK, engine, threads=1)


def _machine() -> Machine:
    return Machine("A CPU", "avx2", 2, "float32", "fastrnn 0", "2026-01-01", 100.0, {2**17: 10.0})


def test_the_report_shows_what_is_faster() -> None:
    seconds = {PEER: [4e-6] * 4, OURS: [2e-6] * 4, "fast": [1e-6] * 4, "slow": [3e-6] * 4}
    latency = stacks.Latency("gru", STACK, seconds)
    layer = Result(Case("gru", Shape(1, 1, 4, 4), False), seconds)
    text = report.document([layer], [latency], _machine(), {"fast": "1.2"}, ["gone"])
    for line in (
        "| GRU | 1,1,4,4 | 2.00 | 4.00, 2.00x | **1.00, 0.50x** | 3.00, 1.50x |",
        "| GRU | 3x4 | 2.00, 2.00 | 4.00, 4.00 | **1.00, 1.00** | 3.00, 3.00 |",
    ):
        assert line in text.splitlines()
    assert "Another is faster than fastrnn at: GRU 1,1,4,4." in text
    assert "Another is faster than fastrnn at: GRU 3x4." in text
    assert "fast 1.2" in text and "Not installed, and so not here: gone." in text
    found = report.for_programs([layer], [latency], _machine(), {"fast": "1.2"})
    assert found["results"][0]["ratios"] == {PEER: 2, "fast": 0.5, "slow": 1.5}
    assert found["stacks"][0]["us"]["fast"] == pytest.approx(1)
