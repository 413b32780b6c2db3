"""The CUDA backend's paths, against the reference and the CPU's kernels: in a simulation of CUDA,
which runs the very sources on the CPU, and on a GPU where there is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from cuda_scans import (
    ARITHMETICS,
    CPU,
    FORMS,
    GPU,
    PATHS,
    PERSISTENT,
    SIMULATION,
    Backend,
    Form,
    Scan,
    differences,
)
from simulated_cuda import ARCHITECTURE, configure
from torch.profiler import ProfilerActivity, profile

from fastrnn import ops

HAS_GPU = torch.cuda.is_available() and not ops.WHY_NO_CUDA
Force = Callable[[str], None]
PERSISTENT_PATHS = PATHS.replace("F", "")


@pytest.fixture(params=[SIMULATION] + [GPU] * HAS_GPU, ids=lambda b: b.name)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    monkeypatch.delenv("FASTRNN_CUDA_PATH", raising=False)
    if request.param == SIMULATION:
        request.getfixturevalue("simulation")
    return request.param


@pytest.fixture
def force(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Force:
    """Lets calls take one path only."""

    def force(path: str) -> None:
        major, minor = divmod(ARCHITECTURE, 10)
        if backend == GPU:
            major, minor = torch.cuda.get_device_capability()
        if (major, minor) < {"F": (0, 0), "C": (9, 0)}.get(path, (8, 0)):
            pytest.skip(f"no GPU for path {path}")
        monkeypatch.setenv("FASTRNN_CUDA_PATH", path)

    return force


# Sizes around the 8 units that a CTA has at least, the 16 of a tile, and a chunk's 16 or 32.
SHAPES = (Scan(H=9, B=1, T=3), Scan(H=40, B=9, T=3), Scan(H=33, B=2, T=6, bidirectional=True))


shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"T{s.T}B{s.B}H{s.H}")
forms = pytest.mark.parametrize("form", FORMS, ids=str)


@forms
@pytest.mark.parametrize("arithmetic", ["float64", *ARITHMETICS])
@shapes
def test_steps(backend: Backend, form: Form, arithmetic: str, shape: Scan) -> None:
    assert not differences(replace(shape, **form._asdict(), arithmetic=arithmetic), backend)


@pytest.mark.parametrize("path", PERSISTENT_PATHS)
@pytest.mark.parametrize("cell", PERSISTENT)
@pytest.mark.parametrize("arithmetic", ARITHMETICS)
@shapes
def test_persistent_kernels(
    backend: Backend, force: Force, path: str, cell: str, arithmetic: str, shape: Scan
) -> None:
    force(path)
    if "16" in arithmetic:  # which take two units at a time
        shape = replace(shape, H=shape.H + shape.H % 2)
    assert not differences(replace(shape, cell=cell, arithmetic=arithmetic), backend)


OPTIONS = (
    Scan(resets=True),
    Scan(batch_first=True),
    Scan(bias=False, initial=False),
    Scan(lengths=(2, 4, 0), resets=True),
    Scan(lengths=(4, 1, 3), batch_first=True),
    Scan(lengths=(0, 0, 0)),
    Scan(batch_sizes=(3, 3, 2, 1), resets=True),
    Scan(batch_sizes=(3, 1, 1, 1), initial=False),
    Scan(T=1),
)


@forms
@pytest.mark.parametrize("arithmetic", ["float64", "bfloat16"])
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_options_of_steps(backend: Backend, form: Form, arithmetic: str, option: Scan) -> None:
    scan = replace(option, **form._asdict(), arithmetic=arithmetic, bidirectional=True)
    assert not differences(scan, backend)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", ["lstm_peephole", "gru"])
@pytest.mark.parametrize("arithmetic", ["float32", "float16"])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_options(
    backend: Backend,
    force: Force,
    path: str,
    cell: str,
    arithmetic: str,
    directions: int,
    option: Scan,
) -> None:
    force(path)
    scan = replace(option, cell=cell, arithmetic=arithmetic, bidirectional=directions == 2)
    assert not differences(scan, backend)


@forms
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_steps_of_one_unit(backend: Backend, form: Form, arithmetic: str) -> None:
    form = form._replace(proj=min(form.proj, 1))
    assert not differences(Scan(**form._asdict(), H=1, I=1, arithmetic=arithmetic), backend)


@pytest.mark.parametrize("cell", PERSISTENT)
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_persistent_kernels_of_the_fewest_units(
    backend: Backend, force: Force, cell: str, arithmetic: str
) -> None:
    force("A")
    hidden_size = 2 if arithmetic == "bfloat16" else 1
    assert not differences(Scan(cell, H=hidden_size, I=1, arithmetic=arithmetic), backend)


@pytest.mark.parametrize("cell", [name for name, info in ops.CELLS.items() if info.projects])
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
@pytest.mark.parametrize("proj", [2, 30])
def test_projections(backend: Backend, cell: str, arithmetic: str, proj: int) -> None:
    """To even sizes, and to more features than there are hidden units."""
    scan = Scan(cell, proj=proj, arithmetic=arithmetic, bidirectional=True, lengths=(2, 4, 0))
    assert not differences(scan, backend)


@forms
def test_what_is_not_wanted_is_not_computed(backend: Backend, form: Form) -> None:
    """Gradients of x, the states or the weights alone are those of a full backward."""
    scan = Scan(**form._asdict(), resets=True)
    library = getattr(torch.ops, backend.library)
    arguments = scan.arguments_on(backend.device)
    out = library.scan(*arguments, True)
    kept = [out[0], *out[1 + scan.states :]]

    def backward(*wanted: bool) -> list[torch.Tensor]:
        return library.scan_backward(scan.grads(out), *arguments, kept, *wanted)

    parts = [*backward(True, False, False), *backward(False, True, False)]
    parts += backward(False, False, True)
    for full, part in zip(backward(True, True, True), parts, strict=True):
        assert torch.equal(full, part)


@pytest.mark.parametrize("cell", ["lstm", "gru_before"])
def test_several_scans_at_once(backend: Backend, cell: str) -> None:
    """They give what each gives alone, at sizes that no pack of values divides: forward to the bit;
    backward to rounding, because torch multiplies in another order where a result lies otherwise.
    """

    def flat(lists: list[list[torch.Tensor]]) -> list[torch.Tensor]:
        return [t for one in lists for t in one]

    scans = [Scan(cell, H=7, seed=seed, bidirectional=True) for seed in range(3)]
    library = getattr(torch.ops, backend.library)
    given = [scan.arguments_on(backend.device) for scan in scans]
    alone = [library.scan(*arguments, True) for arguments in given]
    _, x, states, weights, *masks = (list(group) for group in zip(*given, strict=True))
    lists = (x, flat(states), flat(weights), *masks[:3])
    how = (cell, *lists, True, False)
    found = library.scan_each(*how, True)
    for together, each in zip(found, zip(*alone, strict=True), strict=True):
        assert torch.equal(together, torch.cat(each))
    kept = [[out[0], *out[1 + scans[0].states :]] for out in alone]
    grads = [scan.grads(out) for scan, out in zip(scans, alone, strict=True)]
    wanted = (True, True, True)
    found = library.scan_each_backward(flat(grads), *how, flat(kept), *wanted)
    singles = [
        library.scan_backward(g, *arguments, k, *wanted)
        for g, arguments, k in zip(grads, given, kept, strict=True)
    ]
    for together, each in zip(found, zip(*singles, strict=True), strict=True):
        torch.testing.assert_close(together, torch.cat(each))


@pytest.mark.parametrize("path", "ACG")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_more_rows_than_a_tile_and_a_group(
    request: pytest.FixtureRequest,
    backend: Backend,
    force: Force,
    path: str,
    cell: str,
    arithmetic: str,
) -> None:
    """In the simulation, on a device so small that a group must take many rows, and there are
    several groups."""
    force(path)
    if backend == SIMULATION:
        simulation = request.getfixturevalue("simulation")
        configure(simulation, resident=8 if path == "G" else 4)
    assert not differences(Scan(cell, T=2, B=75, H=24, arithmetic=arithmetic), backend)


@pytest.mark.parametrize("path", "ACG")
@pytest.mark.parametrize("cell", PERSISTENT)
def test_weights_beyond_the_registers(backend: Backend, force: Force, path: str, cell: str) -> None:
    """Depths of which a warp keeps a part in shared memory."""
    force(path)
    hidden_size = {"A": 104, "C": 232, "G": 232}[path]
    assert not differences(Scan(cell, T=2, B=2, H=hidden_size, arithmetic="float16"), backend)


@pytest.mark.parametrize(
    ("path", "form"),
    [("F", form) for form in FORMS] + [(path, Form(c)) for path in "AG" for c in PERSISTENT],
    ids=str,
)
@pytest.mark.parametrize("arithmetic", ["float16", "bfloat16"])
def test_sums_are_not_rounded_to_16_bits(
    backend: Backend, force: Force, path: str, form: Form, arithmetic: str
) -> None:
    """Rounding W_ih x alone makes the error of h a fifth to a third larger. Of a projected h with
    few features, one that is rounded to its other neighbour makes 3% of the error."""
    force(path)
    form = form._replace(proj=40 if form.proj else 0)
    scan = Scan(**form._asdict(), T=12, B=8, I=24, H=48, arithmetic=arithmetic)
    exact = scan.exact()["output 0"]
    error, cpus_error = (
        (scan.run(where)["output 0"].double() - exact).norm() for where in (backend, CPU)
    )
    assert error < 1.01 * cpus_error


def calls_of(scan: Scan, backend: Backend) -> Counter[str]:
    """How often each of torch's ops is called."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        scan.run(backend)
    return Counter(event.name for event in profiler.events() if event.name.startswith("aten::"))


@pytest.mark.parametrize(
    ("path", "scan", "products"),
    [
        ("F", Scan(resets=True), 4),
        ("F", Scan(proj=3), 8),
        ("F", Scan("gru_before"), 8),
        ("F", Scan("mut3", resets=True), 12),
        ("A", Scan(resets=True), 0),
        ("C", Scan(), 0),
        ("G", Scan(), 0),
    ],
    ids=str,
)
def test_a_step_is_nothing_but_products_and_kernels(
    backend: Backend, force: Force, path: str, scan: Scan, products: int
) -> None:
    """Of torch it calls nothing else: it allocates nothing and copies nothing. products: of both
    directions, forward and backward."""
    force(path)
    few, many = (calls_of(replace(scan, T=T, bidirectional=True), backend) for T in (3, 9))
    more = {name: many[name] - few[name] for name in many if many[name] != few[name]}
    more.pop("aten::resolve_conj", None)  # within a product on the CPU
    assert more == ({"aten::mm": 6 * products} if products else {})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
@pytest.mark.parametrize("arithmetic", ["float16", "bfloat16"])
def test_small_values(
    backend: Backend, force: Force, path: str, cell: str, arithmetic: str
) -> None:
    """Of which a tanh must leave more than its rounding beside 1."""
    force(path)
    scale = 1e-6 if arithmetic == "bfloat16" else 1e-4
    assert not differences(Scan(cell, scale=scale, arithmetic=arithmetic), backend)
