"""Every instruction set that this machine has, forced in turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import fastrnn  # noqa: F401  (registers the ops)

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
