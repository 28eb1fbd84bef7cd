"""The CUDA kernels as NVIDIA's assembly, for three generations of devices; it takes none of them.

What kernels there are is found by calling the losses on tensors that are taken for those of a
device, and by writing down what would be launched.
"""

import contextlib
import importlib.util
import re
from collections.abc import Iterator
from typing import Any

import numba
import pytest
import torch

from cases import CASES, Case, split
from conftest import forget
from in_torch import options
from nbloss.bridge import torch as torch_bridge
from nbloss.engine.cuda import compiler, errors, launch
from nbloss.engine.cuda.compiler import Kernel
import nbloss

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("numba_cuda") is None, reason="needs numba-cuda, as in nbloss[cuda13]"
    ),
    pytest.mark.skipif(bool(numba.config.ENABLE_CUDASIM), reason="the simulator compiles nothing"),
    pytest.mark.filterwarnings("ignore:Using a target size"),
]

CAPABILITIES = ((9, 0), (8, 0), (10, 0))
