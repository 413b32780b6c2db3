"""Trains a model in several processes, by FSDP or DDP, on parts of each batch.

    torchrun --nproc-per-node 2 examples/distributed.py
    torchrun --nproc-per-node 2 examples/distributed.py ddp

Alone, it trains in one process, with the same losses.
"""

import os
import shutil
import sys
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fastrnn


class Tagger(nn.Module):
    """[B, T] of int64 -> [B, T, 5]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.lstm = nn.LSTM(32, 48, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(96, 5)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(words))[0])


def main() -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    original = fastrnn.convert(Tagger())  # before it is wrapped
    if sys.argv[1:] == ["ddp"]:
        model = DistributedDataParallel(original)
    else:
        mesh = init_device_mesh("cpu", (world,))
        fully_shard(original.lstm, mesh=mesh)
        model = fully_shard(original, mesh=mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)

    words = torch.randint(50, (16, 20))  # the same on every process
    tags = words % 5
    mine = slice(rank * 16 // world, (rank + 1) * 16 // world)
    for step in range(15):
        loss = nn.functional.cross_entropy(model(words[mine]).flatten(0, 1), tags[mine].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 7 == 0:
            total = loss.detach() / world
            dist.all_reduce(total)
            if rank == 0:
                print(f"step {step:2}: loss {total:.4f}")

    # A checkpoint of all processes; whoever loads it may be as many as they like, or one.
    folder = [tempfile.mkdtemp()] if rank == 0 else [None]
    dist.broadcast_object_list(folder)
    dcp.save(get_model_state_dict(model), checkpoint_id=folder[0])
    alone = fastrnn.convert(Tagger())
    state = {name: torch.empty_like(t) for name, t in alone.state_dict().items()}
    dcp.load(state, checkpoint_id=folder[0])
    set_model_state_dict(alone, state)
    torch.testing.assert_close(alone(words[mine]), model(words[mine]))
    dist.barrier()
    if rank == 0:
        shutil.rmtree(folder[0])
        print("the checkpoint, in a model of one process, gives the same")


if __name__ == "__main__":
    if "RANK" not in os.environ:  # as torchrun sets it
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    dist.init_process_group("gloo")
    main()
    dist.destroy_process_group()
