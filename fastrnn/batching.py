"""Where vmap's axis goes: into the batch where all elements have the same weights, into members of
their own where they have not.

Folded into the batch, an element's rows stay neighbours of the same row of the other elements. So
what is sorted by the rows' lengths, such as the values saved for backward, has the axis in one
place, too. Members are scans side by side; all their tensors begin with an axis of members.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from torch import Tensor


class Kind(Enum):
    """What a tensor of a call has for each row of the batch."""

    SEQUENCE = 0  # features for every step, or one number
    STATE = 1  # the features of one moment
    ROW = 2  # its place is the first axis: lengths, values saved
    EDGE = 3  # the features of some moments and both directions
    SIZES = 4  # nothing: it counts rows
    WEIGHT = 5  # nothing


class Fold:
    """vmap's axis, of so many elements, in the batch of a call.

    lead: how many axes come before those that a call has.
    dims: those of x without vmap's and without the leading ones.
    """

    def __init__(self, size: int, lead: int, dims: int, packed: bool, batch_first: bool) -> None:
        self._size = size
        self._axes = {
            Kind.SEQUENCE: lead + (dims == 3 and not batch_first),
            Kind.STATE: lead + (dims == 3 or packed),
            Kind.ROW: lead,
            Kind.EDGE: lead + 2,
        }

    def into(
        self,
        kinds: Iterable[Kind],
        tensors: Iterable[Tensor | None],
        in_dims: Iterable[int | None],
    ) -> list[Tensor | None]:
        """The arguments of the one call."""
        given = zip(kinds, tensors, in_dims, strict=True)
        return [None if t is None else self._into(kind, t, dim) for kind, t, dim in given]

    def _into(self, kind: Kind, t: Tensor, dim: int | None) -> Tensor:
        if kind is Kind.WEIGHT:
            return t
        if kind is Kind.SIZES:
            return t * self._size
        axis = self._axes[kind]
        if dim is None:
            shape = (*t.shape[: axis + 1], self._size, *t.shape[axis + 1 :])
            return t.unsqueeze(axis + 1).expand(shape).flatten(axis, axis + 1)
        return t.movedim(dim, axis + 1).flatten(axis, axis + 1)

    def out_of(
        self, kinds: Sequence[Kind], tensors: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """The results of the call, and where each has vmap's axis."""
        axes = [self._axes[kind] for kind in kinds]
        found = (
            t.unflatten(axis, (t.shape[axis] // self._size, self._size))
            for t, axis in zip(tensors, axes, strict=True)
        )
        return tuple(found), tuple(axis + 1 for axis in axes)


def into_members(
    size: int,
    members: int,
    tensors: Iterable[Tensor | None],
    in_dims: Iterable[int | None],
) -> list[Tensor | None]:
    """Tensors with vmap's axis, of so many elements, as the first one, or before the members that
    there are, of which each element becomes one."""

    def moved(t: Tensor, dim: int | None) -> Tensor:
        t = t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)
        return t.flatten(0, 1) if members else t

    return [None if t is None else moved(t, d) for t, d in zip(tensors, in_dims, strict=True)]


def out_of_members(
    size: int, members: int, tensors: Sequence[Tensor]
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The results of into_members's members, and where each has vmap's axis."""
    found = tuple(t.unflatten(0, (size, members)) if members else t for t in tensors)
    return found, (0,) * len(found)
