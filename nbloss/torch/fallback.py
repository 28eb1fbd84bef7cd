"""torch's own functions, for what has no kernel here."""

from collections.abc import Callable
from typing import Any

import torch

from nbloss.formula.distance import Distance
from nbloss.formula.registry import built_in
from nbloss.torch import sharded

# As they are before anybody puts others in their place.
TORCH_FUNCTIONS = {
    name: getattr(torch.nn.functional, name)
    for name in built_in()
    if hasattr(torch.nn.functional, name)
}


def torch_function(name: str, named: dict[str, Any]) -> Callable[..., Any] | None:
    """Give torch's own function, if there is one that takes the arguments."""
    if isinstance(named.get("distance_function"), Distance):
        return None  # torch would call it with tensors, which a distance can't measure
    return TORCH_FUNCTIONS.get(name)


def fall_back(name: str, error: Exception, arguments: tuple, named: dict[str, Any]) -> Any:
    """Ask torch itself; where it has no such function, raise the error."""
    if sharded.among(arguments, named):
        sharded.check(name, arguments, named)
    torch_function = TORCH_FUNCTIONS.get(name)
    if torch_function is None:
        raise error from None
    return torch_function(*arguments, **named)
