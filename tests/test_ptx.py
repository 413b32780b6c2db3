"""Whether the PTX that runs in the simulation shows what is wrong with it (tests/ptx.sh runs the
kernels so). The kernels here are written by hand, for two CTAs of 64 threads, one cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import ptx
import pytest
from simulated_cuda import ROOT
from torch.utils import cpp_extension

START = """
    mov.u32 %tid, %tid.x;
    mov.u32 %cta, %ctaid.x;
    mov.u32 %bar, memory;
    shl.b32 %r0, %tid, 2;
    add.s32 %own, %bar, %r0;
    ld.param.u64 %out, [NAME_param_0];
    mul.wide.u32 %mine, %cta, 256;
    cvt.u64.u32 %theirs, %r0;
    add.s64 %mine, %mine, %theirs;
    xor.b64 %theirs, %mine, 256;
    add.s64 %mine, %mine, %out;
    add.s64 %theirs, %theirs, %out;
"""
# Each thread has a word in global memory, and so has the same thread of the other CTA.
STORE, LOAD = "st.global.u32 [%mine], 1;", "ld.global.u32 %r3, [%theirs];"
CLUSTER = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"
# Each thread of a CTA reads what its neighbour stores.
NEIGHBOURS = """
    st.shared.u32 [%own], %tid;
    {between}
    xor.b32 %r0, %tid, 1;
    shl.b32 %r0, %r0, 2;
    add.s32 %r0, %r0, %bar;
    ld.shared.u32 %r0, [%r0];
"""
# CTA 0 stores a value and raises a flag, which CTA 1 waits for.
FLAG = """
    setp.ne.s32 %p0, %tid, 0;
    @%p0 bra $END;
    setp.eq.s32 %p0, %cta, 1;
    @%p0 bra $WAIT;
    st.global.u32 [%out], 7;
    {fence}
    st.relaxed.gpu.u32 [%out+4], 1;
    bra $END;
$WAIT:
    ld.acquire.gpu.u32 %r0, [%out+4];
    setp.eq.s32 %p0, %r0, 0;
    @%p0 bra $WAIT;
    ld.global.u32 %r0, [%out];
$END:
"""


def message(
    bytes: int = 256,
    before: str = "",
    after: str = "",
    waits_for: int = 256,
    end: str = "",
) -> str:
    """Each thread sends a word to the other CTA, counted by the mbarrier at 256, and another one,
    counted by the one at 264."""
    return f"""
    setp.ne.s32 %p0, %tid, 0;
    @%p0 bra $READY;
    mbarrier.init.shared::cta.b64 [%bar+256], 1;
    mbarrier.init.shared::cta.b64 [%bar+264], 1;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar+256], {bytes};
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar+264], 256;
$READY:
    {CLUSTER}
    xor.b32 %r0, %cta, 1;
    mapa.shared::cluster.u32 %r1, %own, %r0;
    mapa.shared::cluster.u32 %r2, %bar, %r0;
    {before}
    st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r1], %tid, [%r2+256];
    st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r1+512], %tid, [%r2+264];
    {after}
$WAIT:
    mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p0, [%bar+{waits_for}], 0;
    @!%p0 bra $WAIT;
    ld.shared.u32 %r0, [%own];
    {end}
    {CLUSTER}
"""


# By name: what the threads do, and how the launch ends.
PROBES = {
    "with_barrier": (NEIGHBOURS.format(between="bar.sync 0;"), "ok"),
    "no_barrier": (NEIGHBOURS.format(between=""), "a data race: "),
    "warp_barrier": (NEIGHBOURS.format(between="bar.warp.sync -1;"), "ok"),
    "write_after_read": (LOAD + STORE, "a data race: "),
    "barriers_of_ctas": (f"{STORE} bar.sync 0; {LOAD}", "a data race: "),
    "barrier_of_cluster": (STORE + CLUSTER + LOAD, "ok"),
    "all_write": ("st.global.u32 [%out], %tid;", "a data race: a write after a write"),
    "with_fence": (FLAG.format(fence="fence.acq_rel.gpu;"), "ok"),
    "no_fence": (FLAG.format(fence=""), "a data race: a read after a write"),
    "message_waited_for": (message(), "ok"),
    "message_read_early": (message(after="ld.shared.u32 %r0, [%own];"), "a data race: "),
    "message_elsewhere": (message(waits_for=264), "a data race: "),
    "message_too_short": (message(bytes=260), "no end"),
    "message_over_memory": (message(end="st.shared.u32 [%bar+256], 0;"), "a data race: "),
    # A message vouches for itself, and not for its sender, but for what that had behind a barrier.
    "store_before_message": (message(before=STORE, end=LOAD), "a data race: "),
    "store_after_message": (message(after=STORE, end=LOAD), "a data race: "),
    "store_and_barrier": (message(before=STORE + "bar.sync 0;", end=LOAD), "ok"),
    "misaligned": ("ld.global.v2.u32 {%r0, %r1}, [%out+4];", "a misaligned access"),
    "beyond": ("st.shared.u32 [%own+1024], %tid;", "an access beyond the shared memory"),
}
# What %r0 is after an instruction, by the PTX ISA.
VALUES = {
    "shr.s32 %r0, -8, 40;": 0xFFFFFFFF,
    "shr.u32 %r0, -8, 40;": 0,
    "shl.b32 %r0, 1, 32;": 0,
    "div.s32 %r0, -7, 2;": 0xFFFFFFFD,
    "rem.s32 %r0, -7, 2;": 0xFFFFFFFF,
    "bfi.b32 %r0, 5, -1, 8, 4;": 0xFFFFF5FF,
    "prmt.b32 %r0, 0x11223344, 0x55667788, 0x5410;": 0x77883344,
    "cvt.sat.f32.f32 %r0, 0f7FC00000;": 0,
    "cvt.rna.tf32.f32 %r0, 0f3F801000;": 0x3F802000,
    "cvt.rni.f32.f32 %r0, 0f40200000;": 0x40000000,
    "copysign.f32 %r0, 0fBF800000, 0f40000000;": 0xC0000000,
    "fma.rm.f32 %r0, 0f3F800001, 0f3F800001, 0f00000000;": 0x3F800002,
    "fma.rm.f32 %r0, 0fBF800001, 0f3F800001, 0f00000000;": 0xBF800003,
    "ex2.approx.ftz.f32 %r0, 0f40400000;": 0x41000000,
    "rcp.approx.ftz.f32 %r0, 0f7F800000;": 0,
    "setp.gt.f32 %p0, 0f7FC00000, 0f00000000; selp.b32 %r0, 1, 0, %p0;": 0,
    "setp.gtu.f32 %p0, 0f7FC00000, 0f00000000; selp.b32 %r0, 1, 0, %p0;": 1,
    "setp.ne.f32 %p0, 0f7FC00000, 0f7FC00000; selp.b32 %r0, 1, 0, %p0;": 0,
    "setp.neu.f32 %p0, 0f7FC00000, 0f7FC00000; selp.b32 %r0, 1, 0, %p0;": 1,
    "mul.wide.s32 %mine, -2, 3; shr.u64 %mine, %mine, 32; cvt.u32.u64 %r0, %mine;": 0xFFFFFFFF,
    "{ .reg .b16 %h; cvt.rn.bf16.f32 %h, 0f3F808000; mov.b32 %r0, {%h, %h}; }": 0x3F803F80,
    "{ .reg .b16 %l, %h; mov.b32 {%l, %h}, 0x12345678; mov.b32 %r0, {%h, %l}; }": 0x56781234,
}
PROGRAM = """
int main(int, char** arguments) {
  alignas(16) static uint32_t out[128] = {};
  static const uint64_t params[] = {reinterpret_cast<uint64_t>(out)};
  simulation::machine().step_limit = 100000;
  try {
    const auto kernel = simulation::machine().compiled.at(arguments[1]);
    simulation::run({2}, {64}, 1024, 2, [=] { kernel(reinterpret_cast<uint64_t>(params)); });
    puts("ok");
    for (uint32_t word : out) printf("%u\\n", word);
  } catch (const std::exception& error) {
    puts(error.what());
  }
}
"""


def entry(name: str, body: str) -> str:
    return (
        f".visible .entry {name}(\n\t.param .u64 {name}_param_0\n)\n{{\n"
        ".reg .pred %p<2>; .reg .b32 %r<4>, %tid, %cta, %own, %bar;\n"
        ".reg .b64 %out, %mine, %theirs;\n"
        f"{START.replace('NAME', name)}{body}\n\tret;\n}}\n"
    )


def values() -> str:
    """By one thread, one after the other."""
    lines = (f"{line} st.global.u32 [%out+{4 * i}], %r0;" for i, line in enumerate(VALUES))
    return "or.b32 %r0, %tid, %cta; setp.ne.s32 %p1, %r0, 0; @%p1 bra $END;" + " ".join(
        [*lines, "$END:"]
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    folder = tmp_path_factory.mktemp("ptx")
    memory = ".extern .shared .align 16 .b8 memory[];\n"
    bodies = {name: body for name, (body, _) in PROBES.items()} | {"values": values()}
    kernels = memory + "".join(entry(name, body) for name, body in bodies.items())
    (folder / "probes.cpp").write_text("\n".join([*ptx.translate(kernels), PROGRAM]))
    includes = [*cpp_extension.include_paths(), ROOT / "csrc", ROOT / "tests"]
    command = ["g++", "-std=c++20", "-w", "-fwrapv", "-DFRNN_CUDA_SIMULATION", ptx.TARGET]
    command += [*(f"-I{folder}" for folder in includes), "probes.cpp", "-o", "probes", "-ldl"]
    subprocess.run(command, check=True, cwd=folder)

    def launch(name: str) -> str:
        command = [folder / "probes", name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return launch


@pytest.mark.parametrize("name", PROBES)
def test_what_a_kernel_does_wrong_is_seen(run: Callable[[str], str], name: str) -> None:
    assert run(name).startswith(PROBES[name][1])


def test_values(run: Callable[[str], str]) -> None:
    found = [int(word) for word in run("values").split()[1:]]
    assert dict(zip(VALUES, found, strict=False)) == VALUES


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("wgmma.fence.sync.aligned;", "instruction wgmma"),
        ("ld.volatile.global.u32 %r0, [%out];", "instruction ld.volatile"),
        ("bar.sync 1, 64;", "instruction bar.sync 1"),
        ("barrier.cluster.arrive.release.aligned;", "instruction barrier.cluster.arrive"),
        ("max.f32 %r0, %r0, %r0;", "instruction max.f32"),
        ("mov.u32 %r0, $L;", "operand"),
    ],
)
def test_an_unknown_instruction_is_refused(body: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        ptx.translate(entry("unknown", body))
