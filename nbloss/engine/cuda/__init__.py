"""The same definitions as kernels for CUDA.

:mod:`~nbloss.engine.cuda.compiler` is the one module that knows the compiler, and
:mod:`~nbloss.engine.cuda.driver` the one that knows the driver. Kernels are emitted by
:mod:`nbloss.codegen.emit_cuda`, but for the one in :mod:`~nbloss.engine.cuda.pairs`; what they call
is in :mod:`~nbloss.engine.cuda.runtime`.
"""
