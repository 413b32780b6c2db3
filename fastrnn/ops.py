"""The ops, made differentiable: shapes for the compiler, autograd, forward-mode AD and vmap.

All of it is here once, for every cell. The kernels compute a layer and its gradient; what they do
not have (second derivatives, tangents) is computed by fastrnn.reference, which is slower and exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, is_grad_enabled
from torch._C import _are_functorch_transforms_active as are_functorch_transforms_active
from torch._C import _is_any_autocast_enabled as is_any_autocast_enabled
from torch._C import _is_tracing as is_tracing
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch._C._functorch import is_legacy_batchedtensor as _is_legacy_batched
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import Function, forward_ad, profiler
from torch.compiler import is_dynamo_compiling, is_exporting

from . import recomputing, reference
from .batching import Fold, Kind, into_members, out_of_members
from .reference import Inputs, Output

import_module("fastrnn._C")  # registers the ops


def _load_cuda() -> str:
    """Registers the CUDA kernels; returns why there are none, or nothing."""
    if find_spec("fastrnn._cuda") is None:
        return "this build of fastrnn has no extension fastrnn._cuda"
    if torch.version.cuda is None:
        return "torch is built without CUDA"
    try:
        import_module("fastrnn._cuda")
    except ImportError as error:  # a wheel for another CUDA; the CPU's kernels are none the worse
        return f"fastrnn._cuda cannot be loaded: {error}"
    return ""


WHY_NO_CUDA = _load_cuda()

_scan = torch.ops.fastrnn.scan.default
_scan_int8 = torch.ops.fastrnn.scan_int8.default
_scan_backward = torch.ops.fastrnn.scan_backward.default
_scan_each = torch.ops.fastrnn.scan_each.default
_scan_each_backward = torch.ops.fastrnn.scan_each_backward.default
_states_at_edges = torch.ops.fastrnn.states_at_edges.default
_recompute_backward = torch.ops.fastrnn.recompute_backward.default
# What an OpOverload calls; by itself it takes 0.5 us less. The compiler knows the OpOverload only.
_plain_scan = _scan._op
_plain_scan_int8 = _scan_int8._op
_plain_scan_backward = _scan_backward._op
_plain_recompute_backward = _recompute_backward._op


class CellInfo(NamedTuple):
    """A cell as the kernels know it."""

    x_blocks: int  # blocks of H rows in weight_ih
    h_blocks: int  # in weight_hh
    states: int
    saved: int  # values per hidden unit
    weights: int  # of each hidden unit alone: weight_peephole is [weights * H]
    projects: bool  # whether it has a form with weight_hr
    takes_x: bool  # whether it has a form that takes x itself, with one block less in weight_ih

    def shapes(
        self,
        input_size: int,
        hidden_size: int,
        proj_size: int = 0,
        bias: bool = True,
        takes_x: bool = False,
    ) -> dict[str, tuple[int, ...]]:
        """The weights of one direction in the order that the op takes them in, with their shapes.

        The op finds out the form of a cell by them: bias, proj_size and takes_x say which one.
        """
        x_rows, h_rows = (self.x_blocks - takes_x) * hidden_size, self.h_blocks * hidden_size
        found: dict[str, tuple[int, ...]] = {
            "weight_ih": (x_rows, input_size),
            "weight_hh": (h_rows, proj_size or hidden_size),
        }
        if bias:
            found |= {"bias_ih": (x_rows,), "bias_hh": (h_rows,)}
        if proj_size:
            found["weight_hr"] = (proj_size, hidden_size)
        if self.weights:
            found["weight_peephole"] = (self.weights * hidden_size,)
        return found


def _cells() -> dict[str, CellInfo]:
    """The forms of a cell differ in no more than what CellInfo says."""
    found: dict[str, CellInfo] = {}
    for line in torch.ops.fastrnn.cells().splitlines():
        name, *numbers = line.split()
        x_blocks, h_blocks, states, saved, weights, projects, takes_x = map(int, numbers)
        form = CellInfo(
            x_blocks + takes_x, h_blocks, states, saved, weights, bool(projects), bool(takes_x)
        )
        other = found.get(name, form)
        found[name] = form._replace(
            projects=form.projects or other.projects, takes_x=form.takes_x or other.takes_x
        )
    return found


CELLS = _cells()


def scan(
    inputs: Inputs,
    scales: Sequence[Tensor] = (),
    all_states: bool = False,
    recompute: bool = False,
) -> Output:
    """functional.layer of what the ops take, without autocast."""
    if profiler._is_profiler_enabled and not is_dynamo_compiling():
        with _named("scan_int8" if scales else "scan", inputs.cell):
            return _scan_of(inputs, scales, all_states, recompute)
    return _scan_of(inputs, scales, all_states, recompute)


def _named(op: str, cell: str) -> profiler.record_function:
    """A range of torch.profiler's with the name of the cell, which the op's own has not."""
    return profiler.record_function(f"fastrnn::{op}({cell})")


def _scan_of(inputs: Inputs, scales: Sequence[Tensor], all_states: bool, recompute: bool) -> Output:
    cell, x, states, weights = inputs[:4]
    if scales:
        out = _run_int8(inputs, scales, all_states)
    elif _transformed() or (_needs_grad(x, states, weights) and not _recorded()):
        layer, tensors = _flatten(inputs)
        single = x.dim() == 2 and inputs.batch_sizes is None
        if recompute and not single:
            layer = replace(layer, keeps="states")
        if torch.compiler.is_compiling():
            out = _Scan.apply(layer, *tensors)
        elif _transformed():
            if not _may_need_grad(tensors):
                layer = replace(layer, keeps="nothing")
            out = _ScanWithTangents.apply(layer, *tensors)
        else:
            out = _apply_plain(layer, *tensors)
    else:
        out = _scan(*inputs, False, _allow_tf32(x), all_states)
    end = 1 + CELLS[cell].states
    steps = tuple(out[end : end + end - 2]) if all_states else None
    return Output(out[0], tuple(out[1:end]), steps)


def _run_int8(inputs: Inputs, scales: Sequence[Tensor], all_states: bool) -> Sequence[Tensor]:
    cell, x, states, weights = inputs[:4]
    _refuse_grad(x, states)
    if _transformed():
        raise RuntimeError("layers of int8 know no vmap, no jvp and no other transform of torch's")
    weights = _with_peepholes_of(cell, x, weights, inputs.bidirectional)
    return _scan_int8(cell, x, states, weights, scales, *inputs[4:], all_states)


def _refuse_grad(x: Tensor, states: Sequence[Tensor]) -> None:
    if _needs_grad(x, states, ()):
        raise RuntimeError(
            "layers of int8 have no gradient: the input or a state requires one; use "
            "torch.no_grad() or inference_mode(), or detach it"
        )


def _with_peepholes_of(
    cell: str, x: Tensor, weights: Sequence[Tensor], bidirectional: bool
) -> Sequence[Tensor]:
    """The weights, with the peepholes in the type of x, in which the cells read them."""
    if not CELLS[cell].weights or x.dtype == torch.float32:
        return weights
    each = len(weights) // (2 if bidirectional else 1)
    return [w if (i + 1) % each else w.to(x.dtype) for i, w in enumerate(weights)]


def state_sizes(inputs: Inputs, scales: Sequence[Tensor] = ()) -> list[int]:
    """The features of each state: P of h, H of the others. Where weight_hh is packed, its scales
    and those of weight_hr, [rows] each, say what its shape was."""
    info, weight_hh = CELLS[inputs.cell], inputs.weights[1]
    hidden_size = (scales[1] if scales else weight_hh).shape[0] // info.h_blocks
    if not scales:
        output_size = weight_hh.shape[1]
    else:
        projected = len(scales) > (4 if inputs.bidirectional else 2)
        output_size = scales[2].shape[0] if projected else hidden_size
    return [output_size] + [hidden_size] * (info.states - 1)


def zeros(inputs: Inputs, scales: Sequence[Tensor] = ()) -> list[Tensor]:
    """The initial states where none are given, of a batch that is not packed."""
    x = inputs.x
    batch = x.shape[0 if x.dim() == 2 or inputs.batch_first else 1]
    leading = (batch,) if x.dim() == 2 else (2 if inputs.bidirectional else 1, batch)
    return [x.new_zeros(*leading, size) for size in state_sizes(inputs, scales)]


def is_plain(x: Any) -> bool:
    """Whether run can take x: whether it is a tensor of the CPU's, and nothing is at work that
    changes what a call is, or records it."""
    return (
        type(x) is Tensor
        and x.is_cpu
        and not x.is_nested
        and not is_dynamo_compiling()
        and not is_tracing()
        and not profiler._is_profiler_enabled
        and not is_any_autocast_enabled()
        and not are_functorch_transforms_active()
        and forward_ad._current_level < 0
    )


def run(
    cell: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    bidirectional: bool = False,
    batch_first: bool = False,
) -> Sequence[Tensor]:
    """scan of a plain x, without what a single step or layer does not need: at T = B = 1 the rest
    of scan, functional and modules takes longer than the kernel. Returns y, the last states, and
    more. What does not fit raises some exception."""
    if _needs_grad(x, states, weights):
        layer = Layer(cell, bidirectional, batch_first, len(states), len(weights))
        return _apply_plain(layer, None, None, None, x, *states, *weights)
    return _plain_scan(
        cell, x, states, weights, None, None, None, bidirectional, batch_first, False
    )


def run_int8(
    cell: str,
    x: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    scales: Sequence[Tensor],
    bidirectional: bool,
    batch_first: bool,
) -> Sequence[Tensor]:
    """run with weights of int8."""
    _refuse_grad(x, states)
    weights = _with_peepholes_of(cell, x, weights, bidirectional)
    return _plain_scan_int8(
        cell, x, states, weights, scales, None, None, None, bidirectional, batch_first, False
    )


def _needs_grad(x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    if not is_grad_enabled():
        return False
    if x.requires_grad:
        return True
    for t in weights:
        if t.requires_grad:
            return True
    for t in states:  # noqa: SIM110  (any() over a generator takes three times as long)
        if t.requires_grad:
            return True
    return False


def _may_need_grad(tensors: Sequence[Tensor | None]) -> bool:
    """_needs_grad of what transforms have wrapped, where vmap hides what requires a gradient."""
    for t in tensors if is_grad_enabled() else ():
        while t is not None:
            if t.requires_grad:
                return True
            t = get_unwrapped(t) if is_functorch_wrapped_tensor(t) else None
    return False


def _allow_tf32(x: Tensor) -> bool:
    """Whether the persistent CUDA kernels may round float32 products to TF32, as torch.backends
    says of cuDNN's RNNs. Where torch multiplies, its flag for matrix products rules."""
    return x.is_cuda and x.dtype == torch.float32 and _tf32_flag()


@torch.compiler.assume_constant_result
def _tf32_flag() -> bool:
    rnn: Any = torch.backends.cudnn.rnn  # whose flags torch's types do not have
    return rnn.fp32_precision == "tf32"


def _recorded() -> bool:
    """Whether torch.export or torch.jit.trace records the call. What they keep is a graph of ops
    without autograd.Functions, for inference: it must save nothing for backward."""
    return is_exporting() or (not is_dynamo_compiling() and is_tracing())


def _transformed() -> bool:
    """Whether functorch or forward-mode AD is at work."""
    return are_functorch_transforms_active() or forward_ad._current_level >= 0


# ---- autograd ------------------------------------------------------------------------------------

# autograd sees flat tensors only. Both Functions take a Layer, which says what lies where in them:
#
#     inputs    lengths, batch_sizes, resets, x, *states, *weights
#     outputs   y, *last states, *steps, and what is kept, which has no gradient: the saved values;
#               or of a layer that recomputes them its states but h at some steps; or nothing
#
# _ScanBackward takes the gradients of the outputs, the inputs, and what backward needs of the
# outputs: y, *steps, and the saved values; or y and the states at some steps.
#
# Members are scans side by side, with weights of their own, as vmap asks for them: all tensors
# begin with an axis of members.
_FIXED = 4  # lengths, batch_sizes, resets, x


@dataclass
class Layer:
    """What of the inputs is not a tensor. A tuple would be taken to pieces by every transform."""

    cell: str
    bidirectional: bool
    batch_first: bool
    states: int  # how many initial states are given: none, or all that the cell has
    weights: int
    keeps: Literal["gates", "states", "nothing"] = "gates"  # for backward
    members: int = 0  # 0: no axis of members

    @property
    def inputs(self) -> int:
        return _FIXED + self.states + self.weights

    @property
    def grads(self) -> int:
        """How many outputs have a gradient."""
        return 2 * CELLS[self.cell].states

    @property
    def kinds(self) -> list[Kind]:
        """Of the inputs."""
        fixed = [Kind.ROW, Kind.SIZES, Kind.SEQUENCE, Kind.SEQUENCE]
        return fixed + [Kind.STATE] * self.states + [Kind.WEIGHT] * self.weights

    @property
    def kinds_of_grads(self) -> list[Kind]:
        """Of the outputs that have a gradient."""
        states = CELLS[self.cell].states
        return [Kind.SEQUENCE] + [Kind.STATE] * states + [Kind.SEQUENCE] * (states - 1)

    @property
    def kinds_of_kept(self) -> list[Kind]:
        """Of the outputs that have none."""
        of_states = [Kind.EDGE] * (CELLS[self.cell].states - 1)
        return {"gates": [Kind.ROW], "states": of_states, "nothing": []}[self.keeps]

    @property
    def kinds_for_backward(self) -> list[Kind]:
        """Of the outputs that backward needs."""
        of_steps = CELLS[self.cell].states if self.keeps == "gates" else 1
        return [Kind.SEQUENCE] * of_steps + self.kinds_of_kept

    def for_backward(self, outputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The outputs that backward needs."""
        begin = 1 + CELLS[self.cell].states if self.keeps == "gates" else self.grads
        return outputs[0], *outputs[begin:]

    @property
    def groups(self) -> list[int]:
        """Whether a differentiable input is x (0), a state (1) or a weight (2)."""
        return [0] + [1] * self.states + [2] * self.weights

    @property
    def differentiable(self) -> list[bool]:
        """Which inputs are."""
        return [False] * (_FIXED - 1) + [True] * (1 + self.states + self.weights)


def _flatten(inputs: Inputs) -> tuple[Layer, tuple[Tensor | None, ...]]:
    cell, x, states, weights, lengths, batch_sizes, resets, bidirectional, batch_first = inputs
    layer = Layer(cell, bidirectional, batch_first, len(states), len(weights))
    return layer, (lengths, batch_sizes, resets, x, *states, *weights)


def _arguments(layer: Layer, tensors: Sequence[Any]) -> tuple[Any, ...]:
    """The fields of Inputs: what the ops take first."""
    lengths, batch_sizes, resets, x, *rest = tensors
    states, weights = rest[: layer.states], rest[layer.states :]
    how = (layer.bidirectional, layer.batch_first)
    return layer.cell, x, states, weights, lengths, batch_sizes, resets, *how


def _unflatten(layer: Layer, tensors: Sequence[Any]) -> Inputs:
    return Inputs(*_arguments(layer, tensors))


def _needs(layer: Layer, wanted: Sequence[bool]) -> tuple[bool, bool, bool]:
    """Whether x, any state and any weight need a gradient; layer and inputs are wanted's order."""
    end = _FIXED + 1 + layer.states
    return wanted[_FIXED], True in wanted[_FIXED + 1 : end], True in wanted[end:]


def _spread(
    layer: Layer, needs: tuple[bool, bool, bool], found: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """The gradients that were needed, one for each argument of a Function."""
    of_inputs: list[Tensor | None] = [None] * _FIXED
    at = 0
    for needed, count in zip(needs, (1, layer.states, layer.weights)):
        of_inputs += found[at : at + count] if needed else [None] * count
        at += count * needed
    return tuple(of_inputs)


def _kept_states(
    layer: Layer, batch_sizes: Tensor | None, outputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The states but h at the steps from which backward computes the others."""
    how = (outputs[1].shape[-2], layer.bidirectional, layer.batch_first)

    def kept(steps: Tensor, batch_sizes: Tensor | None) -> tuple[Tensor]:
        return (_states_at_edges(steps, batch_sizes, *how),)

    found = outputs[1 + CELLS[layer.cell].states : layer.grads]
    if not layer.members:
        return tuple(kept(t, batch_sizes)[0] for t in found)
    return tuple(_one_by_one(kept, (t, batch_sizes))[0] for t in found)


class _Scan(Function):
    """fastrnn::scan with its gradient, in the form that functorch and Dynamo both accept."""

    @staticmethod
    def forward(layer: Layer, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        save = layer.keeps == "gates"
        if layer.members:
            given = _member_arguments(layer, inputs)
            out = _by_member(layer, _scan_each(*given, save, _allow_tf32(given[1][0]), True))
        else:
            given = _arguments(layer, inputs)
            out = tuple(_scan(*given, save, _allow_tf32(given[1]), True))
        return out + _kept_states(layer, inputs[1], out) if layer.keeps == "states" else out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.layer, *tensors = inputs
        ctx.outputs = len(output)
        grads = ctx.layer.grads
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[grads:])
        ctx.save_for_backward(*tensors, *ctx.layer.for_backward(output))
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        layer, grads = ctx.layer, grads[: ctx.layer.grads]
        needs = _needs(layer, ctx.needs_input_grad)
        # Recorded only where a derivative of the derivative may follow.
        if torch.compiler.is_compiling():
            run = _ScanBackward.apply if is_grad_enabled() else _ScanBackward.forward
        elif is_grad_enabled() or _transformed():
            run = _ScanBackwardWithTangents.apply
        elif any(g is not None and _is_legacy_batched(g) for g in grads):
            run = _batched_backward
        else:
            run = _ScanBackward.forward
        return _spread(layer, needs, run(layer, needs, *grads, *ctx.saved_tensors))

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]  (it takes what forward does)
        info: Any, in_dims: tuple, layer: Layer, *inputs: Tensor | None
    ) -> tuple:
        size, dims = info.batch_size, in_dims[1:]
        if _differ(layer, dims):
            given = into_members(size, layer.members, inputs, dims)
            out = _ScanWithTangents.apply(_with_members(layer, size), *given)
            return out_of_members(size, layer.members, out)
        fold = _fold(layer, size, inputs, dims)
        out = _ScanWithTangents.apply(layer, *fold.into(layer.kinds, inputs, dims))
        return fold.out_of(layer.kinds_of_grads + layer.kinds_of_kept, out)


class _PlainScan(Function):
    """_Scan where neither the compiler nor a transform is at work. Its forward takes ctx, which
    they do not allow, and what only backward reads is no output."""

    @staticmethod
    def forward(ctx: Any, layer: Layer, *inputs: Tensor | None) -> tuple[Tensor, ...]:
        given = _arguments(layer, inputs)
        save = layer.keeps == "gates"
        out = _plain_scan(*given, save, _allow_tf32(given[1]), True)
        ctx.layer = layer
        ctx.set_materialize_grads(False)
        if not save:
            ctx.save_for_backward(*inputs, out[0], *_kept_states(layer, inputs[1], out))
            return tuple(out)
        ctx.save_for_backward(*inputs, out[0], *out[1 + len(out) // 2 :])
        return tuple(out[:-1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if is_grad_enabled() or torch.compiler.is_compiling() or _transformed():
            return _Scan.backward(ctx, *grads)
        for g in grads:
            if g is not None and _is_legacy_batched(g):
                return _Scan.backward(ctx, *grads)
        layer, tensors = ctx.layer, ctx.saved_tensors
        given = _arguments(layer, tensors[: layer.inputs])
        needs = _needs(layer, ctx.needs_input_grad)
        outputs, tf32 = tensors[layer.inputs :], _allow_tf32(given[1])
        run = _plain_scan_backward if layer.keeps == "gates" else _plain_recompute_backward
        arguments = (grads, *given, outputs, *needs, tf32)
        if profiler._is_profiler_enabled:
            with _named("scan_backward", layer.cell):
                return _spread(layer, needs, run(*arguments))
        return _spread(layer, needs, run(*arguments))


# Function.apply looks for arguments by name and for functorch first, which takes 2 us; this is what
# it calls then.
_base: Any = super(Function, _PlainScan)
_apply_plain = _base.apply


class _ScanWithTangents(_Scan):
    """With forward-mode AD. Apart, because Dynamo refuses a Function that has jvp."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        inputs, tangents = ctx.saved_tensors, tangents[1:]
        function = _reference_of(ctx.layer, inputs, [t is not None for t in tangents])
        primals = [p for p, t in zip(inputs, tangents, strict=True) if t is not None]
        given = [t for t in tangents if t is not None]
        out = _tangents(function, primals, given)
        return (*out, *[None] * (ctx.outputs - len(out)))


def _split(
    layer: Layer, tensors: Sequence[Tensor | None]
) -> tuple[Sequence[Tensor | None], Sequence[Tensor | None], Sequence[Tensor | None]]:
    """The gradients, inputs and outputs that _ScanBackward takes."""
    start, end = layer.grads, layer.grads + layer.inputs
    return tensors[:start], tensors[start:end], tensors[end:]


class _ScanBackward(Function):
    """fastrnn::scan_backward, whose own gradient is that of the reference's."""

    @staticmethod
    def forward(
        layer: Layer, needs: tuple[bool, bool, bool], *tensors: Tensor | None
    ) -> tuple[Tensor, ...]:
        grads, inputs, outputs = _split(layer, tensors)
        if layer.members and layer.keeps == "states":
            one = partial(_ScanBackward.forward, replace(layer, members=0), needs)
            return _one_by_one(one, tensors)
        if layer.members:
            given = _member_arguments(layer, inputs)
            grads, outputs = _member_lists(layer, grads), _member_lists(layer, outputs)
            rest = (*needs, _allow_tf32(given[1][0]))
            return _by_member(layer, _scan_each_backward(grads, *given, outputs, *rest))
        given = _arguments(layer, inputs)
        run = _scan_backward if layer.keeps == "gates" else _recompute_backward
        return tuple(run(grads, *given, outputs, *needs, _allow_tf32(given[1])))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.layer, ctx.needs, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grad_grads: Tensor | None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        function, variable = _reference_backward(ctx.layer, ctx.needs, tensors)
        out, pull, *_ = torch.func.vjp(function, *(t for t, v in zip(tensors, variable) if v))
        found = iter(
            pull(tuple(torch.zeros_like(o) if g is None else g for o, g in zip(out, grad_grads)))
        )
        return (None, None, *(next(found) if v else None for v in variable))

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]  (it takes what forward does)
        info: Any,
        in_dims: tuple,
        layer: Layer,
        needs: tuple[bool, bool, bool],
        *tensors: Tensor | None,
    ) -> tuple:
        size, dims = info.batch_size, in_dims[2:]
        end = layer.grads + layer.inputs
        of_inputs = dims[layer.grads : end]
        # In one batch the gradients of a weight would be added up.
        if needs[2] or _differ(layer, of_inputs):
            given = into_members(size, layer.members, tensors, dims)
            out = _ScanBackwardWithTangents.apply(_with_members(layer, size), needs, *given)
            return out_of_members(size, layer.members, out)
        fold = _fold(layer, size, tensors[layer.grads : end], of_inputs)
        kinds = layer.kinds_of_grads + layer.kinds + layer.kinds_for_backward
        given = fold.into(kinds, tensors, dims)
        out = _ScanBackwardWithTangents.apply(layer, needs, *given)
        found = [Kind.SEQUENCE] * needs[0] + [Kind.STATE] * (needs[1] * layer.states)
        return fold.out_of(found, out)


class _ScanBackwardWithTangents(_ScanBackward):
    """With forward-mode AD."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, ...]:
        tensors, tangents = ctx.saved_tensors, tangents[2:]
        function, variable = _reference_backward(ctx.layer, ctx.needs, tensors)
        primals = [t for t, v in zip(tensors, variable, strict=True) if v]
        given = [t for t, v in zip(tangents, variable, strict=True) if v]
        filled = [torch.zeros_like(p) if t is None else t for p, t in zip(primals, given)]
        return _tangents(function, primals, filled)


def _tangents(
    function: Callable[..., tuple[Tensor, ...]], primals: Sequence[Tensor], given: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """J t by two reverse passes: the derivative by u of (J^T u) . t.

    torch.func.jvp would do, but not within another level of forward-mode AD.
    """
    out, pull, *_ = torch.func.vjp(function, *primals)
    _, push, *_ = torch.func.vjp(pull, tuple(map(torch.zeros_like, out)))
    return push(tuple(given))[0]


def _reference_of(
    layer: Layer, inputs: Sequence[Tensor | None], variable: Sequence[bool]
) -> Callable[..., tuple[Tensor, ...]]:
    """The reference as a function of the inputs that are variable.

    It returns what has a gradient: y, the last states, and the other states of every step.
    """

    def function(*variables: Tensor) -> tuple[Tensor, ...]:
        given = iter(variables)
        mixed = [next(given) if v else t for t, v in zip(inputs, variable, strict=True)]
        one = partial(_reference, layer)
        return _one_by_one(one, mixed) if layer.members else one(*mixed)

    return function


def _reference(layer: Layer, *inputs: Tensor | None) -> tuple[Tensor, ...]:
    """The reference of one member."""
    y, last, steps = reference.scan(_unflatten(layer, inputs))
    assert steps is not None
    compute = torch.float64 if y.dtype == torch.float64 else torch.float32
    return (y, *last, *(s.to(compute) for s in steps))


def _reference_backward(
    layer: Layer, needs: tuple[bool, bool, bool], tensors: Sequence[Tensor | None]
) -> tuple[Callable[..., tuple[Tensor, ...]], list[bool]]:
    """scan_backward by the reference, as a function of those of _ScanBackward's tensors that are
    variable, and which these are: the gradients that are given, x, states, and weights."""
    grads, inputs, outputs = _split(layer, tensors)
    known = [g is not None for g in grads]
    function = _reference_of(layer, inputs, layer.differentiable)

    def backward(*variables: Tensor) -> tuple[Tensor, ...]:
        given, variables = iter(variables[: sum(known)]), variables[sum(known) :]
        out, pull, *_ = torch.func.vjp(function, *variables)
        filled = (next(given) if k else torch.zeros_like(o) for o, k in zip(out, known))
        found = zip(layer.groups, pull(tuple(filled)), strict=True)
        return tuple(grad for group, grad in found if needs[group])

    return backward, known + layer.differentiable + [False] * len(outputs)


def _batched_backward(
    layer: Layer, needs: tuple[bool, bool, bool], *tensors: Tensor | None
) -> tuple[Tensor, ...]:
    """scan_backward by the reference, for the batched gradients of torch.autograd.grad: they are
    neither tensors that an op can take nor those of functorch."""
    grads, inputs, _ = _split(layer, tensors)
    variable = layer.differentiable
    with torch.enable_grad():
        given = (t for t, v in zip(inputs, variable) if v and t is not None)
        leaves = [t.detach().requires_grad_() for t in given]
        out = _reference_of(layer, inputs, variable)(*leaves)
    known = [(o, g) for o, g in zip(out, grads) if g is not None]
    groups = zip(leaves, layer.groups, strict=True)
    wanted = [leaf for leaf, group in groups if needs[group]]
    out, given_grads = zip(*known)
    return torch.autograd.grad(out, wanted, given_grads, materialize_grads=True)


# ---- vmap ----------------------------------------------------------------------------------------


def _differ(layer: Layer, dims: Sequence[int | None]) -> bool:
    """Whether elements of vmap's, by the axes of the inputs, cannot be rows of one batch: not with
    weights of their own; nor with lengths of their own, because what is saved for backward would be
    sorted by the lengths of all of them."""
    return any(dim is not None for dim in (*dims[:2], *dims[_FIXED + layer.states :]))


def _fold(layer: Layer, size: int, inputs: Sequence[Any], dims: Sequence[int | None]) -> Fold:
    x, lead = inputs[_FIXED - 1], 1 if layer.members else 0
    own = x.dim() - lead - (dims[_FIXED - 1] is not None)
    return Fold(size, lead, own, inputs[1] is not None, layer.batch_first)


def _with_members(layer: Layer, size: int) -> Layer:
    return replace(layer, members=size * max(layer.members, 1))


def _one_by_one(
    function: Callable[..., tuple[Tensor, ...]], tensors: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """A function of one member's tensors, of all members."""
    return tuple(map(torch.stack, zip(*(function(*own) for own in _members(tensors)), strict=True)))


def _members(tensors: Sequence[Tensor | None]) -> list[tuple[Tensor | None, ...]]:
    """The tensors of each member."""
    size = next(len(t) for t in tensors if t is not None)
    return list(zip(*((None,) * size if t is None else t.unbind() for t in tensors), strict=True))


def _member_lists(layer: Layer, tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Those of all members, one after the other, as the ops of several scans take them."""
    parts = [(None,) * layer.members if t is None else t.unbind() for t in tensors]
    return [t for own in zip(*parts, strict=True) for t in own]


def _member_arguments(layer: Layer, inputs: Sequence[Tensor | None]) -> tuple[Any, ...]:
    """What the ops of several scans take first."""
    cell, x, states, weights, *masks, bidirectional, batch_first = _arguments(layer, inputs)
    lists = (_member_lists(layer, group) for group in ([x], states, weights, *([m] for m in masks)))
    return cell, *lists, bidirectional, batch_first


def _by_member(layer: Layer, results: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The results of the ops of several scans, with an axis of members."""
    members = layer.members
    return tuple(t.unflatten(0, (members, t.shape[0] // members)) for t in results)


# ---- shapes, for the compiler and the meta device ------------------------------------------------


def _check_device(x: Tensor, others: Sequence[Tensor], name: str) -> None:
    """Real kernels check it themselves; the dispatcher sends what is partly on meta here."""
    for t in others:
        if t.device != x.device:
            raise RuntimeError(
                f"Input and {name} tensors are not at the same device, found input tensor at "
                f"{x.device} and {name} tensor at {t.device}"
            )


_INPUTS = len(Inputs._fields)


def _fake_outputs(call: Inputs, sizes: Sequence[int], all_states: bool) -> list[Tensor]:
    """y, the last states and the steps, where states have these sizes."""
    x, states, batch_sizes = call.x, call.states, call.batch_sizes
    _check_device(x, call.weights, "parameter")
    _check_device(x, states, "hidden")
    directions, leading = 2 if call.bidirectional else 1, x.shape[:-1]
    if batch_sizes is None and x.dim() == 2:
        last = [x.new_empty(x.shape[0], size) for size in sizes]
    else:
        if batch_sizes is None:
            batch = x.shape[0 if call.batch_first else 1]
        elif states:
            batch = states[0].shape[1]
        elif not isinstance(batch_sizes, FakeTensor):  # x alone is on meta
            batch = int(batch_sizes[0])
        else:
            batch = torch.library.get_ctx().new_dynamic_size()
        last = [x.new_empty(directions, batch, size) for size in sizes]
    out = [x.new_empty(*leading, directions * sizes[0]), *last]
    if all_states:
        compute = torch.float64 if x.dtype == torch.float64 else torch.float32
        for size in sizes[1:]:
            out.append(x.new_empty(*leading, directions * size, dtype=compute))
    return out


@torch.library.register_fake("fastrnn::scan")
def _fake_scan(*args: Any, allow_tf32: bool = False, all_states: bool = False) -> list[Tensor]:
    call, (save, *flags) = Inputs(*args[:_INPUTS]), args[_INPUTS:]
    sizes = state_sizes(call)
    out = _fake_outputs(call, sizes, save or all_states or flags[1:] == [True])
    if save:
        x, saved = call.x, CELLS[call.cell].saved * sizes[-1]
        out.append(x.new_empty(x.numel() // x.shape[-1], 2 if call.bidirectional else 1, saved))
    return out


@torch.library.register_fake("fastrnn::scan_int8")
def _(cell: str, x: Tensor, states: Any, weights: Any, scales: Any, *rest: Any) -> list[Tensor]:
    *how, all_states = rest
    call = Inputs(cell, x, states, weights, *how)
    return _fake_outputs(call, state_sizes(call, scales), all_states)


@torch.library.register_fake("fastrnn::states_at_edges")
def _(
    states: Tensor, batch_sizes: Tensor | None, batch: int, bidirectional: bool, batch_first: bool
) -> Tensor:
    directions = 2 if bidirectional else 1
    return states.new_empty(
        recomputing.PARTS - 1, directions, batch, states.shape[-1] // directions
    )


@torch.library.register_fake("fastrnn::scan_backward")
@torch.library.register_fake("fastrnn::recompute_backward")
def _fake_backward(grads: Sequence[Tensor | None], *args: Any, **_: Any) -> list[Tensor]:
    call, (_, *needs) = Inputs(*args[:_INPUTS]), args[_INPUTS:]
    groups = zip(([call.x], call.states, call.weights), needs)
    return [t.new_empty(t.shape) for group, needed in groups if needed for t in group]


def _first_of(args: Sequence[Any]) -> tuple[int, list[Any]]:
    """How many scans the arguments of several are for, and those of the first one."""
    cell, x, states, weights, *masks = args[:7]
    count = len(x)
    lists = (group[: len(group) // count] for group in (states, weights))
    return count, [cell, x[0], *lists, *(mask[0] for mask in masks), *args[7:]]


def _side_by_side(count: int, results: Sequence[Tensor]) -> list[Tensor]:
    return [t.new_empty(count * t.shape[0], *t.shape[1:]) for t in results]


@torch.library.register_fake("fastrnn::scan_each")
def _(*args: Any, **flags: Any) -> list[Tensor]:
    count, one = _first_of(args)
    return _side_by_side(count, _fake_scan(*one, **flags))


@torch.library.register_fake("fastrnn::scan_each_backward")
def _(grads: Sequence[Tensor | None], *args: Any, **flags: Any) -> list[Tensor]:
    count, one = _first_of(args)
    return _side_by_side(count, _fake_backward(grads, *one, **flags))
