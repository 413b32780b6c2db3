"""Turns the PTX that nvcc makes of the kernels into C++ for the simulation (see ptx.h).

Knows the instructions that the kernels use, and refuses any other.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # as in setup.py
REGISTERS = {"pred": "bool", "b16": "u16", "b32": "u32", "f32": "u32", "b64": "u64", "f64": "u64"}
SPECIAL = {
    "%tid.x": "simulation::self().thread",
    "%ctaid.x": "simulation::block().index.x",
    "%ctaid.y": "simulation::block().index.y",
    "%ntid.x": "simulation::machine().block.x",
    "%nctaid.x": "simulation::machine().grid.x",
}
# Its two halves, which make no sense apart from each other here.
CLUSTER_BARRIER = "barrier.cluster.arrive.release.aligned + wait.acquire"
SPACES = {"global": "Global", "param": "Param", "shared": "Shared"}


def operands_of(text: str) -> list[str]:
    """Splits at the commas outside of braces and brackets."""
    return [part.strip() for part in re.split(r",(?![^{\[]*[}\]])", text) if part.strip()]


def value(operand: str) -> str:
    """A register or a constant, as bits."""
    if operand in SPECIAL:
        return f"u32({SPECIAL[operand]})"
    if match := re.fullmatch(r"0[fF]([0-9A-Fa-f]{8})|0[dD]([0-9A-Fa-f]{16})", operand):
        return f"0x{match[1]}u" if match[1] else f"0x{match[2]}ull"
    if re.fullmatch(r"-?\d+", operand):
        return "u64(INT64_MIN)" if operand == str(-(2**63)) else f"u64({operand}ll)"
    if re.fullmatch(r"0x[0-9A-Fa-f]+", operand):
        return f"u64({operand}ull)"
    if re.fullmatch(r"!?%?[a-z_]\w*", operand):
        return operand.replace("%", "_")  # %f32 is no type
    raise ValueError(f"operand {operand}")


def registers_of(operand: str) -> list[str]:
    """The registers of {a, b}, or the one there is."""
    return [value(part) for part in operands_of(operand.strip("{}"))]


def address(operand: str) -> str:
    base, _, offset = operand.strip("[] ").partition("+")
    return f"{value(base)} + {value(offset)}" if offset else value(base)


def mov(type_: str, to: str, source: str) -> str:
    if to.startswith("{"):  # into its parts
        registers = registers_of(to)
        bits = int(type_[1:]) // len(registers)
        return " ".join(f"{r} = {value(source)} >> {bits * i};" for i, r in enumerate(registers))
    if source.startswith("{"):
        low, high = registers_of(source)
        wide = f"u{type_[1:]}"
        return f"{value(to)} = {wide}({low}) | {wide}({high}) << {int(type_[1:]) // 2};"
    if type_ == "pred":
        return f"{value(to)} = {value(source)};"
    return f"{value(to)} = Bits<{type_}>({value(source)});"


def memory(parts: list[str], args: list[str]) -> str:
    load, type_ = parts[0] == "ld", parts[-1]
    place, registers = (args[1], args[0]) if load else (args[0], args[1])
    space = f"{SPACES[parts[1]]}, {type_}"
    listed = ", ".join(registers_of(registers))
    return f"{'load' if load else 'store'}<{space}>({address(place)}, {listed});"


def mma(parts: list[str], args: list[str]) -> str:
    shape, *layout, d, a, b, c = parts[3:]
    known = {"m16n8k16": ("f16", "bf16"), "m16n8k8": ("tf32",)}[shape]
    if layout != ["row", "col"] or d != "f32" or c != "f32" or a != b or a not in known:
        raise ValueError(f"instruction {'.'.join(parts)}")
    type_ = "f32" if a == "tf32" else a
    a, b, c = (", ".join(registers_of(arg)) for arg in args[1:])
    result = " ".join(f"{register} = d[{i}];" for i, register in enumerate(registers_of(args[0])))
    return f"{{ u32 d[4]; mma_sync<{type_}>(d, {{{a}}}, {{{b}}}, {{{c}}}); {result} }}"


def call(name: str, args: list[str]) -> str:
    return f"{value(args[0])} = {name}({', '.join(value(arg) for arg in args[1:])});"


# By the whole instruction.
WHOLE = {
    "bar.sync 0": "meet(simulation::block().barrier);",
    "bar.warp.sync -1": "meet(simulation::warp());",
    CLUSTER_BARRIER: "meet(*simulation::block().cluster_barrier);",
    "fence.acq_rel.gpu": "fence();",
    "fence.mbarrier_init.release.cluster": "",  # a cluster barrier follows
    "ret": "return;",
    "trap": 'fail("trap", 0);',
}
# By its name.
EXACT: dict[str, Callable[[list[str]], str]] = {
    "bra": lambda args: f"goto {args[0].strip('$')};",
    "bra.uni": lambda args: f"goto {args[0].strip('$')};",
    "cvta.to.global.u64": lambda args: f"{value(args[0])} = {value(args[1])};",
    "bfi.b32": lambda args: call("bfi", args),
    "prmt.b32": lambda args: call("prmt", args),
    "cvt.rna.tf32.f32": lambda args: call("cvt_rna_tf32", args),
    "cvt.sat.f32.f32": lambda args: call("cvt_sat", args),
    "cvt.rni.f32.f32": lambda args: call("cvt_rni", args),
    "ex2.approx.ftz.f32": lambda args: call("ex2_approx_ftz", args),
    "rcp.approx.ftz.f32": lambda args: call("rcp_approx_ftz_f32", args),
    "rcp.approx.ftz.f64": lambda args: call("rcp_approx_ftz_f64", args),
    "mapa.shared::cluster.u32": lambda args: call("mapa", args),
    "shfl.sync.bfly.b32": lambda args: (
        call("shfl_bfly", [args[0].split("|")[0], *args[1:]])
        + f" {value(args[0].split('|')[1])} = true;"
    ),
    "not.pred": lambda args: f"{value(args[0])} = !{value(args[1])};",
    "ld.acquire.gpu.u32": lambda args: f"{value(args[0])} = ld_acquire({address(args[1])});",
    "ld.global.cg.v4.u32": lambda args: memory(["ld", "global", "u32"], args),
    "st.relaxed.gpu.u32": lambda args: f"st_relaxed({address(args[0])}, {value(args[1])});",
    "mbarrier.init.shared::cta.b64": lambda args: (
        f"mbarrier_init({address(args[0])}, {value(args[1])});"
    ),
    "mbarrier.arrive.expect_tx.shared::cta.b64": lambda args: (
        f"mbarrier_arrive_expect_tx({address(args[1])}, {value(args[2])});"
    ),
    "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64": lambda args: (
        f"{value(args[0])} = mbarrier_try_wait_parity({address(args[1])}, {value(args[2])});"
    ),
    "st.async.shared::cluster.mbarrier::complete_tx::bytes.u32": lambda args: (
        f"st_async({address(args[0])}, {value(args[1])}, {address(args[2])});"
    ),
}
# What C++ has a template for, by the operation and the types that it is known to be right for.
ARITHMETIC = {
    **dict.fromkeys(("add", "sub"), ("s32", "s64", "f32", "f64")),
    **dict.fromkeys(("mul", "fma.rn", "rcp.rn", "copysign"), ("f32", "f64")),
    "neg": ("s32", "f32", "f64"),
    **dict.fromkeys(("add.rn",), ("f64",)),
    **dict.fromkeys(("abs", "fma.rm"), ("f32",)),
    **dict.fromkeys(("min", "max", "mul.lo"), ("s32", "s64")),
    **dict.fromkeys(("div", "rem"), ("s32", "u32", "s64", "u64")),
    **dict.fromkeys(("and", "or", "xor", "not", "shl"), ("b16", "b32", "b64")),
    "shr": ("s32", "u32", "s64", "u64"),
    "mul.wide": ("s32", "u32"),
    "mad.lo": ("s32",),
    "selp": ("b16", "u16", "b32", "u32", "f32", "b64", "u64", "f64"),
    **{f"setp.{c}": ("b16", "s16", "b32", "s32", "s64", "f32", "f64") for c in ("eq", "ne")},
    **{f"setp.{c}": ("s32", "u32", "s64", "u64", "f32", "f64") for c in ("lt", "le", "gt", "ge")},
    **{f"setp.{c}": ("f32", "f64") for c in ("neu", "ltu", "leu", "gtu", "geu")},
}
CONVERSIONS = {
    *("cvt.s64.s32", "cvt.u64.u32", "cvt.u32.u64", "cvt.u16.u32", "cvt.u16.u64"),
    *("cvt.f64.f32", "cvt.f32.f16", "cvt.f32.bf16"),
    *("cvt.rn.f32.f64", "cvt.rn.f16.f32", "cvt.rn.bf16.f32"),
}
LOGIC = {"and.pred": " && ", "or.pred": " || ", "xor.pred": " != "}


def instruction(text: str) -> str:
    name, _, rest = text.partition(" ")
    args = operands_of(rest)
    parts = name.split(".")
    head, type_ = ".".join(parts[:-1]), parts[-1]
    if name in EXACT:
        return EXACT[name](args)
    if text in WHOLE:
        return WHOLE[text]
    if parts[0] == "mov":
        return mov(type_, *args)
    if re.fullmatch(r"(ld\.(param|global|shared)|st\.(global|shared))(\.v[24])?\.\w+", name):
        return memory(parts, args)
    if parts[0] == "mma":
        return mma(parts, args)
    if name in CONVERSIONS:
        return call(f"cvt<{parts[-2]}, {type_}>", args)
    if name in LOGIC:
        to, *sources = map(value, args)
        return f"{to} = {LOGIC[name].join(sources)};"
    if type_ in ARITHMETIC.get(head, ()):
        operation = head.removesuffix(".lo") if head == "mul.lo" else head.removesuffix(".rn")
        return call(f"{operation.replace('.', '_')}_<{type_}>", args)
    raise ValueError(f"instruction {text}")


def statements(body: str) -> Iterator[str]:
    """Labels with their colon, braces of scopes, and what ends in a semicolon, without it."""
    body = re.sub(r"//[^\n]*", "", body)
    halves = (
        r"barrier\.cluster\.arrive\.release\.aligned;\s*barrier\.cluster\.wait\.acquire\.aligned;"
    )
    body = re.sub(halves, f"{CLUSTER_BARRIER};", body)
    while body := body.strip():
        if body[0] in "{}":
            yield body[0]
            body = body[1:]
        elif label := re.match(r"\$?\w+:", body):
            yield label[0].strip("$")
            body = body[label.end() :]
        else:
            text, _, body = body.partition(";")
            yield " ".join(text.split())


def definition(name: str, body: str) -> str:
    lines = [f"void {name}(u64 _params) {{"]
    for text in statements(body.replace(f"{name}_param_0", "%params")):
        if text in "{}" or text.endswith(":"):
            lines.append(text if text in "{}" else f"{text};")
        elif match := re.fullmatch(r"\.reg \.(\w+) (.*)", text):
            for names in operands_of(match[2]):
                prefix, _, count = names.strip(">").partition("<")
                prefix = value(prefix)
                listed = [f"{prefix}{i}" for i in range(int(count))] if count else [prefix]
                lines.append(f"{REGISTERS[match[1]]} {', '.join(listed)};")
        elif text.startswith(".pragma"):
            continue
        else:
            match = re.fullmatch(r"(?:@(!?)(%\w+) )?(.*)", text)
            line = instruction(match[3])
            lines.append(f"if ({match[1]}{value(match[2])}) {{ {line} }}" if match[2] else line)
    lines += ["}", f'const Registration registered_{name}("{name}", {name});']
    return "\n".join(lines)


def translate(ptx: str) -> list[str]:
    """A C++ source for each few kernels of a PTX module, which registers them by their names."""
    for shared in re.findall(r"\.extern \.shared [^;]* (\w+)\[\];", ptx):
        ptx = re.sub(rf"\b{shared}\b", "kSharedStart", ptx)
    kernels = re.findall(r"^\.visible \.entry (\w+)\(.*?^\)[^{]*^{\n(.*?)^}$", ptx, re.S | re.M)
    if len(kernels) != ptx.count(".entry"):
        raise ValueError("a kernel that is not understood")
    functions = [definition(name, body) for name, body in kernels]
    head, end = '#include "ptx.h"\n\nnamespace ptx {\nnamespace {', "}\n}\n"
    few = 6
    return [
        "\n\n".join([head, *functions[i : i + few], end]) for i in range(0, len(functions), few)
    ]


def compile_kernels(
    source: Path, folder: Path, architecture: str, includes: list[str]
) -> list[str]:
    """Compiles a CUDA source for a GPU such as "90"; the paths of C++ sources of its kernels."""
    ptx = folder / f"{source.stem}.ptx"
    nvcc = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin/nvcc"
    command = [nvcc, "-x", "cu", "-std=c++20", "-O3", f"-arch=compute_{architecture}", "-ptx"]
    command += ["-DUSE_CUDA", TARGET]
    command += [*(f"-I{folder}" for folder in includes), source, "-o", ptx]
    subprocess.run(command, check=True)
    paths = []
    for i, text in enumerate(translate(ptx.read_text())):
        path = folder / f"{source.stem}_{i}.ptx.cpp"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        paths.append(str(path))
    return paths
