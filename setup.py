"""Builds the extension modules; everything else stands in pyproject.toml."""

import sys
import sysconfig
from glob import glob
from importlib.util import find_spec

from setuptools import setup

# pip builds in an environment of its own, which hides the torch that is installed where fastrnn is
# going to be. Look there, behind what the build environment itself brings.
if find_spec("torch") is None:
    sys.path.append(sysconfig.get_paths()["purelib"])
have_torch = find_spec("torch") is not None

# The oldest torch whose stable ABI has all that the sources use; the binary runs on it and later.
TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"


def build() -> dict:
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    flags = ["-O3", "-g0", "-std=c++20", "-Wall", "-Wno-unknown-pragmas", "-fvisibility=hidden"]
    cpu = CppExtension(
        "fastrnn._C",
        sources=["csrc/ops.cpp", *sorted(glob("csrc/cpu/*.cpp"))],
        depends=glob("csrc/**/*.h", recursive=True),
        extra_compile_args={"cxx": [*flags, TARGET]},
        py_limited_api=True,
    )
    return {"ext_modules": [cpu], "cmdclass": {"build_ext": BuildExtension}}


setup(
    setup_requires=[] if have_torch else ["torch>=2.11"],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
    **(build() if have_torch else {}),
)
