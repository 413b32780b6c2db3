"""Runs a GRU over audio frames as they come, and says how long each of them takes."""

import time

import torch
from torch import Tensor, nn

import fastrnn

RATE, FRAME = 16_000, 160  # samples in a second and in a frame, which lasts 10 ms
FRAME_US = FRAME / RATE * 1e6


class Enhancer(nn.Module):
    """A frame of samples in, a frame out: [B, FRAME], or several of them: [T, B, FRAME]."""

    def __init__(self, package: object) -> None:
        super().__init__()
        self.into = nn.Linear(FRAME, 128)
        self.lower = package.GRU(128, 256)
        self.upper = package.GRU(256, 256)
        self.out = nn.Linear(256, FRAME)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.lower(self.into(x).tanh())  # the model knows nothing of states
        y, _ = self.upper(y)
        return self.out(y)


torch.manual_seed(0)
frames = torch.randn(400, 1, FRAME)  # four seconds
theirs, ours = Enhancer(nn).eval(), Enhancer(fastrnn).eval()
ours.load_state_dict(theirs.state_dict())
streams = {"torch.nn": fastrnn.Stream(theirs), "fastrnn": fastrnn.Stream(ours)}

outputs = {name: [] for name in streams}
times = {name: [] for name in streams}
for frame in frames:  # [1, FRAME]
    for name, stream in streams.items():  # in turns
        start = time.perf_counter()
        y = stream(frame)
        times[name].append((time.perf_counter() - start) * 1e6)
        outputs[name].append(y)

with torch.no_grad():
    whole = ours(frames)
for name, found in outputs.items():
    torch.testing.assert_close(torch.stack(found), whole, msg=name)
print("frame by frame, both give what the whole gives")

for name, found in times.items():
    took = torch.tensor(found[50:])  # without the first half second
    median, late = took.quantile(0.5), took.quantile(0.99)
    print(
        f"{name:8}  a frame of 10 ms: median {median:4.0f} us, 99th percentile {late:4.0f} us, "
        f"real-time factor {median / FRAME_US:.3f} (99th {late / FRAME_US:.3f})"
    )

layer = fastrnn.GRU(FRAME, 256).eval()  # a layer by itself gives the bits of the whole
stream = fastrnn.Stream(layer)
found = torch.cat([stream(frames[:100]), *(stream(f)[None] for f in frames[100:])])
assert torch.equal(found, layer(frames)[0])
stream.reset()  # another speaker
assert torch.equal(stream(frames[0]), found[0])
print("a layer gives the same bits, in chunks and steps")
