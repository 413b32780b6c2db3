"""Thousands of training steps hold no memory and keep no objects."""

from __future__ import annotations

import gc
import resource
from pathlib import Path

import torch
from torch import nn

import fastrnn

STEPS, WARM_UP = 10_000, 1_000
# Less than one leaked tensor of 64 numbers a step would take: 9,000 * (256 bytes and its object of
# more than 400), and more than what the allocator's arenas waver by.
MAX_GROWTH = 4 << 20


def resident() -> int:
    """Bytes of memory that the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_training_holds_flat_memory() -> None:
    torch.manual_seed(0)
    modules = [
        fastrnn.LSTM(4, 8),
        fastrnn.GRU(4, 8, bidirectional=True),
        fastrnn.RNN(4, 8),
        fastrnn.RNN(4, 8, nonlinearity="relu"),
        fastrnn.LSTMCell(4, 8),
        fastrnn.GRUCell(4, 8),
        fastrnn.LSTM(4, 8, peephole=True, proj_size=4),
        fastrnn.MUT1(4, 8),
    ]
    optimizer = torch.optim.SGD(nn.ModuleList(modules).parameters(), lr=1e-3)
    sequence, row = torch.randn(3, 2, 4), torch.randn(2, 4)

    def train(steps: int) -> None:
        for i in range(steps):
            module = modules[i % len(modules)]
            out = module(row if isinstance(module, nn.RNNCellBase) else sequence)
            y = out if isinstance(out, torch.Tensor) else out[0]
            y.sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    train(WARM_UP)
    gc.collect()
    objects, memory = len(gc.get_objects()), resident()
    train(STEPS - WARM_UP)
    gc.collect()
    # A few objects come and go with the interpreter's own caches; a leak would add thousands.
    assert len(gc.get_objects()) - objects < 100
    assert resident() - memory < MAX_GROWTH
