"""python -m fastrnn info: what is installed, what it runs on, and whether its numbers are right."""

from __future__ import annotations

import os
import platform
import random
from time import perf_counter

import torch
from torch import nn

import fastrnn

from .. import ops
from .compare import MismatchError, Run, check
from .machine import cpu_isas

CHECK_SECONDS = 1.0


def run() -> int:
    """Prints all of it. Returns the exit code: 1 where a result is not torch.nn's."""
    taken, available = cpu_isas()
    forced = ", forced by FASTRNN_ISA" if os.environ.get("FASTRNN_ISA") else ""
    print(f"fastrnn      {fastrnn.__version__}")
    print(f"torch        {torch.__version__}")
    print(f"Python       {platform.python_version()}, {platform.platform()}")
    print(f"CPU kernels  {taken}{forced} (available: {', '.join(available)})")
    print(f"threads      {torch.get_num_threads()}")
    print(f"CUDA kernels {_cuda()}")
    try:
        count = self_check()
    except MismatchError as error:
        print(f"self-check   FAILED: {error}")
        return 1
    print(f"self-check   ok: {count} random layers equal torch.nn's, outputs and gradients")
    return 0


def _cuda() -> str:
    if ops.WHY_NO_CUDA:
        return f"no: {ops.WHY_NO_CUDA}"
    names = ", ".join(f"{a // 100}.{a // 10 % 10}" for a in torch.ops.fastrnn.cuda_architectures())
    built = f"yes, for compute capability {names}; torch is built with CUDA {torch.version.cuda}"
    if not torch.cuda.is_available():
        return f"{built}; no GPU is visible"
    capability = "{}.{}".format(*torch.cuda.get_device_capability())
    return f"{built}; {torch.cuda.get_device_name()} has {capability}"


def self_check(seconds: float = CHECK_SECONDS) -> int:
    """Compares random layers with torch.nn's, in float64, until the time is over; at least ten.

    Returns how many there were.

    Raises:
        MismatchError: one differs; the message says which.
    """
    choose, count, end = random.Random(0), 0, perf_counter() + seconds
    while count < 10 or perf_counter() < end:
        name = choose.choice(["LSTM", "GRU", "RNN"])
        options = {
            "input_size": choose.randint(1, 40),
            "hidden_size": choose.randint(1, 80),
            "num_layers": choose.randint(1, 2),
            "bias": choose.random() < 0.8,
            "batch_first": choose.random() < 0.5,
            "bidirectional": choose.random() < 0.5,
            "dtype": torch.float64,
        }
        if name == "RNN":
            options["nonlinearity"] = choose.choice(["tanh", "relu"])
        if name == "LSTM" and options["hidden_size"] > 1 and choose.random() < 0.3:
            options["proj_size"] = choose.randint(1, options["hidden_size"] - 1)
        steps, batch = choose.randint(1, 20), choose.randint(1, 20)
        rows = (batch, steps) if options["batch_first"] else (steps, batch)
        torch.manual_seed(count)
        theirs, ours = getattr(nn, name)(**options), getattr(fastrnn, name)(**options)
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(*rows, options["input_size"], dtype=torch.float64)
        grad_y = torch.randn_like(theirs(x)[0])
        what = f"{name}({', '.join(f'{k}={v}' for k, v in options.items())}) on {[*x.shape]}"
        check(Run(ours, x, grad_y).results(), Run(theirs, x, grad_y).results(), what)
        count += 1
    return count
