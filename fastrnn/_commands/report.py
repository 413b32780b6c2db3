"""Results as Markdown: times and ratios, and how near they come to the machine's floor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import geometric_mean

from .compare import COMPILED, LOOP, NAMES, OURS, PASSES, PEER, Result, Shape
from .machine import Machine

BUSY = 1.15


def head(machine: Machine, rounds: int) -> str:
    """What the numbers are, and where they were taken."""
    return (
        f"{machine.name}, {machine.isa}, {machine.threads} threads, {machine.dtype}; "
        f"{machine.versions}; {machine.date}.\n\n"
        f"Microseconds a step, {PEER} → {OURS}, and how many times as fast {OURS} is. Both ran in "
        f"turns in one process, with the same weights and inputs, for {rounds} rounds; shown is "
        "the one of the median ratio. Training is forward and backward, to the input and all "
        "weights."
    )


def columns(cells: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    titles = [f"{NAMES[cell]} {name}" for cell in cells for name in PASSES]
    return [_row("T,B,I,H", titles), _row("---", ["---"] * len(titles))]


def speed_row(shape: Shape, results: Iterable[Result]) -> str:
    return _row(
        str(shape),
        ("{} → {}, **{:.2f}x**".format(*map(_short, r.typical_us()), r.ratio()) for r in results),
    )


def mean_row(results: Sequence[Result], cells: Sequence[str]) -> str:
    """Each column's geometric mean."""
    return _row("geometric mean", (f"**{m:.2f}x**" for m in means(results, cells).values()))


def means(results: Sequence[Result], cells: Sequence[str]) -> dict[tuple[str, bool], float]:
    """The geometric mean of the ratios of all shapes, by cell and whether it is training."""
    return {
        (cell, training): geometric_mean(
            r.ratio() for r in results if (r.case.cell, r.case.training) == (cell, training)
        )
        for cell in cells
        for training in PASSES.values()
    }


def disturbance(results: Sequence[Result]) -> str:
    """In how many cases the rounds disagree: whether another process had the cores."""
    wide = sum(r.spread() > BUSY for r in results)
    busy = "; the machine was busy, so measure again" if wide > 0.2 * len(results) else ""
    return (
        f"In {wide} of {len(results)} cases the upper quartile of the rounds' ratios is more than "
        f"{BUSY} times the lower one{busy}."
    )


def floor_table(results: Sequence[Result], cells: Sequence[str], machine: Machine) -> str:
    """How near each result comes to what the machine can do."""
    rows = [
        _row(
            str(shape),
            (f"{r.gflops():.0f}, {machine.floor_us(r.case) / r.us():.0%}" for r in of_shape),
        )
        for shape, of_shape in by_shape(results).items()
    ]
    fastest, slowest = map(machine.bandwidth, (min(machine.bandwidths), max(machine.bandwidths)))
    text = (
        f"GFLOP/s of {OURS}, and the floor's share of its time. The floor of a step is the larger "
        f"of its operations at {machine.peak:.0f} GFLOP/s, the best that torch.mm reaches here, "
        "and of reading the recurrent weights, once a pass, at the best that torch.sum reaches "
        f"for as many bytes or more ({slowest:.0f} to {fastest:.0f} GB/s). It knows nothing of "
        "the gates, nor of what a call costs; and a kernel can be better than torch.mm or "
        "torch.sum, which shows as more than 100%."
    )
    return "\n".join([text, "", *columns(cells), *rows])


def by_shape(results: Sequence[Result]) -> dict[Shape, list[Result]]:
    shapes = dict.fromkeys(r.case.shape for r in results)
    return {shape: [r for r in results if r.case.shape == shape] for shape in shapes}


def document(results: Sequence[Result], machine: Machine, rounds: int) -> str:
    """All tables; results are ordered by shape, then cell, then pass."""
    cells = list(dict.fromkeys(r.case.cell for r in results))
    rows = [speed_row(shape, of_shape) for shape, of_shape in by_shape(results).items()]
    table = [*columns(cells), *rows, mean_row(results, cells)]
    return "\n".join(
        [
            head(machine, rounds),
            "",
            *table,
            "",
            disturbance(results),
            "",
            floor_table(results, cells, machine),
            "",
        ]
    )


def cells_document(results: Sequence[Result], machine: Machine, rounds: int) -> str:
    """A table for each pass: every cell at every shape, against plain PyTorch."""
    shapes = list(by_shape(results))
    cells = list(dict.fromkeys(r.case.cell for r in results))
    text = (
        f"{machine.name}, {machine.isa}, {machine.threads} threads, {machine.dtype}; "
        f"{machine.versions}; {machine.date}.\n\n"
        f"Microseconds a step of {OURS}, how many times as fast that is as the same equations in a "
        f"loop of plain PyTorch ({LOOP}), and as that loop with its step under torch.compile "
        f"({COMPILED}: the step alone, because to compile all steps as one takes minutes). The "
        "loop has the input projection of the whole sequence as one product. All three ran in "
        "turns in one process, with the same weights and inputs, and had to give the same results "
        f"first; medians of {rounds} rounds. Training is forward and backward, to the input and "
        "all weights."
    )
    parts = [text]
    for name, training in PASSES.items():
        of_pass = [r for r in results if r.case.training == training]
        if not of_pass:
            continue
        found = {(r.case.cell, r.case.shape): r for r in of_pass}
        rows = [_row(f"{name}: {OURS}, {LOOP}, {COMPILED}", [*map(str, shapes), "geometric mean"])]
        rows.append(_row("---", ["---"] * (len(shapes) + 1)))
        for cell in cells:
            of_cell = [found.get((cell, shape)) for shape in shapes]
            entries = [f"{_short(r.us())}, {_gains(r)}" if r else "" for r in of_cell]
            rows.append(_row(cell, [*entries, _mean_gains([*filter(None, of_cell)])]))
        rows.append(_row("geometric mean", [""] * len(shapes) + [_mean_gains(of_pass)]))
        parts.append("\n".join(rows))
    return "\n\n".join([*parts, disturbance(results)]) + "\n"


def _gains(result: Result) -> str:
    return f"**{result.ratio(peer=LOOP):.2f}x**, {result.ratio(peer=COMPILED):.2f}x"


def _mean_gains(results: Sequence[Result]) -> str:
    if not results:
        return ""
    loop, compiled = (
        geometric_mean(r.ratio(peer=peer) for r in results) for peer in (LOOP, COMPILED)
    )
    return f"**{loop:.2f}x**, {compiled:.2f}x"


def as_json(results: Sequence[Result], machine: Machine) -> dict:
    """The same, and every round's time, for programs."""
    return {
        "machine": vars(machine),
        "results": [
            {
                "cell": r.case.cell,
                "shape": r.case.shape._asdict(),
                "training": r.case.training,
                "us_per_step": {name: r.us(name) for name in r.seconds},
                "gflops": {name: r.gflops(name) for name in r.seconds},
                "ratio": r.ratio(),
                "ratios": {peer: r.ratio(peer=peer) for peer in r.peers},
                "spread": r.spread(),
                "floor_us": machine.floor_us(r.case),
                "seconds_per_call": r.seconds,
            }
            for r in results
        ],
    }


def _row(first: str, rest: Iterable[str]) -> str:
    return f"| {' | '.join([first, *rest])} |"


def _short(us: float) -> str:
    """Three digits."""
    return f"{us:.0f}" if us >= 100 else f"{us:#.3g}"
