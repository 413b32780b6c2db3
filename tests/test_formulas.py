"""The architectures as they were published, in NumPy and step by step: nothing is shared with the
kernels, the reference or torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import fastrnn

T, B, H = 6, 3, 5
Array = np.ndarray
Step = Callable[[Array, Array, Array, Callable[[str, Array], Array], Callable[[str], Array]], tuple]


def sigmoid(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


# Each takes x, h, c; h_of(gate, operand), the gate's part from an operand; x_of(gate), that from x.


def mut1(x: Array, h: Array, c: Array, h_of: Callable, x_of: Callable) -> tuple:
    z = sigmoid(x_of("z"))
    r = sigmoid(x_of("r") + h_of("r", h))
    return np.tanh(h_of("n", r * h) + np.tanh(x)) * z + h * (1 - z), c


def mut1_learned(x: Array, h: Array, c: Array, h_of: Callable, x_of: Callable) -> tuple:
    return mut1(x_of("n"), h, c, h_of, x_of)


def mut2(x: Array, h: Array, c: Array, h_of: Callable, x_of: Callable) -> tuple:
    z = sigmoid(x_of("z") + h_of("z", h))
    r = sigmoid(x + h_of("r", h))
    return np.tanh(h_of("n", r * h) + x_of("n")) * z + h * (1 - z), c


def mut2_learned(x: Array, h: Array, c: Array, h_of: Callable, x_of: Callable) -> tuple:
    return mut2(x_of("r"), h, c, h_of, x_of)


def mut3(x: Array, h: Array, c: Array, h_of: Callable, x_of: Callable) -> tuple:
    z = sigmoid(x_of("z") + h_of("z", np.tanh(h)))
    r = sigmoid(x_of("r") + h_of("r", h))
    return np.tanh(h_of("n", r * h) + x_of("n")) * z + h * (1 - z), c


def cho(x: Array, h: Array, c: Array, h_of: Callable, x_of: Callable) -> tuple:
    r = sigmoid(x_of("r") + h_of("r", h))
    z = sigmoid(x_of("z") + h_of("z", h))
    return z * h + (1 - z) * np.tanh(x_of("n") + h_of("n", r * h)), c


def lstm_without(gate: str) -> Step:
    def step(x: Array, h: Array, c: Array, h_of: Callable, x_of: Callable) -> tuple:
        i, f, o = (1 if k == gate else sigmoid(x_of(k) + h_of(k, h)) for k in "ifo")
        c = c * f + np.tanh(x_of("g") + h_of("g", h)) * i
        return o * np.tanh(c), c

    return step


# Module, its options, the step, the blocks of weight_ih and of weight_hh, and the input's size.
ARCHITECTURES: dict[str, tuple[str, dict, Step, str, str, int]] = {
    "MUT1": ("MUT1", {}, mut1, "rz", "rn", H),
    "MUT1 learned": ("MUT1", {"learned_input": True}, mut1_learned, "rzn", "rn", H),
    "MUT1 of another size": ("MUT1", {}, mut1_learned, "rzn", "rn", 4),
    "MUT2": ("MUT2", {}, mut2, "zn", "rzn", H),
    "MUT2 learned": ("MUT2", {"learned_input": True}, mut2_learned, "rzn", "rzn", H),
    "MUT2 of another size": ("MUT2", {}, mut2_learned, "rzn", "rzn", 4),
    "MUT3": ("MUT3", {}, mut3, "rzn", "rzn", 4),
    "MUT3 of H": ("MUT3", {}, mut3, "rzn", "rzn", H),
    "GRU": ("GRU", {"reset_after": False}, cho, "rzn", "rzn", 4),
    "LSTM": ("LSTM", {}, lstm_without(""), "ifgo", "ifgo", 4),
    "LSTM-i": ("LSTM", {"gates": "fo"}, lstm_without("i"), "fgo", "fgo", 4),
    "LSTM-f": ("LSTM", {"gates": "io"}, lstm_without("f"), "igo", "igo", 4),
    "LSTM-o": ("LSTM", {"gates": "if"}, lstm_without("o"), "ifg", "ifg", 4),
}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_as_published(architecture: tuple, bias: bool) -> None:
    name, options, step, x_gates, h_gates, features = architecture
    torch.manual_seed(0)
    module = getattr(fastrnn, name)(features, H, bias=bias, dtype=torch.float64, **options)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(3)  # far from where sigmoid and tanh are straight lines
    weights = {name: p.detach().numpy() for name, p in module.named_parameters()}

    def block(kind: str, gates: str, gate: str) -> tuple[Array, Array | float]:
        rows = slice(gates.index(gate) * H, (gates.index(gate) + 1) * H)
        both = (weights.get(f"{what}_{kind}_l0") for what in ("weight", "bias"))
        weight, bias = (None if w is None else w[rows] for w in both)
        return weight, 0.0 if bias is None else bias

    def part(kind: str, gates: str, gate: str, operand: Array) -> Array:
        weight, bias = block(kind, gates, gate)
        return operand @ weight.T + bias

    sequence = torch.randn(T, B, features, dtype=torch.float64)
    h, c = torch.randn(2, B, H, dtype=torch.float64).numpy()
    pair = tuple(torch.tensor(s)[None] for s in (h, c))
    y, last = module(sequence, pair if name == "LSTM" else pair[0])
    for x, found in zip(sequence.numpy(), y.detach().numpy(), strict=True):
        before = h
        h, c = step(
            x,
            h,
            c,
            lambda gate, operand: part("hh", h_gates, gate, operand),
            lambda gate, x=x: part("ih", x_gates, gate, x),
        )
        np.testing.assert_allclose(found, h, rtol=1e-12, atol=1e-13)
        assert np.abs(h - before).max() > 1e-3
    ends = last if name == "LSTM" else (last,)
    for end, state in zip(ends, (h, c)):
        np.testing.assert_allclose(end[0].detach().numpy(), state, rtol=1e-12, atol=1e-13)
