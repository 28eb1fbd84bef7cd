"""The losses as modules, drop-ins for those of ``torch.nn`` of the same names.

Each is a subclass of torch's class: the constructor, ``repr``, the state and the pickling are
inherited, and so is ``forward``, in which ``F`` means :mod:`nbloss.functional` instead of
``torch.nn.functional``. A loss that torch has no class for gets one of its own.
"""

import importlib
import inspect
import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch.nn

from nbloss import functional as F
from nbloss.formula.registry import LOSSES, ON_REPLACEMENT, Definition, is_built_in

if TYPE_CHECKING:  # what an editor and a type checker know of them: the classes that they inherit
    from torch.nn import CrossEntropyLoss as CrossEntropyLoss
    from torch.nn import HuberLoss as HuberLoss
    from torch.nn import MarginRankingLoss as MarginRankingLoss
    from torch.nn import MultiLabelMarginLoss as MultiLabelMarginLoss
    from torch.nn import MultiLabelSoftMarginLoss as MultiLabelSoftMarginLoss
    from torch.nn import NLLLoss as NLLLoss
    from torch.nn import TripletMarginLoss as TripletMarginLoss
    from torch.nn import TripletMarginWithDistanceLoss as TripletMarginWithDistanceLoss

__all__: list[str] = []


def _derived(name: str, theirs: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """Subclass a class of torch; its forward calls our functions."""
    forward = theirs.forward
    # The globals are this module's own: torch's compiler looks up the F that a forward names in the
    # module that the globals say they are of.
    ours = FunctionType(
        forward.__code__,
        globals(),
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    ours.__kwdefaults__ = forward.__kwdefaults__
    ours.__annotations__ = forward.__annotations__
    ours.__qualname__ = f"{name}.forward"
    ours.__doc__ = forward.__doc__
    return type(name, (theirs,), {"forward": ours, "__module__": __name__, "__doc__": None})


def _own(name: str, definition: Definition) -> type[torch.nn.Module]:
    """Make a class for a loss that torch lacks: parameters and reduction in the constructor."""
    parameters = {**definition.symbolic.parameters, **definition.symbolic.options}
    getattr(F, definition.name)  # makes the function, for forward to find

    def __init__(self: Any, *, reduction: str = "mean", **given: float) -> None:
        torch.nn.Module.__init__(self)
        unknown = set(given) - set(parameters)
        if unknown:
            raise TypeError(f"{name}() takes {list(parameters)} and reduction, got {given}")
        self.reduction = reduction
        for parameter, value in parameters.items():
            setattr(self, parameter, given.get(parameter, value))

    def extra_repr(self: Any) -> str:
        return ", ".join(f"{key}={getattr(self, key)!r}" for key in (*parameters, "reduction"))

    def __reduce__(self: Any) -> tuple:
        # Another process knows of the class once it has imported the definition.
        return _restored, (definition.formula.__module__, name), self.__dict__

    body = {"__init__": __init__, "extra_repr": extra_repr, "__reduce__": __reduce__}
    # Written out, so that the operands have their names: keyword arguments and torch.fx need them.
    operands = ", ".join(definition.operands)
    options = ", ".join(f"{key}=self.{key}" for key in (*parameters, "reduction"))
    source = (
        f"def forward(self, {operands}):\n    return F.{definition.name}({operands}, {options})"
    )
    exec(source, globals(), body)
    return type(name, (torch.nn.Module,), {**body, "__module__": __name__})


def _restored(module: str, name: str) -> torch.nn.Module:
    """Make an empty module of a class, for pickle to fill, wherever its loss was defined."""
    importlib.import_module(module)
    kind: type[torch.nn.Module] = getattr(sys.modules[__name__], name)
    return kind.__new__(kind)


def _module(definition: Definition) -> type[torch.nn.Module]:
    name = definition.module
    if is_built_in(definition) and hasattr(torch.nn, definition.module):
        module = _derived(name, getattr(torch.nn, name))
    else:
        module = _own(name, definition)
    summary = (inspect.getdoc(getattr(F, definition.name)) or "").split("\n", 1)[0]
    module.__doc__ = f"{summary}\n\nSee :func:`nbloss.functional.{definition.name}`."
    return module


def __getattr__(name: str) -> type[torch.nn.Module]:
    """Make the class of a loss that has been defined elsewhere, when it is first asked for."""
    for definition in LOSSES.values():
        if definition.module == name:
            made = globals()[name] = _module(definition)
            return made
    raise AttributeError(f"module 'nbloss.nn' has no attribute {name!r}")


ON_REPLACEMENT.append(lambda definition: globals().pop(definition.module, None))
for _definition in LOSSES.values():
    globals()[_definition.module] = _module(_definition)
    __all__ += [_definition.module]
