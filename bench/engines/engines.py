"""Inference engines: an ONNX graph, compiled, and bound to tensors.

Binding once is the fastest way to call them: no call copies or allocates what goes in and out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Protocol

from onnx import ModelProto
from torch import Tensor

Tensors = Mapping[str, Tensor]


class Program(Protocol):
    """A compiled graph."""

    def bound(self, inputs: Tensors, outputs: Tensors) -> Callable[[], object]:
        """A function that computes the outputs, in place, from what the inputs then hold.

        Whoever calls it must keep these tensors: an engine knows their addresses alone.
        """


class OnnxRuntime:
    def __init__(self, model: ModelProto, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def bound(self, inputs: Tensors, outputs: Tensors) -> Callable[[], object]:
        binding = self.session.io_binding()
        for tensors, bind in ((inputs, binding.bind_input), (outputs, binding.bind_output)):
            for name, tensor in tensors.items():
                array = tensor.numpy()
                bind(name, "cpu", 0, array.dtype, array.shape, tensor.data_ptr())
        return lambda: self.session.run_with_iobinding(binding)


class OpenVino:
    def __init__(self, model: ModelProto, threads: int) -> None:
        import openvino

        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # Where the machine has AMX, it would compute in bfloat16.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        core = openvino.Core()
        graph = core.read_model(model.SerializeToString(), b"")
        self.compiled = core.compile_model(graph, "CPU", options)
        self.tensor = openvino.Tensor

    def bound(self, inputs: Tensors, outputs: Tensors) -> Callable[[], object]:
        request = self.compiled.create_infer_request()
        for name, tensor in (inputs | outputs).items():
            request.set_tensor(name, self.tensor(tensor.numpy(), shared_memory=True))

        def run() -> None:  # less of Python than request.infer has
            request.start_async()
            request.wait()

        return run


Engine = Callable[[ModelProto, int], Program]

# By the names of their packages.
ENGINES: dict[str, tuple[str, Engine]] = {
    "onnxruntime": ("ONNX Runtime", OnnxRuntime),
    "openvino": ("OpenVINO", OpenVino),
}


def installed() -> dict[str, Engine]:
    return {name: engine for package, (name, engine) in ENGINES.items() if find_spec(package)}


def missing() -> list[str]:
    return [name for package, (name, _) in ENGINES.items() if not find_spec(package)]


def versions() -> dict[str, str]:
    return {name: version(package) for package, (name, _) in ENGINES.items() if find_spec(package)}
