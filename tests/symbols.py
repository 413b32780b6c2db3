"""No linker may put AVX code where a machine without AVX runs: python tests/symbols.py FOLDER.

Of a function that several objects have, the linker keeps any one. FOLDER is that of a build, with
the objects of the CPU's instruction sets (x86-64, binutils). Such a function must have the tag of
its own set in its name, or no instruction that only this set has.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

# By the names of their objects: how a mangled name has the tag.
TAGS = {
    "isa_baseline.o": "8Baseline",
    "isa_avx2.o": "4Avx2",
    "isa_avx512.o": "6Avx512",
    "isa_avx512_vnni.o": "10Avx512Vnni",
    "isa_avx512_bf16.o": "10Avx512Bf16",
}


def shared_functions(file: Path) -> set[str]:
    """Those that other objects may have, too."""
    lines = _output("nm", file).splitlines()
    return {name for kind, name in (line.split()[-2:] for line in lines) if kind in "WVu"}


def functions_with_avx(file: Path) -> set[str]:
    """By their first instruction of AVX or later: these begin with v, and those of masks with k."""
    found, name = set(), ""
    for line in _output("objdump", "-d", "--no-show-raw-insn", file).splitlines():
        if head := re.match(r"[0-9a-f]+ <([^>.]+)[^>]*>:", line):  # f.cold is a part of f
            name = head[1]
        elif re.match(r" *[0-9a-f]+:\s+[kv]", line):
            found.add(name)
    return found


def faults(file: Path) -> list[str]:
    """What a linker could take for another set, with the object that it is in."""
    own = TAGS[file.name]
    with_avx, shared = functions_with_avx(file), shared_functions(file)
    if not shared or bool(with_avx) != (file.name != "isa_baseline.o"):
        raise SystemExit(f"{file} is not what it should be")
    others = [tag for tag in TAGS.values() if tag != own]
    wrong = [name for name in sorted(with_avx & shared) if own not in name]
    wrong += [name for name in sorted(shared) if any(tag in name for tag in others)]
    return [f"{file}: {name}" for name in wrong]


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(folder: Path) -> None:
    files = [file for name in TAGS for file in folder.rglob(name)]
    if len(files) != len(TAGS):
        raise SystemExit(f"{folder} has {len(files)} objects of instruction sets, not {len(TAGS)}")
    found = [fault for file in files for fault in faults(file)]
    if found:
        raise SystemExit("\n".join(found))
    print(
        f"{sum(len(shared_functions(file)) for file in files)} shared symbols, none of another set"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
