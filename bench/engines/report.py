"""The engines' times as Markdown and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fastrnn._commands.compare import OURS, ROUNDS, Result
from fastrnn._commands.machine import Machine
from fastrnn._commands.report import NAMES, as_json, disturbance

from .stacks import Latency


def document(
    layers: Sequence[Result],
    stacks: Sequence[Latency],
    machine: Machine,
    versions: Mapping[str, str],
    missing: Sequence[str],
) -> str:
    engines = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [
        f"# Against engines\n\n{machine.name}, {machine.isa}, {machine.threads} threads, "
        f"{machine.dtype}; {machine.versions}; {engines}; {machine.date}.",
        "All take turns in one process, with the same weights and inputs, and 50 ms of rest "
        "between them, after their results were compared. The engines compiled a graph that has "
        "the shapes and weights in it, with inputs and outputs bound to memory once; torch.nn and "
        f"{OURS} read the weights as they are at every call, and allocate what they return. "
        f"**Bold** is what is faster than {OURS}.",
    ]
    if missing:
        parts.append(f"Not installed, and so not here: {', '.join(missing)}.")
    if layers:
        parts.append(_layers(layers))
    if stacks:
        parts.append(_stacks(stacks))
    return "\n\n".join(parts) + "\n"


def _layers(results: Sequence[Result]) -> str:
    peers = results[0].peers
    rows = [
        _row([NAMES[r.case.cell], str(r.case.shape), _short(r.us())] + [_peer(r, p) for p in peers])
        for r in results
    ]
    text = (
        f"## A layer, forward\n\nMicroseconds a step, medians of {ROUNDS} rounds, and how many "
        f"times as fast {OURS} is, the median of the rounds' ratios. "
        f"{_slower(f'{NAMES[r.case.cell]} {r.case.shape}' for r in results if _behind(r))} "
        f"{disturbance(results)}"
    )
    return "\n".join([text, "", *_titles(["cell", "T,B,I,H", OURS, *peers]), *rows])


def _behind(result: Result) -> bool:
    return any(result.ratio(peer=peer) < 1 for peer in result.peers)


def _peer(result: Result, peer: str) -> str:
    ratio = result.ratio(peer=peer)
    text = f"{_short(result.us(peer))}, {ratio:.2f}x"
    return f"**{text}**" if ratio < 1 else text


def _stacks(results: Sequence[Latency]) -> str:
    peers = [name for name in results[0].seconds if name != OURS]
    rows = [
        _row(
            [NAMES[r.cell], str(r.stack), _both(r, OURS)]
            + [f"**{_both(r, p)}**" if r.us(p) < r.us(OURS) else _both(r, p) for p in peers]
        )
        for r in results
    ]
    behind = (f"{NAMES[r.cell]} {r.stack}" for r in results if min(map(r.us, peers)) < r.us(OURS))
    text = (
        "## One step of a stack\n\nLayers x units, as many features of the input, batch 1, one "
        "step a call with the states fed back. The median and the 99th percentile in microseconds; "
        f"a rank goes by the median. {_slower(behind)}"
    )
    return "\n".join([text, "", *_titles(["cell", "stack", OURS, *peers]), *rows])


def _both(result: Latency, provider: str) -> str:
    return f"{_short(result.us(provider))}, {_short(result.us_99(provider))}"


def _slower(rows: Iterable[str]) -> str:
    found = list(rows)
    if not found:
        return f"In no row is another faster than {OURS}."
    return f"Another is faster than {OURS} at: {'; '.join(found)}."


def _titles(titles: Sequence[str]) -> list[str]:
    return [_row(titles), _row(["---"] * len(titles))]


def _row(entries: Iterable[str]) -> str:
    return f"| {' | '.join(entries)} |"


def _short(us: float) -> str:
    """Three digits."""
    return f"{us:.0f}" if us >= 100 else f"{us:#.3g}"


def for_programs(
    layers: Sequence[Result],
    stacks: Sequence[Latency],
    machine: Machine,
    versions: Mapping[str, str],
) -> dict:
    return {
        "versions": dict(versions),
        **as_json(layers, machine),
        "stacks": [
            {
                "cell": r.cell,
                "stack": r.stack._asdict(),
                "us": {name: r.us(name) for name in r.seconds},
                "us_99th_percentile": {name: r.us_99(name) for name in r.seconds},
                "steps": {name: len(of_one) for name, of_one in r.seconds.items()},
            }
            for r in stacks
        ],
    }
