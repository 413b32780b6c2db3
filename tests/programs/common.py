"""What the programs share: one job on torch.nn and on fastrnn, compared and timed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter

import torch
from torch import Tensor

Job = Callable[[bool], Mapping[str, Tensor]]  # of "on fastrnn"; what it returns is compared


def compare(what: str, job: Job, *, atol: float, rounds: int = 3) -> None:
    """Does a job on torch.nn and on fastrnn in turns, once to warm up and then `rounds` times, and
    prints the medians of their seconds as a line of JSON. Results may differ by atol, relative to
    the largest of each tensor, or by atol where none is above 1.

    Raises:
        AssertionError: they differ by more.
    """
    seconds: dict[bool, list[float]] = {False: [], True: []}
    worst = 0.0
    for turn in range(rounds + 1):
        results = {}
        for fused in (False, True):
            torch.manual_seed(0)
            begun = perf_counter()
            results[fused] = job(fused)
            if turn:
                seconds[fused].append(perf_counter() - begun)
        for name, expected in results[False].items():
            scale = max(1.0, float(expected.detach().abs().max()))
            found = results[True][name]
            torch.testing.assert_close(
                found, expected, rtol=0, atol=atol * scale, msg=lambda m, n=name: f"{n}: {m}"
            )
            worst = max(worst, float((found - expected).detach().abs().max()) / scale)
    plain, fused = (median(seconds[key]) for key in (False, True))
    line = {"what": what, "torch.nn": plain, "fastrnn": fused, "difference": worst}
    print(json.dumps(line), flush=True)
