"""The CUDA backend without a GPU: its very sources, run by a simulation of CUDA on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.utils.cpp_extension import load

from fastrnn import ops

ROOT = Path(__file__).parent.parent
PATHS = "FACG"
ARITHMETICS = ("float32", "tf32", "float16", "bfloat16")
# Half of what the last place of a number near 1 counts.
ROUNDING = {
    "float64": 2**-53,
    "float32": 2**-24,
    "tf32": 2**-11,
    "float16": 2**-11,
    "bfloat16": 2**-8,
}
SHARED_MEMORY = 232448


@pytest.fixture(scope="module")
def built(pytestconfig: pytest.Config) -> ModuleType:
    """The module, built at the first use and after changes; the compiler's cache is pytest's."""
    flags = ["-std=c++20", "-O1", "-g0", "-w", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests'}"]
    flags += ["-DFRNN_CUDA_SIMULATION", "-DTORCH_TARGET_VERSION=0x020b000000000000"]
    register_mm_of_16_bits_to_float32()
    folder = pytestconfig.cache.mkdir("cuda_simulation")
    source = str(ROOT / "tests/cuda_simulation.cpp")
    return load("cuda_simulation", [source], flags, build_directory=str(folder))


def register_mm_of_16_bits_to_float32() -> None:
    """What torch has for CUDA alone."""

    @torch.library.impl("aten::mm.dtype_out", "CPU")
    def mm(a: Tensor, b: Tensor, out_dtype: torch.dtype, *, out: Tensor) -> Tensor:
        assert out.dtype == out_dtype == torch.float32
        return torch.mm(a.float(), b.float(), out=out)


@pytest.fixture
def simulation(built: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delenv("FASTRNN_CUDA_PATH", raising=False)
    configure(built)
    return built


def configure(
    simulation: ModuleType,
    seed: int = 0,
    resident: int = 132,
    step_limit: int = 10**8,
    arch: int = 90,
) -> None:
    simulation.configure(seed, resident, step_limit, arch)


@dataclass(frozen=True)
class Scan:
    """One call of the ops."""

    cell: str = "lstm"
    T: int = 4
    B: int = 3
    I: int = 5  # noqa: E741
    H: int = 24
    arithmetic: str = "float32"
    bidirectional: bool = False
    batch_first: bool = False
    bias: bool = True
    initial: bool = True
    proj: int = 0
    resets: bool = False
    lengths: tuple[int, ...] | None = None
    batch_sizes: tuple[int, ...] | None = None
    seed: int = 0

    def __str__(self) -> str:
        words = [self.cell, self.arithmetic, f"T{self.T}B{self.B}I{self.I}H{self.H}"]
        words += [f"P{self.proj}"] * bool(self.proj) + ["bi"] * self.bidirectional
        words += ["bf"] * self.batch_first + ["resets"] * self.resets
        words += ["nobias"] * (not self.bias) + ["noh0"] * (not self.initial)
        words += ["lengths"] * bool(self.lengths) + ["packed"] * bool(self.batch_sizes)
        return "-".join(words)

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, "float32" if self.arithmetic == "tf32" else self.arithmetic)

    @property
    def states(self) -> int:
        return ops.CELLS[self.cell].states

    def arguments(self) -> tuple:
        generator = torch.Generator().manual_seed(2 * self.seed)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(*shape, generator=generator) * scale).to(self.dtype)

        rows, directions = ops.CELLS[self.cell].gates * self.H, 1 + self.bidirectional
        output, weights = self.proj or self.H, []
        for _ in range(directions):
            weights.append(draw(rows, self.I, scale=self.I**-0.5))
            weights.append(draw(rows, output, scale=output**-0.5))
            weights += [draw(rows, scale=0.1) for _ in range(2 * self.bias)]
            weights += [draw(output, self.H, scale=self.H**-0.5)] * bool(self.proj)
        leading = (self.B, self.T) if self.batch_first else (self.T, self.B)
        if self.batch_sizes:
            leading = (sum(self.batch_sizes),)
        sizes = [output] + [self.H] * (self.states - 1)
        return (
            self.cell,
            draw(*leading, self.I),
            [draw(directions, self.B, size) for size in sizes] if self.initial else [],
            weights,
            torch.tensor(self.lengths) if self.lengths else None,
            torch.tensor(self.batch_sizes) if self.batch_sizes else None,
            torch.rand(leading, generator=generator) < 0.3 if self.resets else None,
            self.bidirectional,
            self.batch_first,
        )

    def run(self, namespace: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """All that both ops of a library return, where it differs in no more than rounding.

        dtype: the type to compute in, from the values as the scan's own type holds them.
        """
        library, tf32 = getattr(torch.ops, namespace), self.arithmetic == "tf32"

        def given(value: object) -> object:
            if isinstance(value, Tensor) and value.is_floating_point():
                return value.to(dtype or self.dtype)
            return list(map(given, value)) if isinstance(value, list) else value

        arguments = [given(a) for a in self.arguments()]
        out = library.scan(*arguments, True, tf32)
        generator = torch.Generator().manual_seed(2 * self.seed + 1)
        # Those of the states of every step are in the type that computes.
        grads = [
            torch.randn(t.shape, generator=generator).to(self.dtype).to(t.dtype)
            for t in out[: 2 * self.states]
        ]
        kept = [out[0], *out[1 + self.states :]]
        backward = library.scan_backward(grads, *arguments, kept, True, True, True, tf32)
        found = {f"output {i}": t for i, t in enumerate(out[: 2 * self.states])}
        return found | {f"gradient {i}": t for i, t in enumerate(backward)}


def differences(scan: Scan) -> list[str]:
    """Where the simulated kernels are less accurate than the CPU's in the same type.

    Which side of relu's kink a 16-bit rounding falls on is a matter of luck, and throws whole
    gradients off: there, most of five draws must agree.
    """
    if scan.cell != "rnn_relu" or "16" not in scan.arithmetic:
        return differences_of_one_draw(scan)
    draws = [differences_of_one_draw(replace(scan, seed=seed)) for seed in range(5)]
    return max(draws, key=len) if sum(map(bool, draws)) > 2 else []


def differences_of_one_draw(scan: Scan) -> list[str]:
    """TF32, which the CPU has not, and float64, which is what errors are measured by, are bound by
    their own rounding."""
    found, exact = scan.run("fastrnn_simulation"), scan.run("fastrnn", torch.float64)
    cpu = scan.run("fastrnn")
    rounding, wrong = ROUNDING[scan.arithmetic], []
    for name, truth in exact.items():

        def error(t: Tensor, truth: Tensor = truth) -> float:
            """The error's norm, in roundings."""
            return float((t.double() - truth).norm() / truth.norm().clamp_min(1e-300)) / rounding

        theirs = 3 if scan.arithmetic in ("tf32", "float64") else error(cpu[name])
        slack = 1 if "16" in scan.arithmetic else 4
        if not error(found[name]) <= 2 * theirs + slack:
            wrong.append(f"{name}: {error(found[name]):.1f} roundings, on the CPU {theirs:.1f}")
    return wrong


# ---- the paths -----------------------------------------------------------------------------------

# Sizes around the 8 units that a CTA has at least, the 16 of a tile, and a chunk's 16 or 32.
SHAPES = (Scan(H=9, B=1, T=3), Scan(H=40, B=9, T=3), Scan(H=33, B=2, T=6, bidirectional=True))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", ops.CELLS)
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"T{s.T}B{s.B}H{s.H}")
def test_paths(
    simulation: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    cell: str,
    arithmetic: str,
    shape: Scan,
) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    if "16" in arithmetic and path != "F":  # which take two units at a time
        shape = replace(shape, H=shape.H + shape.H % 2)
    assert not differences(replace(shape, cell=cell, arithmetic=arithmetic))
    assert (simulation.persistent_launches() > 0) == (path != "F")


@pytest.mark.parametrize("cell", ops.CELLS)
def test_float64_takes_the_step_path(simulation: ModuleType, cell: str) -> None:
    assert not differences(Scan(cell=cell, arithmetic="float64", bidirectional=True))
    assert simulation.persistent_launches() == 0


OPTIONS = (
    Scan(resets=True),
    Scan(batch_first=True),
    Scan(bias=False, initial=False),
    Scan(lengths=(2, 4, 0), resets=True),
    Scan(lengths=(4, 1, 3), batch_first=True),
    Scan(batch_sizes=(3, 3, 2, 1), resets=True),
    Scan(batch_sizes=(3, 1, 1, 1), initial=False),
    Scan(T=1),
)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("arithmetic", ["float32", "float16"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_options(
    simulation: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    cell: str,
    arithmetic: str,
    directions: int,
    option: Scan,
) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    scan = replace(option, cell=cell, arithmetic=arithmetic, bidirectional=directions == 2)
    assert not differences(scan)


@pytest.mark.parametrize("path", "FA")
@pytest.mark.parametrize("cell", ops.CELLS)
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_the_fewest_units(
    simulation: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    cell: str,
    arithmetic: str,
) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    hidden_size = 2 if arithmetic == "bfloat16" and path == "A" else 1
    assert not differences(Scan(cell, H=hidden_size, I=1, arithmetic=arithmetic))


@pytest.mark.parametrize("option", OPTIONS, ids=str)
@pytest.mark.parametrize("arithmetic", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("proj", [2, 7, 30])
def test_projections(simulation: ModuleType, option: Scan, arithmetic: str, proj: int) -> None:
    scan = replace(option, arithmetic=arithmetic, proj=proj, bidirectional=True)
    assert not differences(scan)


@pytest.mark.parametrize("path", "ACG")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_more_rows_than_a_tile_and_a_group(
    simulation: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    cell: str,
    arithmetic: str,
) -> None:
    """On a device so small that a group must take many rows, and there are several groups."""
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    configure(simulation, resident=8 if path == "G" else 4)
    assert not differences(Scan(cell, T=2, B=75, H=24, arithmetic=arithmetic))


@pytest.mark.parametrize("path", "ACG")
@pytest.mark.parametrize("cell", ops.CELLS)
def test_weights_beyond_the_registers(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, path: str, cell: str
) -> None:
    """Depths of which a warp keeps a part in shared memory."""
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    hidden_size = {"A": 104, "C": 232, "G": 232}[path]
    assert not differences(Scan(cell, T=2, B=2, H=hidden_size, arithmetic="float16"))


@pytest.mark.parametrize("path", "FAG")
@pytest.mark.parametrize("cell", ops.CELLS)
@pytest.mark.parametrize("arithmetic", ["float16", "bfloat16"])
def test_sums_are_not_rounded_to_16_bits(
    simulation: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    cell: str,
    arithmetic: str,
) -> None:
    """Rounding W_ih x alone makes the error of h a fifth to a third larger."""
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    scan = Scan(cell, T=12, B=8, I=24, H=48, arithmetic=arithmetic)
    exact = scan.run("fastrnn", torch.float64)["output 0"]
    error, cpus_error = (
        (scan.run(library)["output 0"].double() - exact).norm()
        for library in ("fastrnn_simulation", "fastrnn")
    )
    assert error < 1.01 * cpus_error


# ---- what must not depend on luck ----------------------------------------------------------------


@pytest.mark.parametrize("path", "ACG")
def test_bits_do_not_depend_on_the_order_of_threads(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    scan, runs = Scan(cell="gru", H=40, B=5, arithmetic="bfloat16"), []
    for seed in range(5):
        configure(simulation, seed=seed)
        runs.append(scan.run("fastrnn_simulation"))
    for name, first in runs[0].items():
        assert all(torch.equal(first, other[name]) for other in runs[1:]), name


@pytest.mark.parametrize("path", "AC")
def test_groups_need_not_run_side_by_side(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
    configure(simulation, resident={"A": 1, "C": 2}[path])
    assert not differences(Scan(B=20, arithmetic="float16", bidirectional=True))


def test_a_refused_launch_falls_back_to_steps_where_it_may(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation.refuse_cooperative(True)
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "GF")
    assert not differences(Scan(arithmetic="float16"))
    assert simulation.refused_launches() == 2
    assert simulation.persistent_launches() == 0
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "G")
    with pytest.raises(RuntimeError, match="the device refused to run so many CTAs side by side"):
        Scan(arithmetic="float16").run("fastrnn_simulation")


def test_the_fastest_of_the_allowed_paths_is_taken(
    simulation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "FACG")
    assert not differences(Scan(arithmetic="float16"))
    assert simulation.persistent_launches() == 2
    assert not differences(Scan(arithmetic="float64"))
    assert simulation.persistent_launches() == 2


# ---- choice of a path ----------------------------------------------------------------------------


def test_persistent_paths_are_not_chosen_by_themselves(simulation: ModuleType) -> None:
    """None has run on a GPU yet."""
    assert not differences(Scan(arithmetic="float16"))
    assert simulation.persistent_launches() == 0


@pytest.mark.parametrize(
    ("path", "scan", "arch"),
    [
        ("A", Scan(arithmetic="float64"), 90),
        ("A", Scan(proj=3), 90),
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
        scan.run("fastrnn_simulation")


def test_an_unknown_path_raises(simulation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "B")
    with pytest.raises(RuntimeError, match="'B', but the paths are F, A, C and G"):
        Scan().run("fastrnn_simulation")


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
