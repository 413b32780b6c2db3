"""What only the simulation of CUDA can show: which path is taken, what does not depend on the order
of threads, and that it sees what is wrong."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from cuda_scans import ARITHMETICS, PATHS, SIMULATION, Scan, differences
from simulated_cuda import configure

SHARED_MEMORY = 232448


# ---- what must not depend on luck ----------------------------------------------------------------


@pytest.mark.parametrize("path", "ACG")
def test_bits_do_not_depend_on_the_order_of_threads(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    scan, runs = Scan(cell="gru", H=40, B=5, arithmetic="bfloat16"), []
    for seed in range(5):
        configure(simulation, seed=seed)
        runs.append(scan.run(SIMULATION))
    for name, first in runs[0].items():
        assert all(torch.equal(first, other[name]) for other in runs[1:]), name


@pytest.mark.parametrize("path", "AC")
def test_groups_need_not_run_side_by_side(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    configure(simulation, resident={"A": 1, "C": 2}[path])
    assert not differences(Scan(B=20, arithmetic="float16", bidirectional=True), SIMULATION)


def test_a_refused_launch_falls_back_to_steps_where_it_may(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation.refuse_cooperative(True)
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "GF")
    assert not differences(Scan(arithmetic="float16"), SIMULATION)
    assert simulation.refused_launches() == 2
    assert simulation.persistent_launches() == 0
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "G")
    with pytest.raises(RuntimeError, match="the device refused to run so many CTAs side by side"):
        Scan(arithmetic="float16").run(SIMULATION)


def test_the_fastest_of_the_allowed_paths_is_taken(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "FACG")
    assert not differences(Scan(arithmetic="float16"), SIMULATION)
    assert simulation.persistent_launches() == 2
    assert not differences(Scan(arithmetic="float64"), SIMULATION)
    assert simulation.persistent_launches() == 2


# ---- choice of a path ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
def test_a_forced_path_is_taken(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    Scan().run(SIMULATION)
    assert simulation.persistent_launches() == (0 if path == "F" else 2)


def test_persistent_paths_are_not_chosen_by_themselves(simulation: ModuleType) -> None:
    """None has run on a GPU yet."""
    assert not differences(Scan(arithmetic="float16"), SIMULATION)
    assert simulation.persistent_launches() == 0


@pytest.mark.parametrize(
    ("path", "scan", "arch"),
    [
        ("A", Scan(arithmetic="float64"), 90),
        ("A", Scan(proj=3), 90),
        ("C", Scan("gru_before"), 90),
        ("G", Scan("mut1", itself=True), 90),
        ("A", Scan(H=500), 90),
        ("C", Scan(), 80),
        ("A", Scan(), 75),
        ("A", Scan(H=9, arithmetic="float16"), 90),
    ],
    ids=str,
)
def test_a_forced_path_that_cannot_run_raises(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, path: str, scan: Scan, arch: int
) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    configure(simulation, arch=arch)
    with pytest.raises(RuntimeError, match=f"FASTRNN_CUDA_PATH is '{path}', but that path does"):
        scan.run(SIMULATION)


def test_an_unknown_path_raises(simulation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "B")
    with pytest.raises(RuntimeError, match="'B', but the paths are F, A, C and G"):
        Scan().run(SIMULATION)


@pytest.mark.parametrize("path", "ACG")
@pytest.mark.parametrize("gates", [1, 3, 4])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
def test_plans_cover_all_and_fit(
    simulation: ModuleType, path: str, gates: int, backward: bool, arithmetic: str
) -> None:
    element_size = 2 if "16" in arithmetic else 4
    tensor_cores = arithmetic != "float32"
    for hidden_size in (1, 7, 8, 9, 64, 100, 128, 200, 256, 511, 1024, 2048):
        for batch in (1, 2, 7, 8, 33, 128, 1000):
            for directions in (1, 2):
                found = simulation.plan(
                    path=path,
                    gates=gates,
                    hidden_size=hidden_size,
                    batch=batch,
                    directions=directions,
                    backward=backward,
                    element_size=element_size,
                    tensor_cores=tensor_cores,
                )
                if found is None:
                    continue
                blocks = found["ctas"] * found["groups"] * directions
                depth = found["ctas"] * found["units"] * (gates if backward else 1)
                assert found["ctas"] * found["units"] >= hidden_size
                assert found["rows"] * found["groups"] >= batch
                assert found["rows"] * (found["groups"] - 1) < batch
                assert found["warp_rows"] * found["tiles"] * 16 >= found["weight_rows"]
                assert found["slices"] * found["warp_rows"] <= 8
                assert found["chunks"] * 64 >= depth * element_size
                assert found["slices"] * found["chunks_per_slice"] >= found["chunks"]
                assert (found["slices"] - 1) * found["chunks_per_slice"] < found["chunks"]
                assert found["shared_memory"] <= SHARED_MEMORY
                assert path != "G" or blocks <= 132


@pytest.mark.parametrize(
    ("path", "gates", "hidden_size", "batch", "element_size"),
    [
        ("A", 4, 128, 64, 2),
        ("A", 3, 160, 64, 2),
        ("A", 4, 64, 64, 4),
        ("C", 4, 256, 32, 2),
        ("C", 3, 256, 64, 2),
        ("C", 4, 512, 8, 2),
        ("G", 4, 1024, 32, 2),
        ("G", 3, 1024, 64, 2),
        ("G", 4, 768, 16, 2),
    ],
)
@pytest.mark.parametrize("backward", [False, True])
def test_paths_reach_as_far_as_they_should(
    simulation: ModuleType,
    path: str,
    gates: int,
    hidden_size: int,
    batch: int,
    element_size: int,
    backward: bool,
) -> None:
    given = {"gates": gates, "hidden_size": hidden_size, "batch": batch}
    found = simulation.plan(path=path, backward=backward, element_size=element_size, **given)
    assert found is not None
    assert found["step"] < simulation.plan(path="F", **given)["step"]


# ---- the simulation itself -----------------------------------------------------------------------


def test_the_simulation_sees_a_missing_barrier(simulation: ModuleType) -> None:
    expected = [float((i + 1) % 64) for i in range(64)]
    assert simulation.probe("neighbours with a barrier", 64) == expected
    assert simulation.probe("neighbours without a barrier", 64) != expected


def test_the_simulation_sees_a_message_that_is_not_waited_for(simulation: ModuleType) -> None:
    early = 0
    for seed in range(10):
        configure(simulation, seed=seed)
        assert simulation.probe("a message that is waited for", 32)[:2] == [7, 7]
        early += simulation.probe("a message that is not waited for", 32)[:2] != [7, 7]
    assert early > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("half of the threads wait", "deadlock"),
        ("a flag that nobody sets", "step limit"),
        ("a write beyond the shared memory", "beyond the shared memory"),
    ],
)
def test_the_simulation_reports(simulation: ModuleType, name: str, message: str) -> None:
    configure(simulation, step_limit=10_000)
    with pytest.raises(RuntimeError, match=message):
        simulation.probe(name, 64)
