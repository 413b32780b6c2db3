"""The pieces' figures and the floors as Markdown and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from statistics import median

from fastrnn._commands.compare import NAMES, PASSES
from fastrnn._commands.machine import Machine

from .floor import Timed
from .program import KINDS, Figure, best_tile

Entry = Callable[[Figure], str]


def document(
    figures: Sequence[Figure], machine: Machine, milliseconds: float, repetitions: int
) -> str:
    noise = median(f.median_ns / f.best_ns for f in figures)
    parts = [
        "# Pieces",
        f"{machine.name}, {machine.isa}, {machine.dtype}; {machine.versions}; {machine.date}.",
        f"Each entry is the best of {repetitions} repetitions of {milliseconds:g} ms or more, and "
        "in parentheses their median. All pieces took turns. One thread, unless more are named; "
        "its time is that for which it had a core, so that other processes disturb it little. "
        f"A median takes {noise:.2f} times as long as the best, in the middle of all figures: "
        "near 1 on an idle machine.",
    ]
    for kind, section in _SECTIONS.items():
        if found := [f for f in figures if f.kind == kind]:
            parts += section(found, figures)
    return "\n\n".join(parts) + "\n"


def _tiles(found: Sequence[Figure], _: Sequence[Figure]) -> list[str]:
    parts = [
        f"## Tiles\n\n{KINDS['tiles']}, and the share of the best tile of the type. Rows of tiles "
        "down, vectors across. From L1: one panel, which stays in the first-level cache. From L2: "
        "panels that together take half of the second-level cache. 16-bit weights are widened on "
        "their way into the tile, or multiplied by pairs where the type says so. The rows of A lie "
        "a stride apart, or packed as for the gradients of weights."
    ]
    for dtype in dict.fromkeys(f.of["type"] for f in found):
        of_type = [f for f in found if f.has(type=dtype)]
        entry = partial(_with_share, most=max(f.best for f in of_type))
        for layout, place in dict.fromkeys((f.of["layout"], f.of["from"]) for f in of_type):
            here = [f for f in of_type if f.has(**{"layout": layout, "from": place})]
            parts.append(f"{dtype}, {layout}, from {place}")
            parts.append(_table("rows", here, ["rows"], ["vectors"], entry))
    return parts


def _products(found: Sequence[Figure], figures: Sequence[Figure]) -> list[str]:
    most = best_tile(figures, found[0].of["type"])
    share = ", and the share of the best tile" if most else ""
    return [
        f"## Products\n\n{KINDS['products']}{share}. A product of so many rows with square weights "
        "of so many units for each gate, packed, as the drivers call it for a step: forward, "
        "backward, and for the gradients of the weights over 10 steps. Passes and numbers of gates "
        "across.",
        _table(
            "rows, units",
            found,
            ["rows", "units"],
            ["pass", "gates"],
            partial(_with_share, most=most) if most else _plain,
        ),
    ]


def _packing(found: Sequence[Figure], _: Sequence[Figure]) -> list[str]:
    return [
        f"## Packing\n\n{KINDS['packing']} of weights, which with the packed ones lie in the "
        "second-level cache or beyond.",
        _table("", found, ["pass"], ["from"]),
    ]


def _in_place(found: Sequence[Figure], _: Sequence[Figure]) -> list[str]:
    return [
        f"## Few rows\n\n{KINDS['in-place']} of weights, each of which a product of so many rows "
        "reads once, as they lie or packed; from the second-level cache or beyond.",
        _table("", found, ["pass", "weights", "from"], ["rows"]),
    ]


def _reading(found: Sequence[Figure], _: Sequence[Figure]) -> list[str]:
    return [
        f"## Reading\n\n{KINDS['reading']} of all threads together, each of which reads so many "
        "bytes of its own again and again.",
        _table("threads", found, ["threads"], ["bytes"]),
    ]


def _cells(found: Sequence[Figure], _: Sequence[Figure]) -> list[str]:
    return [
        "## Cells\n\nNanoseconds for a vector of units: a phase's gates without their products. "
        "Saving is the forward pass of training. From L1: 4 rows of 4 vectors; from L2: 16 of 8.",
        _table("cell, form, phase", found, ["cell", "form", "phase"], ["pass", "from"]),
    ]


def _functions(found: Sequence[Figure], _: Sequence[Figure]) -> list[str]:
    return [
        "## Functions\n\nNanoseconds for a vector.",
        _table("", found, ["function"], ["type"]),
    ]


def _meetings(found: Sequence[Figure], _: Sequence[Figure]) -> list[str]:
    return [
        "## Meetings\n\nNanoseconds until all members of a team have met.",
        _table("members", found, [], ["members"]),
    ]


_SECTIONS = {
    "tiles": _tiles,
    "products": _products,
    "packing": _packing,
    "in-place": _in_place,
    "reading": _reading,
    "cells": _cells,
    "functions": _functions,
    "meetings": _meetings,
}


def _plain(figure: Figure) -> str:
    return f"{_short(figure.best)} ({_short(figure.median)})"


def _with_share(figure: Figure, most: float) -> str:
    share = f"{figure.best / most:.0%}"
    return f"{_plain(figure)}, {f'**{share}**' if figure.best == most else share}"


def _table(
    title: str,
    figures: Sequence[Figure],
    down: Sequence[str],
    across: Sequence[str],
    entry: Entry = _plain,
) -> str:
    """Figures by what they are of: some names down, some across."""
    found = {(_words(f, down), _words(f, across)): entry(f) for f in figures}
    columns = dict.fromkeys(column for _, column in found)
    lines = [_row(title, columns), _row("---", ["---"] * len(columns))]
    for name in dict.fromkeys(row for row, _ in found):
        lines.append(_row(name, (found.get((name, column), "") for column in columns)))
    return "\n".join(lines)


def _words(figure: Figure, names: Sequence[str]) -> str:
    return " ".join(figure.of[name] for name in names)


def floor_document(timed: Sequence[Timed], machine: Machine) -> str:
    columns = {
        (cell, name): f"{NAMES[cell]} {name}"
        for cell in dict.fromkeys(t.case.cell for t in timed)
        for name in PASSES
    }
    found = {(t.case.shape, t.case.cell, t.case.training): t for t in timed}
    lines = [_row("T,B,I,H", columns.values()), _row("---", ["---"] * len(columns))]
    for shape in dict.fromkeys(t.case.shape for t in timed):
        of_shape = (found.get((shape, cell, PASSES[name])) for cell, name in columns)
        lines.append(_row(str(shape), (_share(t) if t else "" for t in of_shape)))
    parts = [
        "# Floors",
        f"{machine.name}, {machine.isa}, {machine.threads} threads, {machine.dtype}; "
        f"{machine.versions}; {machine.date}.",
        "Microseconds a step of fastrnn, and the floor's share of them; both from the best block "
        "of calls and the pieces' best. The floor of a call is the sum of its products at the best "
        "that torch.mm or any tile reaches, of what they wait for the recurrent weights to be read "
        "once a step and pass, of the gates by the cell's kernels, of the packing of the weights, "
        "and of a call that has next to nothing to compute, with the number of threads that makes "
        "the sum lowest. With one thread, the time is that for which it had a core. Flagged with "
        "**!** is less than 85% at B >= 16 and H >= 128.",
        "\n".join(lines),
    ]
    noise = median(t.median_us / t.best_us for t in timed)
    parts.append(
        f"A median of the blocks is {noise:.2f} times the best, in the middle of all cases: near 1 "
        "on an idle machine."
    )
    if slow := [t for t in timed if t.is_slow]:
        parts += ["What the flagged floors consist of, in microseconds a call.", _parts(slow)]
    return "\n\n".join(parts) + "\n"


def _share(timed: Timed) -> str:
    us = _short(timed.best_us / timed.case.shape.T)
    return f"{us}, {timed.share:.0%}{' **!**' * timed.is_slow}"


def _parts(timed: Sequence[Timed]) -> str:
    names = list(asdict(timed[0].floor))
    lines = [_row("", ["call", "floor", *names[:-1], "least call"])]
    lines.append(_row("---", ["---"] * (len(names) + 2)))
    for t in sorted(timed, key=lambda t: t.share):
        numbers = (t.best_us, t.floor.us, *asdict(t.floor).values())
        lines.append(_row(_title(t), (_short(us) for us in numbers)))
    return "\n".join(lines)


def _title(timed: Timed) -> str:
    name = "training" if timed.case.training else "forward"
    return f"{NAMES[timed.case.cell]} {name} {timed.case.shape}"


def as_json(figures: Sequence[Figure], machine: Machine) -> dict:
    return {
        "machine": vars(machine),
        "figures": [
            {
                "kind": f.kind,
                **f.of,
                "unit": KINDS[f.kind],
                "best": f.best,
                "median": f.median,
                "best_ns": f.best_ns,
                "median_ns": f.median_ns,
                "work": f.work,
            }
            for f in figures
        ],
    }


def floor_json(timed: Sequence[Timed], figures: Sequence[Figure], machine: Machine) -> dict:
    return {
        **as_json(figures, machine),
        "floors": [
            {
                "cell": t.case.cell,
                "shape": t.case.shape._asdict(),
                "training": t.case.training,
                "best_us": t.best_us,
                "median_us": t.median_us,
                "floor_us": t.floor.us,
                "share": t.share,
                "parts_us": asdict(t.floor),
            }
            for t in timed
        ],
    }


def _row(first: str, rest: Iterable[str]) -> str:
    return f"| {' | '.join([first, *rest])} |"


def _short(number: float) -> str:
    """Three digits."""
    return f"{number:.0f}" if number >= 100 else f"{number:#.3g}"
