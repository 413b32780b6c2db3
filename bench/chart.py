"""The ratios as a picture: a panel for each pass, a group of bars for each shape."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from fastrnn._commands.compare import NAMES, PASSES, STEPS, Result
from fastrnn._commands.machine import Machine
from fastrnn._commands.report import by_shape, means

# Okabe and Ito's, told apart by every kind of sight, and in grey.
COLORS = {"lstm": "#0072b2", "gru": "#e69f00", "rnn": "#009e73"}


def draw(results: Sequence[Result], machine: Machine, path: Path) -> None:
    figure, panels = pyplot.subplots(2, 1, figsize=(10, 6.4), sharex=True, sharey=True)
    for panel, (name, training) in zip(panels, PASSES.items(), strict=True):
        _panel(panel, results, training)
        title = "training: forward and backward" if training else f"{name}, inference"
        panel.set_title(title, loc="left", fontsize=12)
    ratios = [r.ratio() for r in results]
    low, high = 0.8 * min(1, *ratios), 1.3 * max(2, *ratios)
    ticks = [2.0**i for i in range(-10, 11) if low <= 2.0**i <= high]
    panels[0].set_ylim(low, high)
    for panel in panels:
        panel.set_yticks(ticks, [f"{tick:g}x" for tick in ticks], fontsize=11)
        panel.minorticks_off()
    panels[0].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize=12, frameon=False)
    figure.suptitle(
        f"times as fast as torch.nn: {machine.name} ({machine.isa}), {machine.threads} threads, "
        f"{machine.dtype}",
        x=0.01,
        ha="left",
        fontsize=13,
    )
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def _panel(axes: Axes, results: Sequence[Result], training: bool) -> None:
    shapes = by_shape(results)
    cells = list(dict.fromkeys(r.case.cell for r in results))
    average = means(results, cells)
    width = 0.84 / len(cells)
    for i, cell in enumerate(cells):
        ratios = [
            r.ratio()
            for of_shape in shapes.values()
            for r in of_shape
            if (r.case.cell, r.case.training) == (cell, training)
        ]
        ratios.append(average[cell, training])
        places = [x + (i - (len(cells) - 1) / 2) * width for x in range(len(ratios))]
        bars = axes.bar(
            places,
            [ratio - 1 for ratio in ratios],
            width * 0.94,
            bottom=1,
            color=COLORS[STEPS.get(cell, cell)],
            label=NAMES[cell],
        )
        axes.bar_label(
            bars, [f"{r:.1f}" if r < 10 else f"{r:.0f}" for r in ratios], padding=1, fontsize=9
        )
    axes.set_yscale("log")
    axes.axhline(1, color="black", linewidth=1.2)
    axes.axvline(len(shapes) - 0.5, color="0.7", linewidth=1)
    axes.set_xticks(
        range(len(shapes) + 1),
        [*(f"T {s.T} B {s.B}\nI {s.I} H {s.H}" for s in shapes), "geometric\nmean"],
        fontsize=9.5,
    )
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
