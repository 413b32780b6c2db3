"""What is run: layers of torch.nn and of fastrnn on the GPU, in one arithmetic, by one path."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastrnn._commands.compare import Run, Shape

GPU = torch.device("cuda")
PATHS = {"F": "step by step", "A": "one CTA", "C": "cluster", "G": "grid"}
CELLS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
ARITHMETICS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
ONE_GPU = "there is one GPU only"
REFUSED = ("does not run this shape", "refused to run so many CTAs", ONE_GPU)


@contextmanager
def arithmetic(name: str) -> Iterator[torch.dtype]:
    """The type of an arithmetic, with torch's flags for TF32 set to it."""
    precision = "tf32" if name == "tf32" else "ieee"
    flags = (torch.backends.cudnn.rnn, torch.backends.cuda.matmul)
    before = [flag.fp32_precision for flag in flags]
    for flag in flags:
        flag.fp32_precision = precision
    try:
        yield ARITHMETICS[name]
    finally:
        for flag, old in zip(flags, before):
            flag.fp32_precision = old


@contextmanager
def forced(path: str | None) -> Iterator[None]:
    before = os.environ.pop("FASTRNN_CUDA_PATH", None)
    if path:
        os.environ["FASTRNN_CUDA_PATH"] = path
    try:
        yield
    finally:
        os.environ.pop("FASTRNN_CUDA_PATH", None)
        if before is not None:
            os.environ["FASTRNN_CUDA_PATH"] = before


def layer(package: object, cell: str, shape: Shape, **options: Any) -> nn.Module:
    """On the GPU, in float64; always with the same weights."""
    name = {"lstm": "LSTM", "gru": "GRU"}.get(cell, "RNN")
    if name == "RNN":
        options["nonlinearity"] = cell.removeprefix("rnn_")
    torch.manual_seed(0)
    module = getattr(package, name)(shape.I, shape.H, **options, device=GPU, dtype=torch.float64)
    if cell == "rnn_relu":
        _keep_from_the_kink(module)
    return module


@torch.no_grad()
def _keep_from_the_kink(module: nn.Module) -> None:
    """Of input that is not negative, every other unit is the relu of what is clearly negative.

    Which side of the kink a rounding falls on is a matter of luck, and throws whole gradients off.
    """
    for name, p in module.named_parameters():
        p.abs_()
        p[1::2] *= -1
        if name.startswith("weight_hh"):
            p *= p.shape[1] ** -0.5  # so that the states do not grow from step to step


def draw(*sizes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator(GPU).manual_seed(seed)
    return torch.randn(*sizes, generator=generator, device=GPU, dtype=torch.float64)


def draw_input(cell: str, *sizes: int, seed: int = 0) -> Tensor:
    drawn = draw(*sizes, seed=seed)
    return drawn.abs() if cell == "rnn_relu" else drawn


def make_run(
    package: object,
    cell: str,
    shape: Shape,
    dtype: torch.dtype,
    exact: bool = False,
    training: bool = True,
    **options: Any,
) -> Run:
    """exact: in float64, from the values as dtype holds them."""
    width = shape.H * (2 if options.get("bidirectional") else 1)
    module = layer(package, cell, shape, **options).to(dtype)
    x = draw_input(cell, shape.T, shape.B, shape.I).to(dtype)
    grad_y = draw(shape.T, shape.B, width, seed=1).to(dtype)
    if exact:
        module, x, grad_y = module.double(), x.double(), grad_y.double()
    return Run(module, x, grad_y if training else None)


def errors(found: dict[str, Tensor], truth: dict[str, Tensor]) -> dict[str, float]:
    """The norm of each difference, relative to the truth's."""
    return {
        name: float(
            (found[name].double() - t.double()).norm() / t.double().norm().clamp_min(1e-300)
        )
        for name, t in truth.items()
    }


def refused(error: Exception) -> bool:
    """Whether the path does not run the shape, and says so."""
    return any(words in str(error) for words in REFUSED)


def lost() -> bool:
    """Whether a kernel has failed so that this process can use the device no more."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


@contextmanager
def at_most(seconds: float | None, otherwise: Callable[[], None]) -> Iterator[None]:
    """What takes longer hangs: `otherwise` is called, and the process ends with it."""

    def give_up() -> None:
        otherwise()
        os._exit(1)

    timer = threading.Timer(seconds or 0, give_up)
    timer.daemon = True
    if seconds:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
