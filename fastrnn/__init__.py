"""fastrnn: LSTM, GRU, RNN and their variants for PyTorch, fused, with the interface of torch.nn."""

import pkgutil

# When Python runs from the repository's root, this folder shadows the installed package, which is
# the one that has the extension modules: look for them there, too.
__path__ = pkgutil.extend_path(__path__, __name__)

from . import export, flops, functional, keras, onnx  # noqa: F401  (flops registers its formulas)
from .conversion import convert, patched, report, revert
from .modules import (
    GRU,
    LSTM,
    MUT1,
    MUT2,
    MUT3,
    RNN,
    GRUCell,
    LSTMCell,
    MUT1Cell,
    MUT2Cell,
    MUT3Cell,
    RNNCell,
)
from .quantization import quantize_
from .streaming import Stream

__version__ = "0.1.0"
__all__ = [
    "GRU",
    "LSTM",
    "MUT1",
    "MUT2",
    "MUT3",
    "RNN",
    "GRUCell",
    "LSTMCell",
    "MUT1Cell",
    "MUT2Cell",
    "MUT3Cell",
    "RNNCell",
    "Stream",
    "convert",
    "export",
    "functional",
    "keras",
    "onnx",
    "patched",
    "quantize_",
    "report",
    "revert",
]
