"""Builds and runs pieces.cpp, which times the engine's pieces for one instruction set and type."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "pieces"

# What is timed, and the unit of its figures. Rates are work over time; times are of a unit of work.
GFLOPS, GBS, NS = "GFLOP/s", "GB/s", "ns"
KINDS = {
    "tiles": GFLOPS,
    "products": GFLOPS,
    "packing": GBS,
    "in-place": GBS,
    "reading": GBS,
    "cells": NS,
    "functions": NS,
    "meetings": NS,
}
MILLISECONDS, REPETITIONS = 2.0, 15

_AVX2 = ("-mavx2", "-mfma", "-mf16c", "-DFRNN_F16C")
_AVX512 = (*_AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")))
_WIDE = "-mprefer-vector-width=512"
# As the sources csrc/cpu/isa_*.cpp ask for them.
ISAS = {
    "baseline": ("-DFRNN_ARCH=Baseline",),
    "avx2": ("-DFRNN_ARCH=Avx2", *_AVX2),
    "avx512": ("-DFRNN_ARCH=Avx512", *_AVX512, _WIDE),
    "avx512_bf16": (
        "-DFRNN_ARCH=Avx512Bf16",
        *_AVX512,
        "-mavx512bf16",
        "-DFRNN_AVX512_BF16",
        _WIDE,
    ),
}
TYPES = {"float32": "float", "float64": "double", "bfloat16": "bf16", "float16": "f16"}


@dataclass(frozen=True)
class Figure:
    """What was timed, and the nanoseconds of a call, the best and the median of the repetitions.

    of: by name, what tells it from others of its kind.
    work: of a call; FLOPs, bytes, vectors or meetings.
    """

    kind: str
    of: dict[str, str]
    best_ns: float
    median_ns: float
    work: float

    @classmethod
    def parse(cls, line: str) -> Figure:
        """From a line of the program."""
        name, *numbers = line.split("\t")
        of = dict(part.split("=") for part in name.split())
        return cls(of.pop("kind"), of, *map(float, numbers))

    @property
    def best(self) -> float:
        """In the unit of its kind."""
        return self._in_unit(self.best_ns)

    @property
    def median(self) -> float:
        return self._in_unit(self.median_ns)

    def _in_unit(self, ns: float) -> float:
        return ns / self.work if KINDS[self.kind] == NS else self.work / ns

    def has(self, **of: str) -> bool:
        return of.items() <= self.of.items()


def build(isa: str, dtype: str, folder: Path = FOLDER, optimize: str = "-O3") -> Path:
    """The program, compiled unless the folder has it of the same sources; takes half a minute."""
    own = [ROOT / f"csrc/cpu/{name}.cpp" for name in ("buffer", "crowd", "machine")]
    compiled = [ROOT / "bench/pieces/pieces.cpp", *own]
    flags = ["-std=c++20", optimize, "-g0", "-w", "-ffp-contract=fast", "-pthread"]
    flags += [*ISAS[isa], f"-DFRNN_TYPE={TYPES[dtype]}", f"-I{ROOT / 'csrc'}"]
    command = [*os.environ.get("CXX", "c++").split(), *flags, *map(str, compiled)]
    sources = b"".join(p.read_bytes() for p in sorted([*ROOT.glob("csrc/c*/*.h"), *compiled]))
    key = hashlib.sha256(" ".join(command).encode() + sources).hexdigest()[:16]
    program = folder / f"{isa}-{dtype}-{key}"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"{isa}-{dtype}-*"):
            old.unlink()
        subprocess.run([*command, "-o", f"{program}.new"], check=True)
        Path(f"{program}.new").rename(program)
    return program


def measure(
    program: Path,
    kinds: Iterable[str],
    threads: int,
    milliseconds: float = MILLISECONDS,
    repetitions: int = REPETITIONS,
) -> list[Figure]:
    """The figures of these kinds; only meetings and reading use more than one thread."""
    command = [str(program), str(milliseconds), str(repetitions), str(threads), *kinds]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [Figure.parse(line) for line in done.stdout.splitlines()]


def best(figures: Sequence[Figure], kind: str, **of: str) -> float:
    """The best of all figures that match, in their unit.

    Raises:
        ValueError: none does.
    """
    found = [figure.best for figure in figures if figure.kind == kind and figure.has(**of)]
    return min(found) if KINDS[kind] == NS else max(found)


def best_tile(figures: Sequence[Figure], dtype: str) -> float | None:
    """GFLOP/s of the fastest tile that products of a type may run in; None if none was timed.
    Weights of 16 bits may be widened before they get into one."""
    types = {dtype, f"{dtype}-pairs"} | ({"float32"} if dtype.endswith("16") else set())
    tiles = (f.best for f in figures if f.kind == "tiles" and f.of["type"] in types)
    return max(tiles, default=None)
