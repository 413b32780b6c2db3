"""Jagged NestedTensors as padded batches, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Jagged:
    """A NestedTensor [B, T, I] with rows of different T, and where its steps lie when padded.

    Raises:
        RuntimeError: its layout is not torch.jagged.
    """

    def __init__(self, nested: Tensor, batch_first: bool) -> None:
        if nested.layout != torch.jagged:
            raise RuntimeError(
                f"a NestedTensor must be of layout torch.jagged, got {nested.layout}"
            )
        dense: Any = nested.contiguous()  # without holes between rows
        self._offsets, values = dense.offsets(), dense.values()
        self.lengths: Tensor = self._offsets.diff()  # [B]
        count, device = values.shape[0], self._offsets.device
        batch = self.lengths.shape[0]
        rows = torch.arange(batch, device=device)
        rows = torch.repeat_interleave(rows, self.lengths, output_size=count)
        times = torch.arange(count, device=device) - self._offsets[rows]
        self._places = (rows, times) if batch_first else (times, rows)
        # torch may know the longest row; asking the offsets would break a compiled graph.
        self._longest = getattr(dense, "_maybe_max_seqlen", None)
        if self._longest is None and not torch.compiler.is_compiling():
            self._longest = int(self.lengths.max())
        steps = count if self._longest is None else self._longest
        self._shape = (batch, steps) if batch_first else (steps, batch)
        self.x: Tensor = self.padded(values)

    def padded(self, values: Tensor) -> Tensor:
        """Pads values of all steps, row after row: [T, B, ...], or [B, T, ...] with batch_first."""
        padded = values.new_zeros(*self._shape, *values.shape[1:])
        return padded.index_put(self._places, values)

    def nested(self, padded: Tensor) -> Tensor:
        """The inverse, as a NestedTensor with the same rows as the one given."""
        return torch.nested.nested_tensor_from_jagged(
            padded[self._places], self._offsets, max_seqlen=self._longest
        )
