"""Runs a GRU over a stream, a step as it comes, and gets what the whole sequence would give."""

import time

import torch

import fastrnn

torch.manual_seed(0)
layer = fastrnn.GRU(40, 256).eval()  # 40 features a frame, as of speech
frames = torch.randn(500, 1, 40)  # [T, B, I]

cell = fastrnn.GRUCell(40, 256).eval()  # a cell takes one step, with the weights of the layer
cell.load_state_dict({name.removesuffix("_l0"): t for name, t in layer.state_dict().items()})

with torch.inference_mode():
    whole, last = layer(frames)

    outputs, state = [], None
    start = time.perf_counter()
    for t in range(len(frames)):
        y, state = layer(frames[t : t + 1], state)  # [1, B, I], and the state [1, B, H]
        outputs.append(y)
    print(f"layer, a step at a time: {(time.perf_counter() - start) / len(frames) * 1e6:.0f} us")

    h = None
    start = time.perf_counter()
    for frame in frames:
        h = cell(frame, h)  # [B, I], and the state [B, H]
    print(f"cell, a step at a time: {(time.perf_counter() - start) / len(frames) * 1e6:.0f} us")

torch.testing.assert_close(torch.cat(outputs), whole)
torch.testing.assert_close(state, last)
torch.testing.assert_close(h, last[0])
print("outputs and last states are those of the whole sequence")
