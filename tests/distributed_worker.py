"""What test_processes.py starts by torchrun, in each of its processes: leaves its results in a
folder. The numbers to compare with are computed there, by the same functions in one process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.experimental import local_map
from torch.nn.parallel import DistributedDataParallel

import fastrnn

T, B, I, H = 6, 8, 5, 7  # noqa: E741
STEPS = 4


class Model(nn.Module):
    """Layers with and without variants, and a cell, whose sizes no two processes share evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(I, H, 2, bidirectional=True, proj_size=3, batch_first=True)
        self.gru = fastrnn.GRU(6, H, reset_after=False, batch_first=True)
        self.mut = fastrnn.MUT1(H, H, batch_first=True)
        self.peephole = fastrnn.LSTM(H, H, peephole=True, batch_first=True)
        self.cell = fastrnn.GRUCell(H, H)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.lstm, self.gru, self.mut, self.peephole):
            x = layer(x)[0]
        return self.cell(x[:, 0], self.cell(x[:, -1]))


def made(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return fastrnn.convert(Model().double())


def batch() -> Tensor:
    return torch.randn(B, T, I, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def whole(t: Tensor) -> Tensor:
    return (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone()


def trained(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The gradients of every step and the weights after the last one."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    found = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        for name, p in model.named_parameters():
            found[f"{step} grad {name.removeprefix('module.')}"] = whole(p.grad)
        optimizer.step()
    for name, p in model.named_parameters():
        found[name.removeprefix("module.")] = whole(p)
    return found


def sharded(model: Model, mesh: DeviceMesh) -> nn.Module:
    for part in model.children():
        fully_shard(part, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def raised(call: Callable[[], object]) -> str:
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return "nothing"


def dtensors(mesh: DeviceMesh) -> dict[str, object]:
    """What calls with DTensors raise, and the results of local_map."""
    torch.manual_seed(0)
    layer, cell = fastrnn.GRU(I, H).double(), fastrnn.LSTMCell(I, H).double()
    x = batch().transpose(0, 1)
    shared_x, h = (distribute_tensor(t, mesh, [Shard(1)]) for t in (x, x.new_zeros(1, B, H)))
    own = x.tensor_split(mesh.size(), 1)[mesh.get_local_rank()]

    def part(x: Tensor, *weights: Tensor) -> Tensor:
        names = [name for name, _ in layer.named_parameters()]
        return torch.func.functional_call(layer, dict(zip(names, weights)), (x,))[0]

    weights = [
        distribute_tensor(p.detach(), mesh, [Replicate()]).requires_grad_()
        for p in layer.parameters()
    ]
    run = local_map(
        part,
        out_placements=[Shard(1)],
        in_placements=([Shard(1)], *[[Replicate()]] * len(weights)),
        device_mesh=mesh,
    )
    y = run(shared_x, *weights)
    found: dict[str, object] = {"y": whole(y)}

    replicated = distribute_module(fastrnn.GRU(I, H).double(), mesh)
    replicated_cell = distribute_module(fastrnn.LSTMCell(I, H).double(), mesh)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            found[f"input, {grad}"] = raised(lambda: layer(shared_x))
            found[f"hx, {grad}"] = raised(lambda: layer(x, h))
            found[f"weights, {grad}"] = raised(lambda: replicated(own))
            found[f"all, {grad}"] = raised(lambda: replicated(shared_x, h))
            found[f"input of a cell, {grad}"] = raised(lambda: cell(shared_x[0]))
            found[f"weights of a cell, {grad}"] = raised(lambda: replicated_cell(own[0]))
    return found


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    mesh = init_device_mesh("cpu", (world,))
    x = batch().tensor_split(world)[rank]

    found = {"ddp": trained(DistributedDataParallel(made()), x)}
    model = sharded(made(), mesh)
    found["fsdp"] = trained(model, x)
    dcp.save(get_model_state_dict(model), checkpoint_id=folder / "checkpoint")

    other = sharded(made(1), mesh)
    state = get_model_state_dict(other)
    dcp.load(state, checkpoint_id=folder / "checkpoint")
    set_model_state_dict(other, state)
    found["loaded"] = {name: whole(p) for name, p in other.named_parameters()}

    found["dtensors"] = dtensors(mesh)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
