"""Whole models: convert, revert, report, and patched for code that builds its own layers.

A layer of torch.nn and its fastrnn counterpart have the same attributes, so that a module becomes
the other one by its __class__ alone. Everything that others hold stays what it is: the module, its
parameters, buffers and hooks, their names, and train or eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils import parametrize

from . import cells, functional, modules, variants

__all__ = ["GRU", "LSTM", "RNN", "convert", "patched", "report", "revert"]


class LSTM(modules.LSTM, nn.LSTM):
    """fastrnn.LSTM that is a torch.nn.LSTM, too: what convert makes with keep_type."""


class GRU(modules.GRU, nn.GRU):
    """fastrnn.GRU that is a torch.nn.GRU, too: what convert makes with keep_type."""


class RNN(modules.RNN, nn.RNN):
    """fastrnn.RNN that is a torch.nn.RNN, too: what convert makes with keep_type."""


class _Kind(NamedTuple):
    """The classes that a layer may be of."""

    torchs: type[nn.Module]
    ours: type[nn.Module]
    kept: type[nn.Module]  # ours, and a subclass of torch's


_KINDS = (
    _Kind(nn.LSTM, modules.LSTM, LSTM),
    _Kind(nn.GRU, modules.GRU, GRU),
    _Kind(nn.RNN, modules.RNN, RNN),
    # The cells are subclasses of torch.nn's as they are.
    _Kind(nn.LSTMCell, cells.LSTMCell, cells.LSTMCell),
    _Kind(nn.GRUCell, cells.GRUCell, cells.GRUCell),
    _Kind(nn.RNNCell, cells.RNNCell, cells.RNNCell),
)
_KIND_OF = {class_: kind for kind in _KINDS for class_ in kind}
_PACKAGES = {
    "torch.nn.modules.rnn": "torch.nn",
    modules.__name__: "fastrnn",
    cells.__name__: "fastrnn",
}
_NAMES = {kind.torchs.__name__ for kind in _KINDS}


def convert(
    model: nn.Module,
    *,
    keep_type: bool = False,
    skip: Callable[[str, nn.Module], bool] = lambda name, module: False,
) -> nn.Module:
    """Turns the recurrent layers of a model into fastrnn's, in place.

    Every torch.nn.LSTM, GRU, RNN, LSTMCell, GRUCell and RNNCell in the model becomes fastrnn's; so
    does the model itself if it is one. Only the class changes. Parameters, buffers, hooks, names
    and the mode stay the same objects, so that an optimizer made before goes on.

    These are left as they are, and report says why:

    - subclasses, which may have a forward of their own: derive them from fastrnn's layers instead;
    - parametrized modules (torch.nn.utils.parametrize), which are subclasses, too. The hooks of
      torch.nn.utils.weight_norm, spectral_norm and prune are no obstacle, and parametrizing after
      convert is none either;
    - modules with a forward set on the instance, scripted and traced modules, and torch.ao's;
    - modules whose weights are on a device, or of a type or a class of tensors, that has no kernels
      in this build.

    Call it before torch.compile, FSDP and quantisation.

    Args:
        model: any module.
        keep_type: whether layers stay instances of torch.nn.LSTM, GRU and RNN, for code that asks
            isinstance. They are instances of fastrnn's as well; and layers that are fastrnn's
            already change in the same way. torch.compile then treats them as
            it treats torch.nn's: it breaks the graph around each of them and runs it as it is, and
            fullgraph=True raises, as long as torch._dynamo.config.allow_rnn is False. Cells are
            instances of torch.nn's in any case, and compile.
        skip: is asked, with its name in the model, for every layer that would be converted; where
            it returns True, the layer is left.

    Returns:
        The model.
    """
    found = [m for name, m in model.named_modules() if not _obstacle(m) and not skip(name, m)]
    for module in found:
        kind = _KIND_OF[type(module)]
        module.__class__ = kind.kept if keep_type else kind.ours
    return model


def revert(model: nn.Module) -> nn.Module:
    """Turns fastrnn's layers and cells in a model into torch.nn's, in place: undoes convert.

    Left as they are: what torch.nn does not have, which is variants and layers of int8; and
    subclasses, parametrized modules and those with a forward set on the instance. An LSTM with
    forget_bias becomes torch.nn's, whose reset_parameters does not know of it.

    Returns:
        The model.
    """
    for module in model.modules():
        if not _bound_to_its_class(module) and not _is_variant(module):
            module.__class__ = _KIND_OF[type(module)].torchs
            if isinstance(module, nn.RNNBase):
                module.flatten_parameters()  # which fastrnn's layers have not done, for cuDNN
    return model


def report(model: nn.Module) -> str:
    """Which recurrent modules of a model run on fastrnn, and why the others do not.

    Returns:
        A line that counts them, then one for each: its path, its class and what it is. A layer that
        was made as one of fastrnn's cannot be told from a converted one.
    """
    found = [(name, m) for name, m in model.named_modules() if _is_recurrent(m)]
    if not found:
        return f"no recurrent module in this {type(model).__name__}"
    rows = [(name or "(the model)", _class_name(m), _verdict(m)) for name, m in found]
    path, class_ = (max(len(row[i]) for row in rows) for i in (0, 1))
    ours = sum(_is_ours(m) for _, m in found)
    lines = [f"{ours} of {len(found)} recurrent modules run on fastrnn"]
    lines += [f"{name:{path}}  {of:{class_}}  {verdict}" for name, of, verdict in rows]
    return "\n".join(lines)


@contextmanager
def patched() -> Iterator[None]:
    """Within it torch.nn.LSTM, GRU, RNN, LSTMCell, GRUCell and RNNCell are fastrnn's.

    For code that builds its own layers:

        with fastrnn.patched():
            model = build()

    The model needs no patch afterwards: what was built stays fastrnn's. It changes the module
    torch.nn for all threads, until it ends. As a decorator of a function, it lasts for each call.

    It does not reach names that were imported before (`from torch.nn import LSTM`), the same
    classes under their other names (torch.nn.modules.rnn.LSTM), subclasses that were made before,
    which keep torch.nn's class as their base, and modules loaded by torch.load: use convert for
    these. It reaches further than it should where a module is imported within it for the first
    time: names that this one imports, and subclasses that it makes, are of fastrnn's for good.
    Within it, isinstance(module, torch.nn.LSTM) is False for torch.nn's own layers, and a subclass
    made before that calls torch.nn.LSTM.__init__ by this name raises AttributeError.
    """
    before = {name: getattr(nn, name) for name in _NAMES}
    for kind in _KINDS:
        setattr(nn, kind.torchs.__name__, kind.ours)
    try:
        yield
    finally:
        for name, class_ in before.items():
            setattr(nn, name, class_)


# ---- what a module is ----------------------------------------------------------------------------


def _obstacle(module: nn.Module) -> str:
    """Why convert leaves a module; nothing if it takes it."""
    if bound := _bound_to_its_class(module):
        return bound
    if _is_variant(module):
        return "torch.nn has no such layer"
    return _no_kernels(module) or _unknown_tensors(module)


def _bound_to_its_class(module: nn.Module) -> str:
    """Why its class cannot be changed to the other one of its kind; nothing if it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted or traced"
    if parametrize.is_parametrized(module):
        return "parametrized: convert before, or after remove_parametrizations"
    if type(module) not in _KIND_OF:
        return _other_class(module)
    if "forward" in vars(module):
        return "forward is set on the instance"
    return ""


def _other_class(module: nn.Module) -> str:
    if type(module).__module__.startswith("torch.ao."):
        return "a class of torch.ao's"
    for class_ in type(module).__mro__:
        if class_ in _KIND_OF:
            own = type(module).forward is not class_.forward
            return f"a subclass of {_public(class_)}" + " with a forward of its own" * own
    return "torch.nn has no such layer"


def _is_variant(module: nn.Module) -> bool:
    """Whether a layer of ours has other equations than torch.nn's."""
    return vars(module).get("_cell", variants.TORCH_CELLS[0]) not in variants.TORCH_CELLS


def _no_kernels(module: nn.Module) -> str:
    """Why the kernels cannot take a module's weights; nothing if they can."""
    for weight in module.parameters(recurse=False):
        if why := functional.why_no_kernels(weight.device):
            return why
        if weight.dtype not in functional.DTYPES:
            return f"fastrnn has no kernels for {weight.dtype}"
    return ""


def _unknown_tensors(module: nn.Module) -> str:
    """Which class of tensors, that may know nothing of fastrnn's ops, its weights are of."""
    for weight in module.parameters(recurse=False):
        if type(weight) not in (nn.Parameter, FakeTensor):
            return f"its weights are tensors of the class {type(weight).__name__}"
    return ""


def _is_ours(module: nn.Module) -> bool:
    return isinstance(module, (variants.Variant, cells.RNNCell))


def _is_recurrent(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):
        return module.original_name in _NAMES
    return isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or any(
        class_.__name__ in _NAMES and class_.__module__.startswith("torch.ao.")
        for class_ in type(module).__mro__
    )


def _verdict(module: nn.Module) -> str:
    if _is_ours(module):
        why = _no_kernels(module)
        return f"fastrnn's, but calls raise: {why}" if why else "on fastrnn"
    why = _obstacle(module)
    return f"not converted: {why}" if why else "not converted: convert takes it"


def _class_name(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return f"{type(module).__name__} of {module.original_name}"
    return _public(type(module))


def _public(class_: type) -> str:
    """Its name, with the package where users find it."""
    return f"{_PACKAGES.get(class_.__module__, class_.__module__)}.{class_.__qualname__}"
