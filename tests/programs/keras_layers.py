# /// script
# dependencies = ["keras>=3"]
# ///
"""Keras 3 on torch: layers of all sorts by fastrnn.keras and by Keras' own loop, and a training."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"

from itertools import product
from typing import Any

import keras
import numpy as np
import torch
from common import compare

import fastrnn


def on(fused: bool) -> None:
    fastrnn.keras.uninstall()
    if fused:
        fastrnn.keras.install()


def check_layers() -> None:
    """Results and gradients of each kind of layer, with and without the hook."""
    x = torch.randn(3, 7, 5)
    padded = torch.arange(7) < torch.tensor([[7], [4], [1]])
    holes = padded.clone()
    holes[0, 2] = False
    kinds = [(keras.layers.LSTM, {})]
    kinds += [(keras.layers.GRU, {"reset_after": after}) for after in (True, False)]
    options = [
        {},
        {"use_bias": False},
        {"return_state": True},
        {"return_sequences": True, "go_backwards": True},
        {"activation": "relu"},
        {"unroll": True},
    ]
    checked, calls = 0, 0
    layer_of = fastrnn.functional.layer

    def count(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return layer_of(*args, **named)

    fastrnn.functional.layer = count
    for (kind, form), option, mask in product(kinds, options, (None, padded, holes)):
        keras.utils.set_random_seed(0)
        layer = kind(6, **{"return_sequences": True} | form | option)
        layer.build(x.shape)
        if layer.use_bias:
            layer.cell.bias.assign(torch.randn(*layer.cell.bias.shape))
        found = []
        for fused in (False, True):
            on(fused)
            leaf = x.clone().requires_grad_()
            out = layer(leaf, mask=mask)
            outs = [*out] if isinstance(out, (list, tuple)) else [out]
            sum((o * o).sum() for o in outs).backward()
            weights = [w.value for w in layer.trainable_weights]
            found.append([*outs, leaf.grad, *(w.grad.clone() for w in weights)])
            for w in weights:
                w.grad = None
        for expected, ours in zip(*found):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)
        checked += 1
        takes = not {"activation", "unroll"} & {*option} and mask is not holes
        takes &= mask is None or "go_backwards" not in option
        assert calls == takes, (kind, option, mask)
        calls = 0
    both = [
        keras.layers.Bidirectional(kind(4, return_sequences=True))
        for kind in (keras.layers.LSTM, keras.layers.GRU)
    ]
    stateful = keras.layers.LSTM(4, stateful=True)
    for layer in (*both, stateful):
        found = []
        for fused in (False, True):
            on(fused)
            if layer is stateful and layer.built:
                layer.reset_state()
            found.append([layer(x), layer(x)][-1])
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
        checked += 1
    assert checked == 57
    assert calls == 10
    fastrnn.functional.layer = layer_of


def train(fused: bool) -> dict[str, torch.Tensor]:
    on(fused)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.layers.LSTM(64, return_sequences=True), keras.layers.GRU(64), keras.layers.Dense(1)]
    )
    model.compile(optimizer="adam", loss="mse")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((256, 50, 16)).astype(np.float32)
    y = x.sum((1, 2), keepdims=True)[:, 0] / 20
    model.fit(x, y, batch_size=32, epochs=1, verbose=0, shuffle=False)
    return {str(i): w.value.detach() for i, w in enumerate(model.trainable_weights)}


def main() -> None:
    check_layers()
    compare("Keras 3: an epoch of LSTM and GRU, 50 steps, by fastrnn.keras", train, atol=1e-4)
    on(False)


if __name__ == "__main__":
    main()
