"""From a function to a kernel's machine code: the one module that knows the compiler.

That is numba-cuda, which has its own copy of Numba's compiler with NVVM behind it. It needs no
device. Every kernel has one signature, ``kernel(call, numbers)``: a block of integers
(addresses, sizes, strides) and one of numbers of the computing type, which are the kernel's
parameters one by one. What shapes the machine code is fixed when it is compiled.

With ``NUMBA_ENABLE_CUDASIM=1`` the kernels run as plain Python, in numba-cuda's simulator.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numba
import numpy as np

from nbloss.codegen import memory
from nbloss.codegen.blocks import FLOATS, INTEGERS
from nbloss.engine import binding, cache, forks

SIMULATED = bool(numba.config.ENABLE_CUDASIM)
# All that is said to the compiler of CUDA is said to this package. numba-cuda-mlir has the names
# under its own; see docs/cuda.md for what else is in the way of it.
PACKAGE = "numba.cuda"
DISTRIBUTION = "numba-cuda"
FULL_WARP = 0xFFFFFFFF
GLOBAL = 1  # the address space of a device's memory
_lock = threading.RLock()
forks.renew(sys.modules[__name__], "_lock", threading.RLock)


@functools.cache
def is_installed() -> bool:
    """Whether the compiler is there. Numba's own part of that name is not enough."""
    return importlib.util.find_spec("numba_cuda") is not None


def require(major: str) -> None:
    """Raise if the compiler is not there.

    Parameters
    ----------
    major : str
        Of the version of CUDA that it should be for.

    Raises
    ------
    ImportError
        Saying which command installs it.
    """
    if not is_installed():
        raise ImportError(MISSING.format(major))


MISSING = (
    "nbloss needs numba-cuda for what lies on a CUDA device, which is not installed; "
    "run: pip install 'nbloss[cuda{}]'"
)


def part(name: str = "") -> Any:
    """Import a module of the compiler."""
    return importlib.import_module(f"{PACKAGE}.{name}" if name else PACKAGE)


# --- kernels --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel, to be compiled where it is to run.

    Attributes
    ----------
    name : str
        Its name in the machine code, which no other kernel has.
    dtype : str
        Type of the stored numbers.
    threads : int
        How many threads a block has.
    build : function
        Gives what each thread does, a function of two blocks of numbers.
    blocks : tuple of type
        The types of these blocks: tuples with names.
    """

    name: str
    dtype: str
    threads: int
    build: Callable[[], Callable]
    blocks: tuple[type, type]


def kernel_of(
    name: str,
    dtype: str,
    threads: int,
    build: Callable[[], Callable],
    fields: dict[str, int],
    numbers: dict[str, int],
) -> Kernel:
    """Give a kernel that reads the numbers of a call by their names.

    ``fields`` and ``numbers`` say where the integers and the floats lie, by their names.
    """
    blocks = (_named("Call", fields, INTEGERS), _named("Numbers", numbers, FLOATS))
    return Kernel(f"nbloss_{name}", dtype, threads, build, blocks)


def _named(title: str, places: dict[str, int], count: int) -> type:
    names = {place: name for name, place in places.items()}
    return namedtuple(title, [names.get(k, f"unused_{k}") for k in range(count)])


digest = binding.digest


@functools.cache
def function(kernel: Kernel) -> Callable:
    """Build a kernel's function; the compiler, or the simulator, takes it from there."""
    return kernel.build()


# --- what kernels call ----------------------------------------------------------------------------


@functools.cache
def shuffle() -> Callable:
    """Give what exchanges numbers between the threads of a warp."""
    if SIMULATED:
        return _simulated_shuffle
    return device(binding.rebind(_shuffle, {"cuda": part()}))


@functools.cache
def add_one() -> Callable:
    """Give what adds 1 to a count in a device's memory."""
    if SIMULATED:
        return device(binding.rebind(_add_one, {"cuda": part()}))
    return instructions()["add_one"]


def _shuffle(x, distance):
    """Give what the thread of a warp holds whose number differs in one bit."""
    return cuda.shfl_xor_sync(FULL_WARP, x, distance)


def _add_one(counts, place):
    cuda.atomic.add(counts, place, 1)


def _simulated_shuffle(x, distance):
    # The simulator has no shuffles. All threads of a block come here together.
    context = part("simulator.kernel")._get_kernel_context()
    held = context.__dict__.setdefault("held", {})
    number = context.threadIdx.x
    held[number] = x
    context.syncthreads()
    found = held[number ^ distance]
    context.syncthreads()
    return found


@functools.cache
def instructions() -> dict[str, Any]:
    """Give the instructions that Python has no word for, for this compiler."""
    return memory.instructions(part("extending").intrinsic, part("types"), GLOBAL)


@functools.cache
def widen(dtype: str) -> Callable:
    """Give what makes a computing number of a stored one."""
    function = memory.WIDEN[dtype]
    if SIMULATED or isinstance(function, type):
        return function
    here = instructions()
    bfloat16 = device(binding.rebind(memory.widen_bfloat16_bits, here))
    return device(
        binding.rebind(
            function, {"_half_to_float": here["widen_half"], "_bfloat16_to_float": bfloat16}
        )
    )


@functools.cache
def narrow(dtype: str) -> Callable:
    """Give what makes a stored number of a computing one."""
    function = memory.NARROW[dtype]
    if SIMULATED or isinstance(function, type):
        return function
    here = instructions()
    bfloat16 = device(binding.rebind(memory.round_to_bfloat16, here))
    return device(
        binding.rebind(
            function, {"_float_to_half": here["round_half"], "_float_to_bfloat16": bfloat16}
        )
    )


def device(function: Callable, math: set[str] | None = None) -> Callable:
    """Have a function compiled when a kernel calls it.

    There is no leave for the arithmetic beyond IEEE 754 but contraction, which NVVM takes anyway.
    """
    options = {} if SIMULATED else {"forceinline": True}
    return part().jit(device=True, **options)(function)


def words(dtype: type) -> dict[str, Callable]:
    """Give what the primitives mean: CUDA's own functions, where the processor has polynomials."""
    return binding.SCALARS


TARGET = binding.Target(words, device)


def of_type(function: Callable, dtype: type) -> Callable:
    """Compile a function of numbers for numbers of one type."""
    return binding.bind_scalar(function, dtype, TARGET)


# --- machine code ---------------------------------------------------------------------------------


@contextlib.contextmanager
def standing_in(capability: tuple[int, int]) -> Iterator[None]:
    """Keep the compiler from asking for a device, which functions that kernels call would need."""

    class Device:
        compute_capability = capability

    module, asking = part("dispatcher"), threading.get_ident()
    real = module.get_current_device

    def current() -> Any:
        return Device if threading.get_ident() == asking else real()

    with mock.patch.object(module, "get_current_device", current):
        yield


def ptx(kernel: Kernel, capability: tuple[int, int]) -> str:
    """Compile a kernel into NVIDIA's assembly, for a compute capability as ``(9, 0)``."""
    types = part("types")
    number = getattr(types, memory.COMPUTED[kernel.dtype].__name__)
    given = [
        types.NamedUniTuple(kind, count, block)
        for kind, count, block in zip(
            (types.int64, number), (INTEGERS, FLOATS), kernel.blocks, strict=True
        )
    ]
    signature = types.void(*given)
    with _lock, standing_in(capability):
        text, _ = part("compiler").compile(
            function(kernel),
            signature,
            device=False,
            abi="numba",
            cc=capability,
            launch_bounds=kernel.threads,
        )
    entry = re.search(r"\.entry\s+(\w+)", text)
    assert entry is not None, "a kernel has an entry"
    return text.replace(entry.group(1), kernel.name)


def link(text: str, capability: tuple[int, int]) -> tuple[bytes, str]:
    """Make machine code of assembly; give with it what the assembler says of registers and spills.

    A driver takes machine code of any toolkit of its major version, and of assembly none that is
    newer than itself.
    """
    nvjitlink = importlib.import_module("cuda.bindings.nvjitlink")
    major, minor = capability
    options = [f"-arch=sm_{major}{minor}", "-verbose"]
    handle = nvjitlink.create(len(options), options)
    try:
        data = text.encode()
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, data, len(data), "nbloss")
        nvjitlink.complete(handle)
        code = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, code)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    finally:
        nvjitlink.destroy(handle)
    return bytes(code), log.decode(errors="replace")


def machine_code(kernel: Kernel, capability: tuple[int, int], afresh: bool = False) -> bytes:
    """Compile a kernel for a compute capability, or take it from the disk if it need not be new."""
    path = _path(kernel, capability)
    if path is not None and not afresh:
        kept = cache.read(path)
        if kept is not None:
            return kept
    code, _ = link(ptx(kernel, capability), capability)
    if path is not None:
        with contextlib.suppress(OSError):  # a full disk must not cost the user the result
            cache.write(path, code)
    return code


def _path(kernel: Kernel, capability: tuple[int, int]) -> Path | None:
    directory = cache.directory()
    if directory is None:
        return None
    toolkit = importlib.import_module("cuda.bindings.nvjitlink").version()
    version = importlib.metadata.version(DISTRIBUTION)
    made_by = binding.digest(cache.source_digest(), version, toolkit)
    return (
        directory / f"cuda-{made_by[:12]}" / f"{kernel.name}-{capability[0]}{capability[1]}.cubin"
    )


def simulated(kernel: Kernel) -> Callable:
    """Give a kernel that the simulator runs."""
    inner, (call, numbers) = device(function(kernel)), kernel.blocks

    def quiet(integers, floats):
        with np.errstate(all="ignore"):  # each thread has its own
            inner(call(*integers), numbers(*floats))

    return part().jit(quiet)


def computed(kernel: Kernel) -> type:
    """The type that a kernel computes in."""
    return memory.COMPUTED[kernel.dtype]
