"""The package as it is imported and installed."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastrnn
from fastrnn import functional, modules, ops, quantization, reference

ROOT = Path(__file__).parents[1]
PUBLIC = [fastrnn, functional, modules, ops, quantization, reference]


def python(*arguments: str, folder: Path) -> str:
    """What a fresh interpreter prints, when it is started in the folder."""
    path = os.pathsep.join(
        [str(Path(fastrnn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    )
    environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=["root", "elsewhere"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return ROOT if request.param == "root" else tmp_path


def test_import_and_run(folder: Path) -> None:
    program = (
        "import fastrnn, torch; y, h = fastrnn.GRU(4, 5)(torch.ones(2, 3, 4)); "
        "print(fastrnn.__version__, tuple(y.shape), tuple(h.shape))"
    )
    found = python("-W", "error", "-c", program, folder=folder)
    assert found == f"{fastrnn.__version__} (2, 3, 5) (1, 3, 5)\n"


def test_info(folder: Path) -> None:
    lines = python("-m", "fastrnn", "info", folder=folder).splitlines()
    assert any("fastrnn" in line and fastrnn.__version__ in line for line in lines)


def test_import_leaves_torch_as_it_was(tmp_path: Path) -> None:
    program = (
        "import torch\n"
        "def state(): return (torch.get_num_threads(), torch.get_default_dtype(), "
        "torch.is_grad_enabled(), torch.get_rng_state().sum().item(), torch.nn.LSTM.forward)\n"
        "before = state()\n"
        "import fastrnn\n"
        "print(state() == before)"
    )
    assert python("-c", program, folder=tmp_path) == "True\n"


def test_version_is_the_installed_one() -> None:
    """Or that of pyproject.toml, where the package is used in place."""
    try:
        version = importlib.metadata.version("fastrnn")
    except importlib.metadata.PackageNotFoundError:
        lines = (ROOT / "pyproject.toml").read_text().splitlines()
        version = next(line.split('"')[1] for line in lines if line.startswith("version = "))
    assert fastrnn.__version__ == version


def test_types_are_declared() -> None:
    assert (Path(fastrnn.__file__).parent / "py.typed").is_file()


def test_all_is_what_is_public() -> None:
    names = ("LSTM", "GRU", "RNN", "MUT1", "MUT2", "MUT3")
    assert set(fastrnn.__all__) >= {name + suffix for name in names for suffix in ("", "Cell")}
    for package in PUBLIC:
        names = getattr(package, "__all__", None)
        if names is None:
            continue
        assert len(set(names)) == len(names)
        for name in names:
            assert hasattr(package, name), name
    assert set(modules.__all__) <= set(fastrnn.__all__)
    star: dict[str, object] = {}
    exec("from fastrnn import *", star)
    assert set(star) - {"__builtins__"} == set(fastrnn.__all__)


def documented() -> list[tuple[str, object]]:
    found = [(package.__name__, package) for package in PUBLIC]
    for package in PUBLIC:
        for name, value in vars(package).items():
            own = str(getattr(value, "__module__", "")).startswith("fastrnn")
            if name.startswith("_") or not own:
                continue
            if inspect.isclass(value) or inspect.isfunction(value):
                found.append((f"{package.__name__}.{name}", value))
            if inspect.isclass(value) and issubclass(value, torch.nn.Module):
                found.append((f"{package.__name__}.{name}.forward", value.forward))
    return found


@pytest.mark.parametrize("value", [v for _, v in documented()], ids=[n for n, _ in documented()])
def test_public_names_are_documented(value: object) -> None:
    text = getattr(value, "__doc__", None) or ""
    # A named tuple without one has its signature for a docstring.
    assert text.strip() and not text.startswith(f"{getattr(value, '__name__', '')}(")


@pytest.mark.parametrize("name", modules.__all__)
def test_signatures_are_torchs(name: str) -> None:
    """What torch.nn does not have has GRU's."""
    twin = re.sub(r"MUT\d", "GRU", name)
    ours, theirs = getattr(fastrnn, name), getattr(torch.nn, twin)
    found, expected = (list(inspect.signature(c.forward).parameters) for c in (ours, theirs))
    assert found == expected


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("yes", "FASTRNN_CUDA must be 0 or 1, got 'yes'"), ("1", "FASTRNN_CUDA=1, but torch has no")],
)
def test_setup_says_why_it_builds_no_cuda_kernels(wanted: str, message: str) -> None:
    program = (
        "import runpy, sys, torch; torch.version.cuda = None; "
        "sys.argv = ['setup.py', '--version']; runpy.run_path('setup.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "FASTRNN_CUDA": wanted},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and message in done.stderr
