"""The package as it is imported and installed."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch

import fastrnn
from fastrnn import conversion, functional, modules, ops, quantization, reference

ROOT = Path(__file__).parents[1]
PUBLIC = [fastrnn, conversion, functional, modules, ops, quantization, reference]


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


def twin_of(name: str) -> type[torch.nn.Module]:
    """What torch.nn does not have has GRU's arguments."""
    return getattr(torch.nn, re.sub(r"MUT\d", "GRU", name))


@pytest.mark.parametrize("name", modules.__all__)
def test_signatures_are_torchs(name: str) -> None:
    """What a layer's forward takes beyond them is by keyword only."""
    ours = inspect.signature(getattr(fastrnn, name).forward).parameters
    found = [n for n, p in ours.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert found == list(inspect.signature(twin_of(name).forward).parameters)
    more = [] if name.endswith("Cell") else ["lengths", "resets", "reset_to", "return_states"]
    assert list(ours) == found + more


@pytest.mark.skipif(sys.version_info < (3, 11), reason="typing.get_overloads is of Python 3.11")
@pytest.mark.parametrize("name", modules.__all__)
def test_constructors_are_torchs(name: str) -> None:
    """Names, order, defaults and types are those that torch.nn declares. Beside them there are
    options by keyword, and proj_size, which torch.nn takes at that place without saying so."""
    init = twin_of(name).__init__
    theirs = next(iter(typing.get_overloads(init)), init)
    expected, hints = dict(inspect.signature(theirs).parameters), typing.get_type_hints(theirs)
    ours = getattr(fastrnn, name).__init__
    found, own_hints = dict(inspect.signature(ours).parameters), typing.get_type_hints(ours)
    kinds = {p.kind for p in found.values()}
    assert not kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    positional = [n for n, p in found.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert [n for n in positional if n in expected or n != "proj_size"] == list(expected)
    for key, parameter in expected.items():
        assert repr(found[key].default) == repr(parameter.default), key
        assert own_hints.get(key) == hints.get(key, own_hints.get(key)), key
    assert ours is init or set(found) - {"self"} <= set(own_hints)


@pytest.mark.parametrize("name", modules.__all__)
def test_skip_init(name: str) -> None:
    made = torch.nn.utils.skip_init(getattr(fastrnn, name), 3, 4, dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in made.parameters()} == {("cpu", torch.float64)}


def test_forward_is_typed() -> None:
    """Its overloads say what comes out of return_states and of a packed batch."""
    if sys.version_info < (3, 11):
        pytest.skip("typing.get_overloads is of Python 3.11")
    overloads = typing.get_overloads(fastrnn.LSTM.forward)
    hints = [typing.get_type_hints(o) for o in overloads]
    literals = [h.get("return_states") for h in hints]
    assert literals == [typing.Literal[False], None, typing.Literal[True]]
    assert [len(typing.get_args(h["return"])) for h in hints] == [2, 2, 3]
    assert hints[1]["input"] is torch.nn.utils.rnn.PackedSequence
    assert hints[1]["return"].__args__[0] is torch.nn.utils.rnn.PackedSequence


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
