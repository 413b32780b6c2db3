"""Configurations of layers, and runs of them that can be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import fastrnn
from fastrnn import reference

CELLS = tuple(reference.CELLS)
TORCH_CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")  # those that torch.nn has, too


@dataclass(frozen=True)
class Case:
    """One layer or stack of layers, and the shape of its input."""

    cell: str = "lstm"
    T: int = 5
    B: int = 3
    I: int = 4  # noqa: E741
    H: int = 7
    layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    proj: int = 0
    initial: bool = True
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        parts = [self.cell, f"T{self.T}B{self.B}I{self.I}H{self.H}"]
        parts += [f"L{self.layers}"] * (self.layers > 1) + [f"P{self.proj}"] * (self.proj > 0)
        parts += ["bi"] * self.bidirectional + ["bf"] * self.batch_first
        parts += ["nobias"] * (not self.bias) + ["noh0"] * (not self.initial)
        return "-".join([*parts, str(self.dtype).removeprefix("torch.")])

    @property
    def states(self) -> int:
        return 2 if self.cell == "lstm" else 1

    def module(self, package: object, seed: int = 0) -> nn.Module:
        """The module of fastrnn or of torch.nn, always with the same weights."""
        name = {"lstm": "LSTM", "gru": "GRU"}.get(self.cell, "RNN")
        extra = {"proj_size": self.proj} if self.proj else {}
        if name == "RNN":
            extra["nonlinearity"] = self.cell.removeprefix("rnn_")
        torch.manual_seed(seed)
        return getattr(package, name)(
            self.I,
            self.H,
            num_layers=self.layers,
            bias=self.bias,
            batch_first=self.batch_first,
            bidirectional=self.bidirectional,
            dtype=torch.float64,
            **extra,
        ).to(self.dtype)

    def inputs(self, seed: int = 0) -> tuple[Tensor, list[Tensor]]:
        """x and the initial states; values that the type holds exactly."""
        generator = torch.Generator().manual_seed(1000 + seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(self.dtype)

        depth = self.layers * (2 if self.bidirectional else 1)
        x = draw(self.B, self.T, self.I) if self.batch_first else draw(self.T, self.B, self.I)
        sizes = [self.proj or self.H] + [self.H] * (self.states - 1)
        return x, [draw(depth, self.B, size) for size in sizes] if self.initial else []


def run(case: Case, package: object, exact: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """All outputs and all gradients, by name.

    exact: computed in float64 from the values as the case's type holds them.
    """
    module, (x, states) = case.module(package, seed), case.inputs(seed)
    if exact:
        module, x, states = module.double(), x.double(), [s.double() for s in states]
    x = x.requires_grad_()
    states = [s.requires_grad_() for s in states]
    hx = (tuple(states) if case.cell == "lstm" else states[0]) if states else None
    y, last = module(x, hx)
    ends = list(last) if case.cell == "lstm" else [last]
    generator = torch.Generator().manual_seed(2000 + seed)
    loss = sum(
        (o * torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype)).sum()
        for o in (y, *ends)
    )
    loss.backward()
    found = {"y": y, "grad x": x.grad}
    found |= {f"last {i}": s for i, s in enumerate(ends)}
    found |= {f"grad state {i}": s.grad for i, s in enumerate(states)}
    found |= {f"grad {name}": p.grad for name, p in module.named_parameters()}
    return {name: t.detach() for name, t in found.items()}


@cache
def run_torch(case: Case, exact: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """torch.nn's results, computed once for all instruction sets."""
    return run(case, nn, exact, seed)


def twins(name: str, *args: Any, **options: Any) -> tuple[nn.Module, nn.Module]:
    """torch.nn's module and ours, made alike; in float64 unless a dtype is given."""
    made = []
    for package in (nn, fastrnn):
        torch.manual_seed(0)
        made.append(getattr(package, name)(*args, **{"dtype": torch.float64} | options))
    return made[0], made[1]


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested arguments or results, in their order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, (tuple, list)):
        return [t for part in value for t in tensors_in(part)]
    return []


def outcome(
    module: nn.Module, *args: Any, call: Callable[..., Any] | None = None
) -> dict[str, Tensor]:
    """All results of call(*args), which is module(*args) unless given, and the gradients of those
    arguments and parameters that require one."""
    given = {f"argument {i}": t for i, t in enumerate(tensors_in(args))}
    given |= dict(module.named_parameters())
    wanted = {name: t for name, t in given.items() if t.requires_grad}
    results = tensors_in((module if call is None else call)(*args))
    generator = torch.Generator().manual_seed(3000)
    loss = sum(
        (r * torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype)).sum()
        for r in results
    )
    grads = torch.autograd.grad(loss, list(wanted.values()))
    found = {f"result {i}": r.detach() for i, r in enumerate(results)}
    return found | {f"grad {name}": g for name, g in zip(wanted, grads, strict=True)}


def errors(found: list[dict], truth: list[dict]) -> dict[str, float]:
    """The norm of each tensor's error over all draws, relative to that of the true one."""

    def joined(name: str, draws: list[dict]) -> Tensor:
        return torch.cat([d[name].double().flatten() for d in draws])

    return {
        name: float((joined(name, found) - joined(name, truth)).norm())
        / max(float(joined(name, truth).norm()), 1e-300)
        for name in truth[0]
    }


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, t in expected.items():
        torch.testing.assert_close(found[name], t, rtol=1e-11, atol=1e-12, msg=name)


def less_accurate_than_torch(case: Case, seeds: range) -> dict[str, str]:
    """What has an error of more than 1.5 times torch.nn's in the same type, and than a rounding."""
    truth = [run_torch(case, True, seed) for seed in seeds]
    ours = errors([run(case, fastrnn, seed=seed) for seed in seeds], truth)
    theirs = errors([run_torch(case, False, seed) for seed in seeds], truth)
    rounding = torch.finfo(case.dtype).eps / 2
    return {
        name: f"{ours[name]:.2e} > 1.5 * {theirs[name]:.2e}"
        for name in ours
        if not ours[name] <= 1.5 * theirs[name] + rounding
    }


def assert_as_accurate_as_torch(case: Case) -> None:
    """Small tensors are drawn several times, so that no error is a matter of luck.

    Which side of relu's kink a 16-bit rounding falls on is one, and throws whole gradients off:
    there, most draws must pass.
    """
    if case.cell == "rnn_relu" and case.dtype.itemsize == 2:
        draws = [less_accurate_than_torch(case, range(i, i + 1)) for i in range(7)]
        names = [name for worse in draws for name in worse]
        worse = {name: f"{names.count(name)} of 7 draws" for name in names if names.count(name) > 3}
    else:
        sequence, state = case.T * case.B * case.H, case.B * (case.proj or case.H)
        draws = min(30, 1 + max(400 // sequence, 100 // state))
        worse = less_accurate_than_torch(case, range(draws))
    assert not worse, f"{case}: {worse}"


def variants(case: Case) -> list[Case]:
    """The case with each option turned over, one at a time, and with all of them."""
    options = [{"bidirectional": True}, {"bias": False}, {"batch_first": True}, {"initial": False}]
    if case.cell == "lstm" and case.H > 1:
        options.append({"proj": (case.H + 1) // 2})
    everything: dict = {}
    for option in options:
        everything |= option
    return [replace(case, **option) for option in ({}, *options, everything)]
