"""Programs that others wrote, on torch.nn and on fastrnn: python -m tests.programs [NAME ...]

Each is a script that says at its top what it needs. It runs in an environment of its own, which has
this one's torch and fastrnn, in the repository's root. Results must agree; the seconds of both are
printed as a table, and written where --table says.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from fastrnn._commands.compare import CPU
from fastrnn._commands.machine import Machine

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAMS = {
    path.stem: path for path in sorted(HERE.glob("*.py")) if path.read_text().startswith("# ///")
}


def requirements(program: Path) -> list[str]:
    """What a script's metadata (PEP 723) names."""
    found = re.search(r"^# dependencies = (\[.*\])$", program.read_text(), re.MULTILINE)
    if not found:
        raise ValueError(f"{program} says in no line what it depends on")
    return json.loads(found[1])


def run(program: Path) -> list[dict[str, Any]]:
    """What the program measured, in an environment that is made for it."""
    with TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin/python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        packages = Path(folder) / "lib" / version / "site-packages"
        (packages / "this.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install = [python, "-m", "pip", "install", "-q", *requirements(program)]
        subprocess.run(install, check=True)
        command = [python, "-W", "ignore", program]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, check=True, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
        )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| program | torch.nn, s | fastrnn, s | times as fast | largest difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        plain, fused = row["torch.nn"], row["fastrnn"]
        entries = (row["what"], f"{plain:.2f}", f"{fused:.2f}", f"**{plain / fused:.2f}x**")
        lines.append(f"| {' | '.join(entries)} | {row['difference']:.0e} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.programs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ", ".join(PROGRAMS)
    parser.add_argument("programs", nargs="*", metavar="NAME", help=f"(default: {names})")
    parser.add_argument("--table", type=Path, help="a Markdown file in which the table is replaced")
    given = parser.parse_args()
    if unknown := set(given.programs) - set(PROGRAMS):
        parser.error(f"there is no program {', '.join(sorted(unknown))}; there are {names}")
    rows: list[dict[str, Any]] = []
    for name in given.programs or PROGRAMS:
        print(f"{name} runs", flush=True)
        rows += run(PROGRAMS[name])
    machine = Machine.measure(torch.float32, CPU)
    text = (
        f"{machine.name}, {machine.isa}, {torch.get_num_threads()} threads; {machine.versions}; "
        f"{machine.date}.\n\n{table(rows)}\n"
    )
    print(text)
    if given.table:
        before = given.table.read_text()
        head, mark, _ = before.partition("<!-- table -->\n")
        if not mark:
            raise ValueError(f"{given.table} has no line <!-- table -->")
        given.table.write_text(f"{head}{mark}\n{text}")


if __name__ == "__main__":
    main()
