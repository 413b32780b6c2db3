"""Builds the simulation of CUDA, and sets it up."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import ptx
import pybind11
import torch
from torch import Tensor
from torch.utils import cpp_extension

ROOT = Path(__file__).parent.parent
PTX = os.environ.get("FASTRNN_PTX", "")  # of which GPU the kernels' PTX runs; empty: their C++
PTX_CELLS = os.environ.get("FASTRNN_PTX_CELLS", "").split()  # of which cells; empty: of all
ARCHITECTURE = int(PTX or 90)


def build(folder: Path) -> ModuleType:
    """After changes only. Registers the ops of the library fastrnn_simulation."""
    register_mm_of_16_bits_to_float32()
    flags = ["-std=c++20", "-O1", "-g0", "-w", f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'tests'}"]
    # Not torch's copy of it, which some versions of torch forbid beside their stable interface.
    flags.append(f"-I{pybind11.get_include()}")
    flags += ["-DFRNN_CUDA_SIMULATION", ptx.TARGET]
    sources = [ROOT / "tests/cuda_simulation.cpp", *kernel_sources(folder, "cpp")]
    if PTX:
        includes = [str(ROOT / "csrc"), *cpp_extension.include_paths()]
        for source in (*kernel_sources(folder, "cu", PTX_CELLS), ROOT / "csrc/cuda/sequence.cu"):
            sources += ptx.compile_kernels(source, folder, PTX, includes)
        flags.append("-fwrapv")
    return cpp_extension.load(
        "cuda_simulation", list(map(str, sources)), flags, build_directory=str(folder)
    )


def kernel_sources(folder: Path, suffix: str, cells: Sequence[str] = ()) -> list[Path]:
    """A source for each type, so that they compile side by side; of these cells, or of all."""
    listed = re.findall(r'X\("(\w+)", (\w+)\)', (ROOT / "csrc/cells/cells.h").read_text())
    forms = [form for name, form in listed if not cells or name in cells]
    sources = []
    for type_ in ("float", "double", "Half", "BFloat16"):
        source = folder / f"{type_}.{suffix}"
        text = '#include "cuda/kernels_of.h"\n\nnamespace fastrnn::cuda {\n'
        for form in forms:
            text += f"template const CellKernels& kernels_of<{form}, {type_}>();\n"
        text += "}\n"
        if not source.exists() or source.read_text() != text:
            source.write_text(text)
        sources.append(source)
    return sources


def register_mm_of_16_bits_to_float32() -> None:
    """What torch has for CUDA alone."""

    @torch.library.impl("aten::mm.dtype_out", "CPU")
    def mm(a: Tensor, b: Tensor, out_dtype: torch.dtype, *, out: Tensor) -> Tensor:
        assert out.dtype == out_dtype == torch.float32
        return torch.mm(a.float(), b.float(), out=out)


def configure(
    simulation: ModuleType,
    seed: int = 0,
    resident: int = 132,
    step_limit: int = 10**8,
    arch: int = ARCHITECTURE,
) -> None:
    simulation.configure(seed, resident, step_limit, arch)
