"""Builds and starts pieces.cpp, for this machine or for another that an emulator plays."""

from __future__ import annotations

import hashlib
import os
import subprocess
from fcntl import LOCK_EX, flock
from pathlib import Path

import torch
from calls import Program

ROOT = Path(__file__).parent.parent
EMULATOR = os.environ.get("FASTRNN_EMULATOR", "").split()  # of the machine that CXX compiles for


def start(folder: Path) -> Program:
    """The program, built unless the folder has it of the same sources."""
    own = [ROOT / f"csrc/cpu/{name}.cpp" for name in ("buffer", "crowd", "machine")]
    compiled = [ROOT / "tests/pieces.cpp", *own]
    command = [*os.environ.get("CXX", "c++").split(), *_flags(), *map(str, compiled)]
    sources = [*ROOT.glob("csrc/**/*.h"), ROOT / "tests/calls.h", *compiled]
    text = b"".join(source.read_bytes() for source in sorted(sources))
    program = folder / hashlib.sha256(" ".join(command).encode() + text).hexdigest()[:16]
    with open(folder / "lock", "w") as lock:
        flock(lock, LOCK_EX)  # tests that run side by side want the same program
        if not program.exists():
            for old in set(folder.iterdir()) - {folder / "lock"}:
                old.unlink()
            subprocess.run([*command, "-o", f"{program}.new"], check=True)
            Path(f"{program}.new").rename(program)
    return Program([*EMULATOR, str(program)])


def _flags() -> list[str]:
    # -O2 takes twice the time, which is minutes where vectors of 64 bytes are compiled in halves.
    flags = ["-std=c++20", "-O1", "-g0", "-w", "-ffp-contract=fast", f"-I{ROOT / 'csrc'}"]
    if not EMULATOR:
        isas = torch.ops.fastrnn.cpu_isas().split(": ")[1].split()
        flags += ["-mavx2", "-mfma"] * ("avx2" in isas)
        flags += ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"] * ("avx512" in isas)
    return flags
