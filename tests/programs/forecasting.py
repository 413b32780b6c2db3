# /// script
# dependencies = ["pytorch-forecasting"]
# ///
"""pytorch-forecasting: its subclasses of torch.nn.LSTM and GRU, made within fastrnn.patched."""

from __future__ import annotations

import importlib
import warnings

import torch
from common import compare
from torch import nn

import fastrnn


def layers(fused: bool) -> dict[str, type[nn.RNNBase]]:
    """The package's own classes, of its module imported anew."""
    name = "pytorch_forecasting.models.nn.rnn"
    module = importlib.import_module(name)
    if fused:
        with fastrnn.patched():
            module = importlib.reload(module)
    else:
        module = importlib.reload(module)
    return {"LSTM": module.LSTM, "GRU": module.GRU}


def main() -> None:
    warnings.filterwarnings("ignore")
    of = {fused: layers(fused) for fused in (False, True)}
    assert issubclass(of[True]["LSTM"], fastrnn.LSTM)
    assert not issubclass(of[False]["LSTM"], fastrnn.LSTM)
    lengths = torch.randint(0, 61, (64,))
    lengths[0] = 60
    for kind in ("LSTM", "GRU"):

        def train(fused: bool, kind: str = kind) -> dict[str, torch.Tensor]:
            layer = of[fused][kind](24, 64, num_layers=2, batch_first=True)
            head = nn.Linear(64, 1)
            parameters = [*layer.parameters(), *head.parameters()]
            optimizer = torch.optim.Adam(parameters, 1e-3)
            for _ in range(5):
                x = torch.randn(64, 60, 24)
                y, _ = layer(x, lengths=lengths, enforce_sorted=False)
                loss = (head(y).squeeze(-1) - x.mean(-1)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return {str(i): p.detach() for i, p in enumerate(parameters)} | {"loss": loss.detach()}

        compare(
            f"pytorch-forecasting: 5 steps of training of its {kind}, lengths from 0 to 60",
            train,
            atol=1e-4,
        )


if __name__ == "__main__":
    main()
