"""docs/features.md says of fastrnn what is true."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import fastrnn

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))

import features  # noqa: E402  (docs is on the path by now)

ATTEMPTS = {
    name: attempt for group in features.FEATURES.values() for name, attempt in group.items()
}
ROWS = {
    name: ours
    for name, _, ours in (
        [entry.strip() for entry in line.strip("|").split("|")]
        for line in features.TARGET.read_text("utf-8").splitlines()
        if line.startswith("|")
    )
    if ours not in ("", "fastrnn", "---")
}


def test_rows_are_the_features() -> None:
    assert list(ROWS) == list(ATTEMPTS)


@pytest.mark.parametrize("name", ATTEMPTS)
def test_says_what_fastrnn_can(name: str) -> None:
    assert features.can(ATTEMPTS[name], fastrnn) == ROWS[name]
