"""Scans that a CUDA backend must compute as the CPU's does, in the simulation and on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastrnn import ops


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
    resets: bool = False
    lengths: tuple[int, ...] | None = None
    batch_sizes: tuple[int, ...] | None = None
    scale: float = 1.0  # of all but the weights
    seed: int = 0

    def __str__(self) -> str:
        words = [self.cell, self.arithmetic, f"T{self.T}B{self.B}I{self.I}H{self.H}"]
        words += [f"P{self.proj}"] * bool(self.proj) + ["bi"] * self.bidirectional
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

    def arguments(self) -> tuple:
        generator = torch.Generator().manual_seed(2 * self.seed)

        def draw(*shape: int, scale: float = 1.0) -> Tensor:
            return (torch.randn(*shape, generator=generator) * scale).to(self.dtype)

        rows, directions = ops.CELLS[self.cell].gates * self.H, 1 + self.bidirectional
        output, weights = self.proj or self.H, []
        for _ in range(directions):
            weights.append(draw(rows, self.I, scale=self.I**-0.5))
            weights.append(draw(rows, output, scale=output**-0.5))
            weights += [draw(rows, scale=0.1 * self.scale) for _ in range(2 * self.bias)]
            weights += [draw(output, self.H, scale=self.H**-0.5)] * bool(self.proj)
        leading = (self.B, self.T) if self.batch_first else (self.T, self.B)
        if self.batch_sizes:
            leading = (sum(self.batch_sizes),)
        sizes = [output] + [self.H] * (self.states - 1)
        return (
            self.cell,
            draw(*leading, self.I, scale=self.scale),
            [draw(directions, self.B, s, scale=self.scale) for s in sizes] if self.initial else [],
            weights,
            torch.tensor(self.lengths) if self.lengths else None,
            torch.tensor(self.batch_sizes) if self.batch_sizes else None,
            torch.rand(leading, generator=generator) < 0.3 if self.resets else None,
            self.bidirectional,
            self.batch_first,
        )

    def run(self, backend: Backend, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """All that both ops of a backend return, where it differs in no more than rounding.

        dtype: the type to compute in, from the values as the scan's own type holds them.
        """
        library, tf32 = getattr(torch.ops, backend.library), self.arithmetic == "tf32"

        def given(value: object) -> object:
            if isinstance(value, Tensor) and value.is_floating_point():
                return value.to(backend.device, dtype or self.dtype)
            if isinstance(value, Tensor) and value.dtype == torch.bool:
                return value.to(backend.device)  # the resets; lengths are the host's
            return list(map(given, value)) if isinstance(value, list) else value

        arguments = [given(a) for a in self.arguments()]
        out = library.scan(*arguments, True, tf32)
        generator = torch.Generator().manual_seed(2 * self.seed + 1)
        # Those of the states of every step are in the type that computes.
        grads = [
            torch.randn(t.shape, generator=generator).to(self.dtype).to(t)
            for t in out[: 2 * self.states]
        ]
        kept = [out[0], *out[1 + self.states :]]
        backward = library.scan_backward(grads, *arguments, kept, True, True, True, tf32)
        found = {f"output {i}": t for i, t in enumerate(out[: 2 * self.states])}
        found |= {f"gradient {i}": t for i, t in enumerate(backward)}
        return {name: t.cpu() for name, t in found.items()}


def differences(scan: Scan, backend: Backend) -> list[str]:
    """Where a backend is less accurate than the CPU's in the same type.

    Which side of relu's kink a 16-bit rounding falls on is a matter of luck, and throws whole
    gradients off: there, most of five draws must agree.
    """
    if scan.cell != "rnn_relu" or "16" not in scan.arithmetic:
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
    found, exact = scan.run(backend), scan.run(CPU, torch.float64)
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
