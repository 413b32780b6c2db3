"""Calls of a program's functions through its standard input and output: calls.h."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import partial
from io import BytesIO
from subprocess import PIPE, Popen
from types import TracebackType

import numpy as np


class Program:
    """A running program; its functions are attributes."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = Popen(command, stdin=PIPE, stdout=PIPE)

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def __getattr__(self, name: str) -> partial:
        return partial(self._call, name)

    def _call(self, name: str, *arguments: object) -> object:
        call = b"".join(map(_written, (name, *arguments)))
        self._process.stdin.write(struct.pack("<q", len(call)) + call)
        self._process.stdin.flush()
        size = self._process.stdout.read(8)
        if len(size) < 8:
            raise RuntimeError(f"{name} ended the program: {self._process.wait()}")
        answer = self._process.stdout.read(*struct.unpack("<q", size))
        if answer.startswith(b"!"):
            raise RuntimeError(f"{name}: {answer[1:].decode()}")
        return _read(BytesIO(answer))


def _written(value: object) -> bytes:
    array = np.asarray(np.frombuffer(value.encode(), "B") if isinstance(value, str) else value)
    head = array.dtype.char.replace("l", "q").encode() + bytes([array.ndim])
    return head + struct.pack(f"<{array.ndim}q", *array.shape) + array.tobytes()


def _read(answer: BytesIO) -> object:
    letter, count = answer.read(1).decode(), *answer.read(1)
    if letter == "t":
        return tuple(_read(answer) for _ in range(count))
    shape = struct.unpack(f"<{count}q", answer.read(8 * count))
    kind = np.dtype(letter)
    data = answer.read(int(np.prod(shape)) * kind.itemsize)
    array = np.frombuffer(data, kind).reshape(shape).copy()
    return array if count else array.item()
