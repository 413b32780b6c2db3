"""How much memory one training step takes at its peak: python bench/memory.py (Linux).

Each number comes from a process of its own, so that no allocator keeps what another left.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

# torch is imported by the child alone: importing it here would only take time.
CELLS = ("lstm", "gru", "rnn")
SHAPES = ("100,16,128,128", "100,64,512,512")
PEER, OURS, RECOMPUTED = "torch.nn", "fastrnn", "recompute=True"


def growth(provider: str, cell: str, shape: str) -> float:
    """MiB between what is resident before a training step and the peak within it."""
    import torch

    from fastrnn._commands.compare import PROVIDERS, Run, Shape

    def prepared(steps: int, batch: int, inputs: int, hidden: int) -> Run:
        x, grad_y = torch.randn(steps, batch, inputs), torch.randn(steps, batch, hidden)
        layer = PROVIDERS[OURS if provider == RECOMPUTED else provider](cell, inputs, hidden)
        layer.recompute = provider == RECOMPUTED
        return Run(layer, x, grad_y)

    prepared(2, 2, 8, 8)()  # loads the libraries and starts the threads
    step = prepared(*Shape.parse(shape))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before = _resident("VmRSS")
    step()
    return (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def measured(provider: str, cell: str, shape: str) -> float:
    """growth, in a fresh process."""
    command = [sys.executable, __file__, "--one", provider, cell, shape]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", metavar="T,B,I,H", default=SHAPES)
    parser.add_argument("--one", nargs=2, metavar=("PROVIDER", "CELL"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(growth(*args.one, args.shapes[0]))
        return
    print("Peak growth of resident memory in one training step, MiB\n")
    print(f"| T,B,I,H | cell | {PEER} | {OURS} | ratio | {OURS}, {RECOMPUTED} | of {OURS}'s |")
    print("| --- " * 7 + "|")
    for shape in args.shapes:
        for cell in CELLS:
            providers = (PEER, OURS, RECOMPUTED)
            theirs, ours, least = (measured(provider, cell, shape) for provider in providers)
            # A tiny step takes no new page.
            ratio, part = (f"{a / b:.2f}" if b else "-" for a, b in ((ours, theirs), (least, ours)))
            print(
                f"| {shape} | {cell} | {theirs:.1f} | {ours:.1f} | {ratio} | {least:.1f} | {part} |"
            )


if __name__ == "__main__":
    main()
