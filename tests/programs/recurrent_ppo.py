# /// script
# dependencies = ["sb3-contrib"]
# ///
"""sb3-contrib's RecurrentPPO on CartPole: as it is, and with resets= in the place of its loop."""

from __future__ import annotations

from typing import Any

from common import compare
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from torch import Tensor, nn

import fastrnn


def process_sequence(
    features: Tensor, states: tuple[Tensor, Tensor], episode_starts: Tensor, lstm: nn.Module
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """RecurrentActorCriticPolicy._process_sequence, by one call instead of one for each step."""
    sequences = states[0].shape[1]
    x = features.reshape(sequences, -1, lstm.input_size).transpose(0, 1)
    resets = episode_starts.reshape(sequences, -1).transpose(0, 1) != 0
    y, states = lstm(x, states, resets=resets)
    return y.transpose(0, 1).flatten(0, 1), states


def learn(fused: bool, how: Any = None) -> dict[str, Tensor]:
    theirs = RecurrentActorCriticPolicy.__dict__["_process_sequence"]
    if fused and how:
        RecurrentActorCriticPolicy._process_sequence = staticmethod(how)
    try:
        agent = RecurrentPPO(
            "MlpLstmPolicy",
            "CartPole-v1",
            n_steps=128,
            batch_size=128,
            n_epochs=2,
            seed=0,
            device="cpu",
        )
        if fused:
            fastrnn.convert(agent.policy)
            assert fastrnn.report(agent.policy).startswith("2 of 2 ")
        agent.learn(512)
    finally:
        RecurrentActorCriticPolicy._process_sequence = theirs
    return {name: p.detach() for name, p in agent.policy.named_parameters()}


def main() -> None:
    compare("RecurrentPPO: 512 steps of CartPole, converted", learn, atol=2e-4)
    compare(
        "RecurrentPPO: the same, with resets=",
        lambda fused: learn(fused, process_sequence),
        atol=2e-4,
    )


if __name__ == "__main__":
    main()
