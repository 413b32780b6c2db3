# /// script
# dependencies = ["resemblyzer", "webrtcvad-wheels", "typing"]
# ///
"""Resemblyzer: the trained speaker encoder in its wheel, 3 layers of LSTM, on 30 s of sound."""

from __future__ import annotations

import numpy as np
import torch
from common import compare
from resemblyzer import VoiceEncoder

import fastrnn


def main() -> None:
    rate, seconds = 16000, 30
    time = np.arange(rate * seconds) / rate
    rng = np.random.default_rng(0)
    sound = np.sin(2 * np.pi * (120 + 40 * np.sin(time)) * time) + 0.1 * rng.standard_normal(
        len(time)
    )
    sound = (0.1 * sound).astype(np.float32)
    encoders = {fused: VoiceEncoder("cpu", verbose=False) for fused in (False, True)}
    fastrnn.convert(encoders[True])
    assert fastrnn.report(encoders[True]).startswith("1 of 1 ")

    def embed(fused: bool) -> dict[str, torch.Tensor]:
        embedding, partials, _ = encoders[fused].embed_utterance(
            sound, return_partials=True, rate=8
        )
        return {"embedding": torch.from_numpy(embedding), "partials": torch.from_numpy(partials)}

    compare("Resemblyzer: an embedding of 30 s of sound, trained weights", embed, atol=1e-5)


if __name__ == "__main__":
    main()
