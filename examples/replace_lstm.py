"""Replaces the LSTM within a model that exists already, by its state_dict; nothing else changes."""

import time

import torch
from torch import Tensor, nn

import fastrnn


class Tagger(nn.Module):
    """A label for each of a sentence's words: [B, T] of int64 -> [B, T, labels]."""

    def __init__(self, words: int = 10_000, labels: int = 17) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, 128)
        self.lstm = nn.LSTM(128, 128, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(256, labels)

    def forward(self, words: Tensor) -> Tensor:
        y, _ = self.lstm(self.embedding(words))
        return self.head(y)


def milliseconds(model: nn.Module, words: Tensor) -> float:
    start = time.perf_counter()
    for _ in range(5):
        model(words)
    return (time.perf_counter() - start) / 5 * 1e3


torch.manual_seed(0)
model = Tagger().eval()
words = torch.randint(10_000, (8, 40))

with torch.inference_mode():
    before = model(words)

    old = model.lstm
    new = fastrnn.LSTM(128, 128, num_layers=2, bidirectional=True, batch_first=True)
    new.load_state_dict(old.state_dict())
    model.lstm = new

    after = model(words)
    torch.testing.assert_close(after, before)
    print(f"largest difference of an output: {(after - before).abs().max():.1e}")

    times = {old: [], new: []}
    for _ in range(10):
        for layer, found in times.items():
            model.lstm = layer
            found.append(milliseconds(model, words))
    slow, fast = (sorted(found)[5] for found in times.values())
    print(f"a forward pass: {slow:.2f} ms with torch.nn, {fast:.2f} ms with fastrnn")
