"""Many processes: DDP, FSDP and checkpoints by torchrun, and the workers of a DataLoader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import distributed_worker as worker
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import fastrnn

PROCESSES = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what the processes left."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(PROCESSES), worker.__file__, str(folder)]
    paths = [str(Path(fastrnn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


@pytest.fixture(scope="module")
def alone() -> tuple[nn.Module, dict[str, Tensor]]:
    """The model trained in one process, and what is to be compared."""
    model = worker.made()
    return model, worker.trained(model, worker.batch())


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, t in expected.items():
        torch.testing.assert_close(found[name], t, rtol=1e-11, atol=1e-16, msg=name)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_training_equals_one_process(
    kind: str, found: list[dict[str, Any]], alone: tuple[nn.Module, dict[str, Tensor]]
) -> None:
    _, expected = alone
    first = worker.made().state_dict()
    for name, t in expected.items():
        assert t.abs().max() > 1e-7, name  # so that there is something to compare
        assert name not in first or not torch.equal(t, first[name])
    for of_rank in found:
        assert_close(of_rank[kind], expected)


def test_a_checkpoint_goes_to_as_many_processes(found: list[dict[str, Any]]) -> None:
    for of_rank in found:
        assert of_rank["loaded"]
        for name, t in of_rank["loaded"].items():
            assert torch.equal(t, of_rank["fsdp"][name]), name


def test_a_checkpoint_goes_to_one_process(folder: Path, found: list[dict[str, Any]]) -> None:
    model = worker.made(1)
    state = model.state_dict()
    assert "mut._extra_state" in state
    dcp.load(state, checkpoint_id=folder / "checkpoint", no_dist=True)
    model.load_state_dict(state)
    for name, p in model.named_parameters():
        assert torch.equal(p, found[0]["fsdp"][name]), name


def test_a_checkpoint_of_another_variant_is_refused(folder: Path) -> None:
    model = worker.made()
    model.mut = fastrnn.GRU(worker.H, worker.H, batch_first=True, dtype=torch.float64)
    state = worker.made().state_dict()
    dcp.load(state, checkpoint_id=folder / "checkpoint", no_dist=True)
    with pytest.raises(RuntimeError, match="are those of another layer"):
        model.load_state_dict(state)


def test_dtensors_raise_what_to_do(found: list[dict[str, Any]]) -> None:
    for of_rank in found:
        messages = {name: m for name, m in of_rank["dtensors"].items() if isinstance(m, str)}
        assert len(messages) == 12
        for name, message in messages.items():
            assert message.startswith("fastrnn takes no DTensor"), f"{name}: {message}"
            assert "fully_shard" in message and "local_map" in message


def test_local_map_gives_the_whole(found: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    layer = fastrnn.GRU(worker.I, worker.H).double()
    expected = layer(worker.batch().transpose(0, 1))[0].detach()
    for of_rank in found:
        assert torch.equal(of_rank["dtensors"]["y"], expected)


class Features(Dataset):
    """What a layer makes of sequences, computed where an item is asked for."""

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        self.layer, self.x = layer, x

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, i: int) -> Tensor:
        with torch.no_grad():
            return self.layer(self.x[i])[0]


@pytest.mark.parametrize("how, workers", [("fork", 2), ("spawn", 1)])
def test_dataloaders_workers_run_layers(how: str, workers: int, threads: None) -> None:
    torch.set_num_threads(4)
    torch.manual_seed(0)
    layer, x = fastrnn.GRU(16, 64), torch.randn(4, 30, 24, 16)
    # Forward and backward in the parent, on its threads, before and while workers are there.
    layer(x[0])[0].sum().backward()
    data = Features(layer, x)
    expected = [data[i] for i in range(len(data))]
    loader = DataLoader(data, batch_size=None, num_workers=workers, multiprocessing_context=how)
    for found, whole in zip(loader, expected, strict=True):
        assert torch.equal(found, whole)
        layer(x[0])[0].sum().backward()
