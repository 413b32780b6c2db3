"""Scans that a CUDA backend must compute as fastrnn.reference does, and no less accurately than the
CPU's kernels, in the simulation and on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fastrnn import ops, reference


@dataclass(frozen=True)
class Backend:
    """Whose ops run, and where their tensors are."""

    name: str
    library: str
    device: str


CPU = Backend("cpu", "fastrnn", "cpu")
GPU = Backend("gpu", "fastrnn", "cuda")
SIMULATION = Backend("simulation", "fastrnn_simulation", "cpu")

PATHS = "FACG"
# Those of one phase, which persistent kernels run, too, where h is not projected.
PERSISTENT = (
    *("lstm", "lstm_i", "lstm_f", "lstm_o", "lstm_peephole"),
    *("gru", "rnn_tanh", "rnn_relu"),
)


class Form(NamedTuple):
    """Of a cell: with a projection, or with x itself in a gate."""

    cell: str
    proj: int = 0
    itself: bool = False

    def __str__(self) -> str:
        return self.cell + "-projected" * bool(self.proj) + "-itself" * self.itself


FORMS = [
    Form(name, proj, itself)
    for name, info in ops.CELLS.items()
    for proj in (0, 7)[: 1 + info.projects]
    for itself in (False, True)[: 1 + info.takes_x]
]
ARITHMETICS = ("float32", "tf32", "float16", "bfloat16")
# Half of what the last place of a number near 1 counts.
ROUNDING = {
    "float64": 2**-53,
    "float32": 2**-24,
    "tf32": 2**-11,
    "float16": 2**-11,
    "bfloat16": 2**-8,
}


@dataclass(frozen=True)
class Scan:
    """One call of the ops."""

    cell: str = "lstm"
    T: int = 4
    B: int = 3
    I: int = 5  # noqa: E741
    H: int = 24
    arithmetic: str = "float32"
    bidirectional: bool = False
    batch_first: bool = False
    bias: bool = True
    initial: bool = True
    proj: int = 0
    itself: bool = False  # x goes into a gate itself, so that I is H
    resets: bool = False
    lengths: tuple[int, ...] | None = None
    batch_sizes: tuple[int, ...] | None = None
    scale: float = 1.0  # of all but the weights
    seed: int = 0

    def __str__(self) -> str:
        words = [self.cell, self.arithmetic, f"T{self.T}B{self.B}I{self.I}H{self.H}"]
        words += [f"P{self.proj}"] * bool(self.proj) + ["itself"] * self.itself
        words += ["bi"] * self.bidirectional
        words += ["bf"] * self.batch_first + ["resets"] * self.resets
        words += ["nobias"] * (not self.bias) + ["noh0"] * (not self.initial)
        words += ["lengths"] * bool(self.lengths) + ["packed"] * bool(self.batch_sizes)
        return "-".join(words)

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, "float32" if self.arithmetic == "tf32" else self.arithmetic)

    @property
    def states(self) -> int:
        return ops.CELLS[self.cell].states

    def arguments(self) -> reference.Inputs:
        generator = torch.Generator().manual_seed(2 * self.seed)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(*shape, generator=generator) * scale).to(self.dtype)

        directions, weights = 1 + self.bidirectional, []
        input_size = self.H if self.itself else self.I
        output = self.proj or self.H
        shapes = ops.CELLS[self.cell].shapes(input_size, self.H, self.proj, self.bias, self.itself)
        for _ in range(directions):
            for shape in shapes.values():
                scale = shape[1] ** -0.5 if len(shape) == 2 else 0.1 * self.scale
                weights.append(draw(*shape, scale=scale))
        leading = (self.B, self.T) if self.batch_first else (self.T, self.B)
        if self.batch_sizes:
            leading = (sum(self.batch_sizes),)
        sizes = [output] + [self.H] * (self.states - 1)
        return reference.Inputs(
            self.cell,
            draw(*leading, input_size, scale=self.scale),
            [draw(directions, self.B, s, scale=self.scale) for s in sizes] if self.initial else [],
            weights,
            torch.tensor(self.lengths) if self.lengths else None,
            torch.tensor(self.batch_sizes) if self.batch_sizes else None,
            torch.rand(leading, generator=generator) < 0.3 if self.resets else None,
            self.bidirectional,
            self.batch_first,
        )

    def grads(self, out: Sequence[Tensor]) -> list[Tensor]:
        """Of y, the last states, and the states of every step; the latter are in the type that
        computes."""
        generator = torch.Generator().manual_seed(2 * self.seed + 1)
        return [
            torch.randn(t.shape, generator=generator).to(self.dtype).to(t)
            for t in out[: 2 * self.states]
        ]

    def arguments_on(self, device: str) -> list:
        def given(value: object) -> object:
            if isinstance(value, Tensor) and value.dtype != torch.int64:  # lengths are the host's
                return value.to(device)
            return list(map(given, value)) if isinstance(value, list) else value

        return [given(argument) for argument in self.arguments()]

    def run(self, backend: Backend) -> dict[str, Tensor]:
        """All that both ops of a backend return, where it differs in no more than rounding."""
        library, tf32 = getattr(torch.ops, backend.library), self.arithmetic == "tf32"
        arguments = self.arguments_on(backend.device)
        out = library.scan(*arguments, True, tf32)
        kept = [out[0], *out[1 + self.states :]]
        backward = library.scan_backward(
            self.grads(out), *arguments, kept, True, self.initial, True, tf32
        )
        return self.named(out, backward)

    def exact(self) -> dict[str, Tensor]:
        """The same by the reference in float64, from the values as the scan's own type holds
        them."""
        inputs = self.arguments()
        states, weights = (
            [t.double().requires_grad_() for t in tensors]
            for tensors in (inputs.states, inputs.weights)
        )
        x = inputs.x.double().requires_grad_()
        y, last, steps = reference.scan(inputs._replace(x=x, states=states, weights=weights))
        out, leaves = [y, *last, *steps], [x, *states, *weights]
        backward = torch.autograd.grad(out, leaves, self.grads(out), materialize_grads=True)
        return self.named(out, backward)

    def named(self, out: Sequence[Tensor], backward: Sequence[Tensor]) -> dict[str, Tensor]:
        found = {f"output {i}": t.detach().cpu() for i, t in enumerate(out[: 2 * self.states])}
        return found | {f"gradient {i}": t.cpu() for i, t in enumerate(backward)}


def differences(scan: Scan, backend: Backend) -> list[str]:
    """Where a backend is less accurate than the CPU's kernels in the same type.

    Which side of relu's kink a rounding falls on is a matter of luck, and throws whole gradients
    off; and so it is whether the only number of a gradient is next to 0. There, most of five draws
    must agree.
    """
    kinked = scan.cell == "rnn_relu" and scan.arithmetic in ("tf32", "float16", "bfloat16")
    if not kinked and scan.H > 1:
        return differences_of_one_draw(scan, backend)
    wrong: list[list[str]] = []
    for seed in range(5):
        if found := differences_of_one_draw(replace(scan, seed=seed), backend):
            wrong.append(found)
        if len(wrong) == 3 or seed + 1 - len(wrong) == 3:
            break
    return max(wrong, key=len) if len(wrong) == 3 else []


def differences_of_one_draw(scan: Scan, backend: Backend) -> list[str]:
    """TF32, which the CPU has not, and float64, which is what errors are measured by, are bound by
    their own rounding."""
    found, exact = scan.run(backend), scan.exact()
    cpu = scan.run(CPU)
    rounding, wrong = ROUNDING[scan.arithmetic], []
    for name, truth in exact.items():

        def error(t: Tensor, truth: Tensor = truth) -> float:
            """The error's norm, in roundings."""
            return float((t.double() - truth).norm() / truth.norm().clamp_min(1e-300)) / rounding

        theirs = 3 if scan.arithmetic in ("tf32", "float64") else error(cpu[name])
        slack = 1 if "16" in scan.arithmetic else 4
        if not error(found[name]) <= 2 * theirs + slack:
            wrong.append(f"{name}: {error(found[name]):.1f} roundings, on the CPU {theirs:.1f}")
    return wrong
