"""python -m fastrnn demo: a model learns to write Python, in turns with fastrnn and with torch.nn.

Both models start from the same weights and see the same batches, so that their losses fall alike,
and only the clock tells them apart.
"""

from __future__ import annotations

import math
import sysconfig
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .compare import OURS, PEER, PROVIDERS

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

STEPS = 1000
TURN = 10  # steps of one model before it is the other's turn
BATCH, LENGTH, EMBEDDING, HIDDEN = 16, 64, 64, 256
LEARNING_RATE = 5e-3
SYMBOLS = 96  # the characters told apart are the text's most frequent ones
SHORTEST = 10 * LENGTH
SAMPLE, TEMPERATURE, PROMPT = 400, 0.7, "\n\ndef "
PICTURE = Path("fastrnn-demo.png")


class TextError(Exception):
    """The text cannot be learnt from."""


class Model(nn.Module):
    """A character-level language model: one recurrent layer, and the next character's logits."""

    def __init__(self, provider: str, cell: str, symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, EMBEDDING)
        self.layer = PROVIDERS[provider](cell, EMBEDDING, HIDDEN)
        self.head = nn.Linear(HIDDEN, symbols)

    def forward(self, text: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """text: [T, B] of int64. Returns [T, B, symbols] and the last state."""
        y, state = self.layer(self.embedding(text), state)
        return self.head(y), state


class Learner:
    """A model in training, with its losses step by step and the time after each turn."""

    def __init__(self, model: Model, steps: int) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, fused=True)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: min(1, (step + 1) / 50) * _half_cosine(step / steps)
        )
        self.losses: list[float] = []
        self.seconds = [0.0]

    def turn(self, batches: list[Tensor]) -> None:
        """One step for each batch, [T + 1, B]. An interrupted turn leaves no record."""
        losses, start = [], perf_counter()
        for batch in batches:
            logits, _ = self.model(batch[:-1])
            loss = cross_entropy(logits.flatten(0, 1), batch[1:].flatten())
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.item())
        self.losses += losses
        self.seconds.append(self.seconds[-1] + perf_counter() - start)

    @property
    def loss(self) -> float:
        """In nats a character, the mean of the latest steps."""
        return fmean(self.losses[-50:])

    @property
    def rates(self) -> list[float]:
        """Characters a second, turn by turn."""
        turns = range(0, len(self.losses), TURN)
        steps = [min(TURN, len(self.losses) - i) for i in turns]
        times = [end - start for start, end in pairwise(self.seconds)]
        return [n * BATCH * LENGTH / t for n, t in zip(steps, times)]


def run(cell: str, steps: int, path: Path | None, seed: int, device: torch.device) -> None:
    """Trains, writes a sample, and draws the losses.

    Raises:
        TextError: the text cannot be read, or is too short.
    """
    text, symbols = read(path)
    source = path or "the source of Python's standard library"
    print(f"text: {source}, {len(text):,} characters, {len(symbols)} different ones")
    print(f"model: {cell} of {HIDDEN} units; {steps} steps of {BATCH} x {LENGTH} characters")
    text = text.to(device)
    torch.manual_seed(seed)
    models = {name: Model(name, cell, len(symbols)).to(device) for name in (OURS, PEER)}
    models[PEER].load_state_dict(models[OURS].state_dict())
    learners = {name: Learner(model, steps) for name, model in models.items()}
    try:
        train(learners, text, steps)
    except KeyboardInterrupt:
        print("\ninterrupted; this is how far it came", flush=True)
        if not all(learner.losses for learner in learners.values()):
            return
    samples = {name: [] for name in models}
    for _ in range(3):
        for name, model in models.items():
            samples[name].append(write(model, symbols, seed))
    ours, peer = learners[OURS], learners[PEER]
    writing = {name: SAMPLE / median(s for _, s in found) for name, found in samples.items()}
    print(f"\n{OURS} wrote:\n{'-' * 80}\n{samples[OURS][0][0].strip()}\n{'-' * 80}\n")
    print(f"{'':10}{'loss':>8}{'characters/s, training':>26}{'writing':>12}")
    for name, learner in learners.items():
        print(f"{name:10}{learner.loss:8.3f}{median(learner.rates):26,.0f}{writing[name]:12,.0f}")
    training = median(own / theirs for own, theirs in zip(ours.rates, peer.rates))
    faster = f"{training:.2f}x", f"{writing[OURS] / writing[PEER]:.2f}x"
    print(f"{'ratio':10}{'':8}{faster[0]:>26}{faster[1]:>12}\n")
    print(draw(learners))


def read(path: Path | None) -> tuple[Tensor, str]:
    """The text as indices, [N] of uint8, into the characters, which are the second result."""
    if path is None:
        folder = Path(sysconfig.get_paths()["stdlib"])
        files = sorted(folder.glob("*.py"))
        text = "\n".join(file.read_text("utf-8", errors="ignore") for file in files)
        path = folder
    else:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = "it is not UTF-8" if isinstance(error, UnicodeError) else error.strerror
            raise TextError(f"cannot read the text {path}: {reason}") from error
    common = (c for c, _ in Counter(text).most_common() if c.isprintable() or c in "\n\t")
    symbols = "".join(sorted(c for c, _ in zip(common, range(SYMBOLS))))
    index = {c: i for i, c in enumerate(symbols)}
    found = bytearray(index[c] for c in text if c in index)
    if len(found) < SHORTEST:
        raise TextError(
            f"the text in {path} has {len(found)} characters; it takes at least {SHORTEST}"
        )
    return torch.frombuffer(found, dtype=torch.uint8), symbols


def train(learners: Mapping[str, Learner], text: Tensor, steps: int) -> None:
    """Alternates turns of TURN steps, each on the same batches."""
    offsets = torch.arange(LENGTH + 1)[:, None]
    bar = tqdm(total=steps, unit="step") if tqdm else None
    say: Callable[[str], None] = tqdm.write if tqdm else lambda line: print(line, flush=True)
    try:
        for turn, first in enumerate(range(0, steps, TURN)):
            count = min(TURN, steps - first)
            starts = torch.randint(len(text) - LENGTH, (count, 1, BATCH))
            batches = [*text[(starts + offsets).to(text.device)].long()]
            order = list(learners.values())
            for learner in order if turn % 2 == 0 else reversed(order):
                learner.turn(batches)
            if bar is not None:
                bar.update(count)
            if (turn + 1) % max(1, steps // TURN // 10) == 0:
                say(_line(first + count, learners))
    finally:
        if bar is not None:
            bar.close()


@torch.inference_mode()
def write(model: Model, symbols: str, seed: int) -> tuple[str, float]:
    """SAMPLE characters after PROMPT, one step at a time, and the seconds that took."""
    device = model.head.weight.device
    generator = torch.Generator(device).manual_seed(seed)
    start = [symbols.index(c) for c in PROMPT if c in symbols] or [0]
    out, began = list(start), perf_counter()
    logits, state = model(torch.tensor(start, device=device)[:, None])
    for _ in range(SAMPLE):
        chances = (logits[-1] / TEMPERATURE).softmax(-1)
        drawn = torch.multinomial(chances, 1, generator=generator)
        out.append(int(drawn))
        logits, state = model(drawn, state)
    return "".join(symbols[i] for i in out), perf_counter() - began


def draw(learners: Mapping[str, Learner]) -> str:
    """Draws the losses by step and by time; returns what became of it."""
    try:
        import matplotlib
    except ImportError:
        return f"no {PICTURE}: it takes matplotlib, which is not installed"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_step, by_time) = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True)
    looks = {OURS: ("#0072b2", "-", 2.0), PEER: ("#d55e00", "--", 2.0)}
    for name, learner in learners.items():
        color, style, width = looks[name]
        turns = range(0, len(learner.losses), TURN)
        means = [fmean(learner.losses[i : i + TURN]) for i in turns]
        ends = [min(i + TURN, len(learner.losses)) for i in turns]
        look = {"color": color, "linestyle": style, "linewidth": width, "label": name}
        by_step.plot(ends, means, **look)
        by_time.plot(learner.seconds[1 : len(means) + 1], means, **look)
    by_step.set(
        xlabel="steps", ylabel="loss, nats a character", title="the same loss, step by step"
    )
    by_time.set(xlabel="seconds of its own training", title="the same loss, by the clock")
    by_time.legend(frameon=False)
    for axes in (by_step, by_time):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=120)
    return f"the losses are drawn in {PICTURE.resolve()}"


def _half_cosine(done: float) -> float:
    """From 1 down to 0.02 as done goes from 0 to 1."""
    return 0.02 + 0.98 * (1 + math.cos(math.pi * min(done, 1))) / 2


def _line(step: int, learners: Mapping[str, Learner]) -> str:
    parts = (
        f"{name} {learner.loss:.3f}, {median(learner.rates):,.0f} characters/s"
        for name, learner in learners.items()
    )
    return f"step {step}: loss of {'; of '.join(parts)}"
