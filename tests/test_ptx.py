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
    mov.u32 %own, memory;
    shl.b32 %r0, %tid, 2;
    add.s32 %own, %own, %r0;
    ld.param.u64 %out, [NAME_param_0];
"""
# Each thread of a CTA reads what its neighbour stores.
NEIGHBOURS = """
    st.shared.u32 [%own], %tid;
    {between}
    xor.b32 %r0, %tid, 1;
    shl.b32 %r0, %r0, 2;
    mov.u32 %r1, memory;
    add.s32 %r0, %r0, %r1;
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
# A word for the other CTA, and one from it.
MESSAGE = """
    mov.u32 %bar, memory;
    setp.ne.s32 %p0, %tid, 0;
    @%p0 bra $READY;
    mbarrier.init.shared::cta.b64 [%bar+256], 1;
    mbarrier.arrive.expect_tx.shared::cta.b64 _, [%bar+256], {bytes};
$READY:
    barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
    xor.b32 %r0, %cta, 1;
    mapa.shared::cluster.u32 %r1, %own, %r0;
    add.s32 %r2, %bar, 256;
    mapa.shared::cluster.u32 %r2, %r2, %r0;
    st.async.shared::cluster.mbarrier::complete_tx::bytes.u32 [%r1], %tid, [%r2];
    {early}
$WAIT:
    mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p0, [%bar+256], 0;
    @!%p0 bra $WAIT;
    ld.shared.u32 %r0, [%own];
    barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
"""
PROBES = {
    "with_barrier": (NEIGHBOURS.format(between="bar.sync 0;"), "ok"),
    "no_barrier": (NEIGHBOURS.format(between=""), "a data race: "),
    "warp_barrier": (NEIGHBOURS.format(between="bar.warp.sync -1;"), "ok"),
    "with_fence": (FLAG.format(fence="fence.acq_rel.gpu;"), "ok"),
    "no_fence": (FLAG.format(fence=""), "a data race: a read after a write"),
    "message": (MESSAGE.format(bytes=256, early=""), "ok"),
    "no_wait": (MESSAGE.format(bytes=256, early="ld.shared.u32 %r0, [%own];"), "a data race: "),
    "more_bytes": (MESSAGE.format(bytes=260, early=""), "no end"),
    "all_write": ("st.global.u32 [%out], %tid;", "a data race: a write after a write"),
    "misaligned": ("ld.global.v2.u32 {%r0, %r1}, [%out+4];", "a misaligned access"),
    "beyond": ("st.shared.u32 [%own+512], %tid;", "an access beyond the shared memory"),
}
PROGRAM = """
int main(int, char** arguments) {
  alignas(16) static uint32_t out[64] = {};
  static const uint64_t params[] = {reinterpret_cast<uint64_t>(out)};
  simulation::machine().step_limit = 100000;
  try {
    const auto kernel = simulation::machine().compiled.at(arguments[1]);
    simulation::run({2}, {64}, 512, 2, [=] { kernel(reinterpret_cast<uint64_t>(params)); });
    puts("ok");
  } catch (const std::exception& error) {
    puts(error.what());
  }
}
"""


def entry(name: str, body: str) -> str:
    return (
        f".visible .entry {name}(\n\t.param .u64 {name}_param_0\n)\n{{\n"
        ".reg .pred %p<1>; .reg .b32 %r<4>, %tid, %cta, %own, %bar; .reg .b64 %out;\n"
        f"{START.replace('NAME', name)}{body}\n\tret;\n}}\n"
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    folder = tmp_path_factory.mktemp("ptx")
    memory = ".extern .shared .align 16 .b8 memory[];\n"
    kernels = memory + "".join(entry(name, body) for name, (body, _) in PROBES.items())
    (folder / "probes.cpp").write_text("\n".join([*ptx.translate(kernels), PROGRAM]))
    includes = [*cpp_extension.include_paths(), ROOT / "csrc", ROOT / "tests"]
    command = ["g++", "-std=c++20", "-w", "-fwrapv", "-DFRNN_CUDA_SIMULATION", ptx.TARGET]
    command += [*(f"-I{folder}" for folder in includes), "probes.cpp", "-o", "probes", "-ldl"]
    subprocess.run(command, check=True, cwd=folder)

    def run(name: str) -> str:
        command = [folder / "probes", name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return run


@pytest.mark.parametrize("name", PROBES)
def test_what_a_kernel_does_wrong_is_seen(run: Callable[[str], str], name: str) -> None:
    assert run(name).startswith(PROBES[name][1])


@pytest.mark.parametrize(
    "body",
    ["wgmma.fence.sync.aligned;", "ld.volatile.global.u32 %r0, [%out];", "mov.u32 %r0, $L;"],
)
def test_an_unknown_instruction_is_refused(body: str) -> None:
    with pytest.raises(ValueError):
        ptx.translate(entry("unknown", body))
