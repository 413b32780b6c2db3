"""fastrnn.functional by itself: what the modules never ask of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastrnn import functional, reference
from fastrnn.reference import Inputs

SIZE = 4  # of batch, input and hidden units alike, so that a mistaken transposition has a shape


def _weights(count: int) -> list[list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3 * SIZE, SIZE), (3 * SIZE, SIZE), (3 * SIZE,), (3 * SIZE,)]
    return [
        [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
        for _ in range(count)
    ]


@pytest.mark.parametrize("layers", [1, 2])
def test_batch_first_does_not_concern_packed_batches(layers: int) -> None:
    x = torch.randn(SIZE, SIZE, dtype=torch.float64)
    sizes = torch.tensor([3, 1])
    weights = _weights(layers)
    y, last, _ = functional.stack("gru", x, [], weights, batch_sizes=sizes, batch_first=True)
    expected, ends = x, []
    for own in weights:
        expected, (end,), _ = reference.scan(Inputs("gru", expected, [], own, batch_sizes=sizes))
        ends.append(end)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(last[0], torch.cat(ends))


@pytest.mark.parametrize("layers", [1, 2])
def test_a_single_step_has_no_stack(layers: int) -> None:
    with pytest.raises(RuntimeError, match=r"a stack takes .* got \[4, 4\]"):
        functional.stack("gru", torch.ones(SIZE, SIZE).double(), [], _weights(layers))


def test_step_is_a_layer_of_one_step() -> None:
    x, h = torch.randn(2, 3, SIZE, dtype=torch.float64)
    (found,) = functional.step("gru", x, [h], _weights(1)[0])
    y, _, _ = functional.layer("gru", x[None], [h[None]], _weights(1)[0])
    assert torch.equal(found, y[0])


@pytest.mark.parametrize("recorded", [False, True], ids=["plain", "recorded"])
def test_steps_are_there_when_asked_for_and_else_not(recorded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4 * SIZE, SIZE)] * 2
    weights = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    x = torch.randn(5, 3, SIZE, generator=generator, dtype=torch.float64).requires_grad_(recorded)
    out = functional.layer("lstm", x, [], weights, all_states=True)
    _, _, steps = reference.scan(Inputs("lstm", x, [], weights))
    torch.testing.assert_close(out.steps, steps)
    assert functional.layer("lstm", x, [], weights).steps is None
    gru = functional.layer("gru", x, [], _weights(1)[0], all_states=True)
    assert gru.steps == ()

    def by_compiler(x: Tensor) -> bool:
        return functional.layer("lstm", x, [], weights).steps is None

    assert torch.compile(by_compiler, fullgraph=True, backend="aot_eager")(x)


def test_packed_batches_on_meta() -> None:
    x = torch.empty(SIZE, SIZE, device="meta", dtype=torch.float64)
    weights = [[w.to("meta") for w in _weights(1)[0]]]
    y, last, _ = functional.stack("gru", x, [], weights, batch_sizes=torch.tensor([3, 1]))
    assert y.shape == (4, SIZE)
    assert last[0].shape == (1, 3, SIZE)
