"""Sequences of different lengths in one batch: a PackedSequence, as with torch.nn."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import fastrnn

torch.manual_seed(0)
ours = fastrnn.LSTM(24, 48, num_layers=2, bidirectional=True)
theirs = nn.LSTM(24, 48, num_layers=2, bidirectional=True)
ours.load_state_dict(theirs.state_dict())

lengths = [7, 30, 1, 12]  # in any order
sequences = [torch.randn(length, 24) for length in lengths]
packed = pack_sequence(sequences, enforce_sorted=False)

y, (h, c) = ours(packed)
expected, (expected_h, expected_c) = theirs(packed)
torch.testing.assert_close(y.data, expected.data)
torch.testing.assert_close((h, c), (expected_h, expected_c))

padded, found = pad_packed_sequence(y)  # [T, B, 2 * H], [B]
assert found.tolist() == lengths
print(f"{len(lengths)} sequences of {lengths} steps -> {list(padded.shape)}, equal to torch.nn's")

# The backward direction starts at each sequence's own end, as if it were alone.
alone, _ = ours(sequences[0])
torch.testing.assert_close(padded[: lengths[0], 0], alone)
print("a sequence in the batch gives what it gives alone")

y.data.sum().backward()
expected.data.sum().backward()
for (name, own), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
    torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-5, msg=name)
print("and all gradients are equal, too")
