"""What is left where others want the same processors: python bench/oversubscribed.py (Linux).

For each shape: the calls in a second of one process alone; those of two at once, taken together,
over these; and those of one whose threads share a single CPU, over these. Where two processes have
1.00, nothing is lost by waiting; on one CPU no more than one thread's work is possible.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from statistics import median
from time import perf_counter

import torch

from fastrnn._commands.compare import PROVIDERS, SHAPES, Run, Shape

SECONDS, ROUNDS = 1.5, 3


def work(provider: str, cell: str, shape: str, training: bool, one_cpu: bool) -> None:
    """Calls for a while when told to by a line; prints how many calls there were in a second."""
    steps, batch, inputs, hidden = Shape.parse(shape)
    grad_y = torch.randn(steps, batch, hidden) if training else None
    run = Run(PROVIDERS[provider](cell, inputs, hidden), torch.randn(steps, batch, inputs), grad_y)
    run()  # loads the libraries and starts the threads
    if one_cpu:
        cpu = min(os.sched_getaffinity(0))
        for thread in os.listdir("/proc/self/task"):
            os.sched_setaffinity(int(thread), {cpu})
    print("ready", flush=True)
    sys.stdin.readline()
    calls, begun = 0, perf_counter()
    while (elapsed := perf_counter() - begun) < SECONDS:
        run()
        calls += 1
    print(calls / elapsed, flush=True)


def rate(processes: int, *arguments: str) -> float:
    """Of all processes together, in calls a second."""
    command = [sys.executable, __file__, "--work", *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    all_of_them = [subprocess.Popen(command, **pipes) for _ in range(processes)]
    for process in all_of_them:
        process.stdout.readline()
    for process in all_of_them:
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in all_of_them)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shapes", nargs="*", default=[*map(str, SHAPES)], help="T,B,I,H")
    parser.add_argument("--cell", default="lstm", choices=("lstm", "gru", "rnn"))
    parser.add_argument("--provider", default="fastrnn", choices=("fastrnn", "torch.nn"))
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        provider, cell, shape, training, one_cpu = options.work
        return work(provider, cell, shape, bool(int(training)), bool(int(one_cpu)))
    print(f"{options.provider}, {options.cell}, {'training' if options.training else 'forward'}\n")
    print("| T,B,I,H | alone, 1/s | two / alone | on one CPU / alone |\n| --- | --- | --- | --- |")
    for shape in options.shapes:
        case = options.provider, options.cell, shape, str(int(options.training))
        rounds = [
            (rate(1, *case, "0"), rate(2, *case, "0"), rate(1, *case, "1"))
            for _ in range(options.rounds)
        ]
        alone = median(each[0] for each in rounds)
        two = median(each[1] / each[0] for each in rounds)
        one = median(each[2] / each[0] for each in rounds)
        print(f"| {shape} | {alone:.0f} | {two:.2f} | {one:.2f} |", flush=True)


if __name__ == "__main__":
    main()
