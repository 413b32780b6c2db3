"""What the machine is, and what it could do at best: the floor under a layer's time."""

from __future__ import annotations

import datetime
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch

from .. import __version__
from .compare import Case

MATRICES = (256, 512, 1024)  # sides of the products that find the peak
READS = tuple(2**i for i in range(17, 26))  # bytes, 128 KiB to 32 MiB


def cpu_isas() -> tuple[str, list[str]]:
    """The instruction set that the CPU kernels use, and all that they could use here."""
    taken, _, available = torch.ops.fastrnn.cpu_isas().partition(": ")
    return taken, available.split()


@dataclass(frozen=True)
class Machine:
    """Where timings were taken.

    peak: GFLOP/s, the best that torch.mm reaches in the timed type.
    bandwidths: GB/s by the number of bytes, the best that torch.sum reaches on so many that it has
        just read.
    """

    name: str
    isa: str
    threads: int
    dtype: str
    versions: str
    date: str
    peak: float
    bandwidths: dict[int, float]

    @classmethod
    def measure(cls, dtype: torch.dtype, device: torch.device) -> Machine:
        """Takes some two seconds."""
        cuda = device.type == "cuda"
        major, minor = torch.cuda.get_device_capability(device) if cuda else (0, 0)
        return cls(
            name=torch.cuda.get_device_name(device) if cuda else _cpu_name(),
            isa=f"sm_{major}{minor}" if cuda else cpu_isas()[0],
            threads=torch.get_num_threads(),
            dtype=str(dtype).removeprefix("torch."),
            versions=f"fastrnn {__version__}, torch {torch.__version__}, "
            f"Python {platform.python_version()}",
            date=datetime.date.today().isoformat(),
            peak=max(_mm_gflops(n, dtype, device) for n in MATRICES),
            bandwidths={size: _sum_gbs(size, device) for size in READS},
        )

    def bandwidth(self, size: int) -> float:
        """GB/s at which so many bytes can be read again and again.

        The best of all sizes from there on: what is larger lies no nearer to the core, and a call
        of torch.sum costs too much to show what the nearest cache does.
        """
        return max(gbs for read, gbs in self.bandwidths.items() if read >= min(size, READS[-1]))

    def floor_us(self, case: Case) -> float:
        """Microseconds a step that the products, or reading weight_hh, take at best."""
        passes = 2 if case.training else 1
        read = case.recurrent_bytes / self.bandwidth(case.recurrent_bytes // passes)
        return max(case.flops / self.peak, read) / 1e3

    @property
    def slug(self) -> str:
        """The name and instruction set, fit for a file's name."""
        words = re.sub(r"\((r|tm)\)|@.*", "", self.name.lower())
        return re.sub(r"[^a-z0-9]+", "-", f"{words} {self.isa}").strip("-")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()


def _best_seconds(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The shortest call out of as many as fit in the given time."""
    best, end = float("inf"), perf_counter() + seconds
    with torch.inference_mode():
        call()
        while perf_counter() < end:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            start = perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = min(best, perf_counter() - start)
    return best


def _mm_gflops(n: int, dtype: torch.dtype, device: torch.device) -> float:
    a, b, c = (torch.ones(n, n, dtype=dtype, device=device) for _ in range(3))
    return 2 * n**3 / _best_seconds(lambda: torch.mm(a, b, out=c), device, 0.3) / 1e9


def _sum_gbs(size: int, device: torch.device) -> float:
    a = torch.ones(size // 4, device=device)
    return size / _best_seconds(lambda: torch.sum(a), device, 0.1) / 1e9
