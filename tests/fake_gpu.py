"""What the CUDA backend's host side asks of CUDA: on which streams and devices it works, what it
does in a capture, and what it says when CUDA refuses. Run by fake_gpu.sh, without a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pytest
import torch
from cuda_scans import PATHS
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn import functional, ops

FAKE = ctypes.CDLL("libcuda.so.1")
FAKE.fake_gpu_launches.restype = ctypes.c_char_p

assert not ops.WHY_NO_CUDA, ops.WHY_NO_CUDA
assert torch.cuda.get_device_name() == "a fake GPU"


def mm(a: Tensor, b: Tensor, out_dtype: torch.dtype | None = None, *, out: Tensor) -> Tensor:
    """In the place of cuBLAS's."""
    assert a.shape[1] == b.shape[0]
    assert out.shape == (a.shape[0], b.shape[1])
    assert out.dtype == (out_dtype or a.dtype)
    assert a.dtype == b.dtype
    return out


PRODUCTS = torch.library.Library("aten", "IMPL")
PRODUCTS.impl("mm.out", mm, "CUDA")
PRODUCTS.impl("mm.dtype_out", mm, "CUDA")


class Launch(NamedTuple):
    kernel: str
    device: int
    stream: int
    captures: int
    cluster: int
    cooperative: bool


def launches() -> list[Launch]:
    """Those since the last call."""
    lines = FAKE.fake_gpu_launches().decode().splitlines()
    split = [line.split() for line in lines]
    return [Launch(kernel, *map(int, numbers)) for kernel, *numbers in split]


@pytest.fixture(autouse=True)
def nothing_before() -> Iterator[None]:
    FAKE.fake_gpu_refuse(False, False)
    launches()
    yield
    FAKE.fake_gpu_refuse(False, False)


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", request.param)
    return request.param


def layer(cell: str = "LSTM", device: str = "cuda", **options: object) -> nn.Module:
    return getattr(fastrnn, cell)(16, 128, device=device, **options)


def train(module: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """A step of training, of which no more than the launches counts."""
    device = next(module.parameters()).device
    y, _ = module(torch.zeros(4, 3, 16, device=device, dtype=dtype, requires_grad=True))
    y.backward(torch.zeros_like(y))


def train_packed(module: nn.Module) -> None:
    x = torch.zeros(4, 3, 16, device="cuda", requires_grad=True)
    y, _ = module(pack_padded_sequence(x, [4, 2, 1]))
    y.data.backward(torch.zeros_like(y.data))


def scan_of_lengths(lengths: list[int], weights: list[Tensor]) -> None:
    x = torch.zeros(4, 3, 16, device="cuda", requires_grad=True)
    out = functional.layer(
        "lstm", x, [], weights, lengths=torch.tensor(lengths), bidirectional=True
    )
    out.y.backward(torch.zeros_like(out.y))


# ---- devices, streams ----------------------------------------------------------------------------


def test_kernels_run_on_the_device_of_their_tensors(path: str) -> None:
    for device in range(2):
        train(layer(device=f"cuda:{device}", bidirectional=True))
        assert {launch.device for launch in launches()} == {device}
    assert torch.cuda.current_device() == 0


def test_kernels_run_on_the_current_stream(path: str) -> None:
    module, stream = layer(bidirectional=True), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        train(module)
    assert {launch.stream for launch in launches()} == {stream.cuda_stream}
    train(module)
    assert {launch.stream for launch in launches()} == {0}


def test_kernels_run_on_the_current_stream_of_another_device(path: str) -> None:
    module = layer(device="cuda:1")
    stream = torch.cuda.Stream("cuda:1")
    with torch.cuda.stream(stream), torch.cuda.device(0):
        train(module)
    assert {(launch.device, launch.stream) for launch in launches()} == {(1, stream.cuda_stream)}


# ---- launches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_persistent_kernel_runs_both_directions(path: str, dtype: torch.dtype) -> None:
    train(layer(bidirectional=True, dtype=dtype), dtype)
    persistent = [launch for launch in launches() if "persistent" in launch.kernel]
    assert len(persistent) == (0 if path == "F" else 2)
    assert all(launch.cooperative == (path == "G") for launch in persistent)
    assert all((launch.cluster > 1) == (path == "C") for launch in persistent)


# ---- graphs --------------------------------------------------------------------------------------


def assert_captured(step: Callable[[], None]) -> None:
    """A step in a capture launches what it launches outside, and all of it into the graph."""
    step()  # which makes the gradients
    launches()
    step()
    expected = [launch.kernel for launch in launches()]
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        step()
    found = launches()
    assert [launch.kernel for launch in found] == expected
    assert {launch.captures for launch in found} == {1}


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_training_can_be_captured(path: str, cell: str, dtype: torch.dtype) -> None:
    module = layer(cell, bidirectional=True, num_layers=2, dtype=dtype)
    assert_captured(partial(train, module, dtype))


def test_packed_batches_can_be_captured(path: str) -> None:
    assert_captured(partial(train_packed, layer(bidirectional=True)))


def test_lengths_can_be_captured(path: str) -> None:
    weights = list(layer(bidirectional=True).parameters())
    assert_captured(partial(scan_of_lengths, [4, 0, 2], weights))


def test_projections_can_be_captured() -> None:
    assert_captured(partial(train, layer(proj_size=24, bidirectional=True)))


def test_peepholes_can_be_captured(path: str) -> None:
    assert_captured(partial(train, layer(peephole=True, bidirectional=True)))


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("GRU", {"reset_after": False}),
        ("MUT1", {}),
        ("MUT2", {"learned_input": True}),
        ("MUT3", {}),
    ],
)
def test_cells_of_two_phases_can_be_captured(cell: str, options: dict[str, bool]) -> None:
    assert_captured(partial(train, layer(cell, bidirectional=True, **options)))


def test_cells_of_two_phases_run_step_by_step(path: str) -> None:
    module = layer("GRU", reset_after=False)
    if path != "F":
        with pytest.raises(RuntimeError, match=f"FASTRNN_CUDA_PATH is '{path}', but that path"):
            train(module)
        return
    train(module)
    names = [launch.kernel for launch in launches()]
    # Of each of the four steps and two phases.
    for kernel in ("step_forward", "step_backward"):
        assert sum(f"{kernel}I" in name for name in names) == 4 * 2


def test_the_fake_refuses_to_wait_in_a_capture() -> None:
    with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        torch.cuda.synchronize()


# ---- what cannot run -----------------------------------------------------------------------------


def test_nothing_of_no_rows_is_looked_for_in_the_devices_memory(path: str) -> None:
    scan_of_lengths([0, 0, 0], list(layer(bidirectional=True).parameters()))


def test_a_gpu_that_was_not_built_for() -> None:
    module = layer()
    FAKE.fake_gpu_refuse(True, False)
    with pytest.raises(RuntimeError, match="fastrnn was not built for this GPU's compute capabil"):
        module(torch.empty(4, 3, 16, device="cuda"))


def test_refused_cooperative_launches_fall_back_to_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "GF")
    module = layer(dtype=torch.float16)
    train(module, torch.float16)
    assert any("persistent" in launch.kernel for launch in launches())
    FAKE.fake_gpu_refuse(False, True)
    train(module, torch.float16)
    names = [launch.kernel for launch in launches()]
    assert any("step_backward" in name for name in names)
    assert not any("persistent" in name for name in names)


def test_a_refused_path_alone_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "G")
    FAKE.fake_gpu_refuse(False, True)
    with pytest.raises(RuntimeError, match="refused to run so many CTAs side by side"):
        train(layer(dtype=torch.float16), torch.float16)
