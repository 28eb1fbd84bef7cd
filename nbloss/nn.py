"""The losses as modules, drop-ins for those of ``torch.nn`` of the same names.

Each is a subclass of torch's class: the constructor, ``repr``, the state and the pickling are
inherited, and so is ``forward``, in which ``F`` means :mod:`nbloss.functional` instead of
``torch.nn.functional``. A loss that torch has no class for gets one of its own.
"""

import inspect
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch.nn

from nbloss import functional
from nbloss.engine.registry import LOSSES, Definition

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
    ours = FunctionType(
        forward.__code__,
        {**forward.__globals__, "F": functional},
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
    parameters = definition.parameters
    function = getattr(functional, definition.name)

    def __init__(self: Any, *, reduction: str = "mean", **given: float) -> None:
        torch.nn.Module.__init__(self)
        unknown = set(given) - set(parameters)
        if unknown:
            raise TypeError(f"{name}() takes {list(parameters)} and reduction, got {given}")
        self.reduction = reduction
        for parameter, value in parameters.items():
            setattr(self, parameter, given.get(parameter, value))

    def forward(self: Any, *operands: torch.Tensor) -> torch.Tensor:
        given = {parameter: getattr(self, parameter) for parameter in parameters}
        return function(*operands, reduction=self.reduction, **given)

    def extra_repr(self: Any) -> str:
        return ", ".join(f"{key}={getattr(self, key)!r}" for key in (*parameters, "reduction"))

    body = {"__init__": __init__, "forward": forward, "extra_repr": extra_repr}
    return type(name, (torch.nn.Module,), {**body, "__module__": __name__})


def _module(definition: Definition) -> type[torch.nn.Module]:
    name = definition.module
    theirs = getattr(torch.nn, name, None)
    module = _own(name, definition) if theirs is None else _derived(name, theirs)
    summary = (inspect.getdoc(getattr(functional, definition.name)) or "").split("\n", 1)[0]
    module.__doc__ = f"{summary}\n\nSee :func:`nbloss.functional.{definition.name}`."
    return module


def __getattr__(name: str) -> type[torch.nn.Module]:
    """Make the class of a loss that has been defined elsewhere, when it is first asked for."""
    for definition in LOSSES.values():
        if definition.module == name:
            made = globals()[name] = _module(definition)
            return made
    raise AttributeError(f"module 'nbloss.nn' has no attribute {name!r}")


for _definition in LOSSES.values():
    globals()[_definition.module] = _module(_definition)
    __all__ += [_definition.module]
