"""Builds the extension modules; everything else stands in pyproject.toml.

FASTRNN_CUDA=1 builds the CUDA kernels or fails, 0 leaves them out; by default they are built where
torch has CUDA and a toolkit is found. TORCH_CUDA_ARCH_LIST says for which GPUs.
"""

import os
import re
import shutil
import subprocess
import sys
from glob import glob
from importlib.util import find_spec
from pathlib import Path

from setuptools import setup


def own_path() -> list[str]:
    """Where this interpreter finds packages, were it not for pip's variables.

    pip builds in an environment of its own, which hides the torch that is installed where fastrnn
    is going to be: in a virtual environment, in the one below it, or in the user's folder.
    """
    hiding = ("PYTHONPATH", "PYTHONNOUSERSITE")
    environment = {name: value for name, value in os.environ.items() if name not in hiding}
    command = [sys.executable, "-c", "import sys; print(*sys.path, sep='\\n')"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return list(filter(None, found.stdout.splitlines()))


if find_spec("torch") is None:  # behind what the build environment itself brings
    sys.path += [folder for folder in own_path() if folder not in sys.path]
have_torch = find_spec("torch") is not None

# The oldest torch whose stable ABI has all that the sources use; the binary runs on it and later.
TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"

# Machine code for one GPU runs on all later ones of its generation; the last one's PTX on all later
# generations.
ARCHITECTURES = ("7.5", "8.0", "9.0", "10.0", "12.0")

CELLS = Path("csrc/cells/cells.h")
TYPES = ("float", "double", "BFloat16", "Half")


def ask(nvcc: Path, option: str) -> str:
    """What the compiler answers; nothing if it does not run."""
    try:
        return subprocess.run([nvcc, option], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def find_toolkit(version: str) -> Path | None:
    """The folder of a CUDA toolkit of torch's major version, with headers.

    nvcc on the path may be a script that calls it.
    """
    from torch.utils import cpp_extension

    candidates = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), cpp_extension.CUDA_HOME]
    if nvcc := shutil.which("nvcc"):
        candidates.append(str(Path(nvcc).resolve().parent.parent))
        with open(nvcc, "rb") as file:
            script = file.read(4096)
        if script.startswith(b"#!"):
            candidates += re.findall(r"(/\S+)/bin/nvcc", script.decode(errors="ignore"))
    candidates.append("/usr/local/cuda")
    for folder in map(Path, filter(None, candidates)):
        if (folder / "bin/nvcc").exists() and (folder / "include/cuda_runtime.h").exists():
            release = re.search(r"release (\d+)\.", ask(folder / "bin/nvcc", "--version"))
            if release and release[1] == version.split(".")[0]:
                return folder
    return None


def with_cuda() -> bool:
    """Whether to build the CUDA kernels; points torch's build tools to the toolkit if so."""
    import torch
    from torch.utils import cpp_extension

    wanted = os.environ.get("FASTRNN_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"FASTRNN_CUDA must be 0 or 1, got {wanted!r}")
    version, toolkit = torch.version.cuda, None
    if wanted == "0":
        missing = "FASTRNN_CUDA=0"
    elif version is None:
        missing = "torch has no CUDA"
    else:
        toolkit = find_toolkit(version)
        missing = "" if toolkit else f"no toolkit was found for torch's CUDA {version}"
    if missing:
        if wanted == "1":
            raise SystemExit(f"FASTRNN_CUDA=1, but {missing}")
        print(f"fastrnn: no CUDA kernels, because: {missing}")
        # Of an earlier build, which would be packed or loaded all the same.
        for stale in [*glob("build/lib*/fastrnn/_cuda*"), *glob("fastrnn/_cuda*.so")]:
            os.remove(stale)
        return False
    cpp_extension.CUDA_HOME = str(toolkit)
    if not torch.cuda.is_available() and "TORCH_CUDA_ARCH_LIST" not in os.environ:
        known = ask(toolkit / "bin/nvcc", "--list-gpu-arch").split()
        names = [a for a in ARCHITECTURES if f"compute_{a.replace('.', '')}" in known]
        os.environ["TORCH_CUDA_ARCH_LIST"] = f"{';'.join(names)}+PTX"
    return True


def kernel_sources() -> list[str]:
    """A source for each cell, so that they compile side by side: reading torch's headers takes as
    long as compiling a type of a cell."""
    folder = Path("build/kernels")
    folder.mkdir(parents=True, exist_ok=True)
    forms: dict[str, list[str]] = {}
    for cell, form in re.findall(r'X\("(\w+)", (\w+)\)', CELLS.read_text()):
        forms.setdefault(cell, []).append(form)
    sources = []
    for cell in forms:
        source = folder / f"{cell}.cu"
        kernels = "".join(
            f"template const CellKernels& kernels_of<{form}, {type_}>();\n"
            for form in forms[cell]
            for type_ in TYPES
        )
        text = '#include "cuda/kernels_of.h"\n\nnamespace fastrnn::cuda {\n' + kernels + "}\n"
        if not source.exists() or source.read_text() != text:
            source.write_text(text)
        sources.append(str(source))
    return sources


def build() -> dict:
    from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

    # Clang fuses a * b + c by itself only where one statement has all of it; GCC always does.
    flags = ["-g0", "-std=c++20", "-Wall", "-Wno-unknown-pragmas", "-fvisibility=hidden"]
    flags.append("-ffp-contract=fast")
    if not re.search(r"(^|\s)-O", os.environ.get("CFLAGS", "")):  # a level given there stands
        flags.insert(0, "-O3")
    headers = glob("csrc/**/*.h", recursive=True)
    modules = [
        CppExtension(
            "fastrnn._C",
            sources=["csrc/ops.cpp", *sorted(glob("csrc/cpu/*.cpp"))],
            depends=headers,
            extra_compile_args={"cxx": [*flags, TARGET]},
            py_limited_api=True,
        )
    ]
    if with_cuda():
        device_flags = ["-O3", "-std=c++20", "-Xcompiler=-fvisibility=hidden", "-Xptxas=-v"]
        sources = glob("csrc/cuda/*.cpp") + glob("csrc/cuda/*.cu")
        modules.append(
            CUDAExtension(
                "fastrnn._cuda",
                sources=[*sorted(sources), *kernel_sources()],
                depends=headers,
                include_dirs=[str(Path("csrc").resolve())],
                extra_compile_args={
                    "cxx": [*flags, "-DUSE_CUDA", TARGET],
                    "nvcc": [*device_flags, "-DUSE_CUDA", TARGET],
                },
                py_limited_api=True,
            )
        )
    return {"ext_modules": modules, "cmdclass": {"build_ext": BuildExtension}}


setup(
    license="Apache-2.0",
    setup_requires=[] if have_torch else ["torch>=2.11"],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    **(build() if have_torch else {}),
)
