"""Every instruction set that this machine has, forced in turn; threads; the simulation of CUDA."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import ModuleType

os.environ.setdefault("FASTRNN_CPUS", "8")  # teams of more threads than this machine may have

import pytest
import simulated_cuda
import torch

import fastrnn  # noqa: F401  (registers the ops)

# Processes that test side by side share the cores.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))

ISAS = torch.ops.fastrnn.cpu_isas().split(": ")[1].split()


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FASTRNN_ISA", request.param)
    return request.param


@pytest.fixture
def threads() -> Iterator[None]:
    """Restores the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def built_simulation(pytestconfig: pytest.Config) -> ModuleType:
    """Of CUDA; built at the first use and after changes, in pytest's cache."""
    return simulated_cuda.build(pytestconfig.cache.mkdir("cuda_simulation"))


@pytest.fixture
def simulation(built_simulation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delenv("FASTRNN_CUDA_PATH", raising=False)
    simulated_cuda.configure(built_simulation)
    return built_simulation
