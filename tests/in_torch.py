"""The registry's cases as torch takes them."""

from typing import Any

import torch

import nbloss
from nbloss import distances

# The distances that cases name.
DISTANCES = {
    "euclidean": lambda x, y: (x - y).norm(dim=-1),
    "squared_euclidean": lambda x, y: (x - y).square().sum(-1),
    "manhattan": lambda x, y: (x - y).abs().sum(-1),
    "chebyshev": lambda x, y: torch.linalg.vector_norm(x - y, float("inf"), dim=-1),
    "cosine": lambda x, y: 1 - torch.nn.functional.cosine_similarity(x, y, dim=-1),
}


def options(case: Any, library: Any) -> dict[str, Any]:
    """The options of a call of nbloss or of torch, with the distance that each has."""
    if library is nbloss:
        return case.options(distances)
    chosen = case.options()
    if "distance_function" in chosen:
        chosen["distance_function"] = DISTANCES[chosen["distance_function"]]
    return chosen
