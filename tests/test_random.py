"""Configurations drawn at random: against torch.nn, and against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import (
    CELLS,
    TORCH_CELLS,
    Case,
    assert_equal,
    less_accurate_than_torch,
    run,
    run_torch,
)
from conftest import ISAS
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from test_sequences import arguments, results, scan

import fastrnn
from fastrnn import reference

# The same draws each time; a failure is shown as it was found, for to shrink it takes minutes.
drawn = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)


@st.composite
def cases(draw: st.DrawFn, dtype: torch.dtype, least: int = 1) -> Case:
    sizes = st.integers(least, 40)
    cell, size = draw(st.sampled_from(TORCH_CELLS)), draw(sizes)
    projects = cell == "lstm" and size > 1 and draw(st.booleans())
    return Case(
        cell,
        T=draw(st.integers(1, 12)),
        B=draw(sizes),
        I=draw(sizes),
        H=size,
        layers=draw(st.integers(1, 2)),
        bidirectional=draw(st.booleans()),
        bias=draw(st.booleans()),
        batch_first=draw(st.booleans()),
        proj=draw(st.integers(min(least, size - 1), size - 1)) if projects else 0,
        initial=draw(st.booleans()),
        dtype=dtype,
    )


@given(case=cases(torch.float64))
@settings(drawn, max_examples=50)
def test_float64_equals_torch(case: Case) -> None:
    assert_equal(run(case, fastrnn), run_torch(case))


# The weight gradients of these are sums of a few hundred products, the longest that are not split.
@example(case=Case("gru", 7, 11, 4, 4, layers=2, bias=False, dtype=torch.float32))
@example(case=Case("gru", 12, 21, 4, 16, dtype=torch.float32))
@example(case=Case("lstm", 16, 16, 4, 8, dtype=torch.float32))
@example(case=Case("rnn_tanh", 40, 6, 4, 8, dtype=torch.float32))
@given(case=cases(torch.float32, least=4))
@settings(drawn, max_examples=12)
def test_float32_is_as_accurate_as_torch(case: Case) -> None:
    """Drawn until the smallest tensor has 300 numbers, so that no error is a matter of luck."""
    smallest = min(t.numel() for t in run_torch(case).values())
    worse = less_accurate_than_torch(case, range(-(-300 // smallest)))
    assert not worse, worse


@st.composite
def sequences(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of scan with lengths or batch sizes, and with resets, each or none."""
    steps, batch = draw(st.integers(1, 6)), draw(st.integers(1, 12))
    options = {
        "bidirectional": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "initial": draw(st.booleans()),
        "proj": draw(st.integers(0, 6)),
        "takes_x": draw(st.booleans()),
    }
    lengths = draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))
    cell = draw(st.sampled_from(CELLS))
    if draw(st.booleans()):
        falling = sorted((max(1, n) for n in lengths), reverse=True)
        counts = [sum(n > t for n in falling) for t in range(falling[0])]
        found = arguments(cell, (sum(counts),), batch, **options)
        found["batch_sizes"] = torch.tensor(counts)
        shape = [sum(counts)]
    else:
        found = arguments(cell, (steps, batch), batch, batch_first=draw(st.booleans()), **options)
        shape = list(found["x"].shape[:2])
        if draw(st.booleans()):
            found["lengths"] = torch.tensor(lengths)
    if draw(st.booleans()):
        count = torch.Size(shape).numel()
        bits = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        found["resets"] = torch.tensor(bits).view(shape)
    return found


@given(args=sequences())
@settings(drawn, max_examples=120)
def test_sequences_equal_the_reference(args: dict[str, Any]) -> None:
    expected = results(reference.scan, args)
    for isa in ISAS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FASTRNN_ISA", isa)
            assert_equal(results(scan, args), expected)
