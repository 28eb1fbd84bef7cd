"""Machine code on its way to a device: the one module that knows CUDA's driver.

Kernels run in the context that is current and on the stream that they are given; nothing here
waits for them.
"""

import ctypes
import functools
import importlib
import threading
from typing import Any

import numpy as np

from nbloss.codegen.blocks import FLOATS, INTEGERS
from nbloss.engine.cuda import compiler
from nbloss.engine.cuda.compiler import SIMULATED, Kernel

PARAMETERS = INTEGERS + FLOATS


@functools.cache
def api() -> Any:
    """Import the driver's functions, and have the driver ready."""
    driver = importlib.import_module("cuda.bindings.driver")
    checked(driver.cuInit(0))
    return driver


def checked(result: tuple) -> Any:
    """Give what a function of the driver returned; raise if it failed."""
    error, *values = result
    if int(error):
        raise RuntimeError(f"CUDA's driver says {error.name}")
    return values[0] if len(values) == 1 else tuple(values)


@functools.cache
def capability(index: int) -> tuple[int, int]:
    """Compute capability of a device."""
    driver = api()
    device = checked(driver.cuDeviceGet(index))
    major, minor = (
        checked(driver.cuDeviceGetAttribute(getattr(driver.CUdevice_attribute, name), device))
        for name in (
            "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
            "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
        )
    )
    return major, minor


@functools.cache
def loaded(kernel: Kernel, capability: tuple[int, int]) -> Any:
    """Load a kernel; it runs on every device of the compute capability."""
    driver = api()
    code = compiler.machine_code(kernel, capability)
    result = driver.cuLibraryLoadData(code, [], [], 0, [], [], 0)
    if int(result[0]):  # a file cut short, say: compile again
        code = compiler.machine_code(kernel, capability, afresh=True)
        result = driver.cuLibraryLoadData(code, [], [], 0, [], [], 0)
    library = checked(result)
    found = checked(driver.cuLibraryGetKernel(library, kernel.name.encode()))
    return driver.CUfunction(int(found))


simulated: Any = functools.cache(compiler.simulated)


class _Parameters(threading.local):
    """A thread's memory for the parameters of a launch, which the driver copies."""

    def __init__(self) -> None:
        self.words = np.zeros(PARAMETERS, np.int64)
        self.pointers = self.words.ctypes.data + 8 * np.arange(PARAMETERS)
        self.address = self.pointers.ctypes.data


parameters = _Parameters()


def launch(kernel: Kernel, blocks: int, index: int, stream: int) -> None:
    """Launch a kernel on a device with the parameters that :data:`parameters` holds."""
    if SIMULATED:
        words = parameters.words
        dtype = np.dtype(compiler.computed(kernel))
        numbers = words[INTEGERS:].view(dtype)[:: 8 // dtype.itemsize]
        integers = tuple(int(word) for word in words[:INTEGERS])
        simulated(kernel)[blocks, kernel.threads](integers, tuple(numbers))
        return
    driver = api()
    function = loaded(kernel, capability(index))
    arguments = (function, blocks, 1, 1, kernel.threads, 1, 1, 0, stream, parameters.address, 0)
    in_context(index, driver.cuLaunchKernel, *arguments)


def in_context(index: int, function: Any, *arguments: Any) -> Any:
    """Call a function of the driver that needs a context.

    A thread that has not yet done anything with CUDA has none.
    """
    result = function(*arguments)
    if result[0] == api().CUresult.CUDA_ERROR_INVALID_CONTEXT:
        make_current(index)
        result = function(*arguments)
    return checked(result)


def make_current(index: int) -> None:
    """Make a device's primary context, which torch and CuPy use as well, the thread's own."""
    driver = api()
    device = checked(driver.cuDeviceGet(index))
    checked(driver.cuCtxSetCurrent(checked(driver.cuDevicePrimaryCtxRetain(device))))


def synchronize(stream: int) -> None:
    """Wait for a stream."""
    if not SIMULATED:
        checked(api().cuStreamSynchronize(stream))


def host_memory(size: int, index: int) -> int:
    """Allocate zeroed memory of the host that all devices can write to; give its address.

    The device of this number is the one that the thread is about to use.
    """
    if SIMULATED:
        _kept.append(np.zeros(size, np.uint8))
        return int(_kept[-1].ctypes.data)
    driver = api()
    flags = driver.CU_MEMHOSTALLOC_PORTABLE | driver.CU_MEMHOSTALLOC_DEVICEMAP
    address = int(in_context(index, driver.cuMemHostAlloc, size, flags))
    ctypes.memset(address, 0, size)
    return address


_kept: list[np.ndarray] = []
