"""The same definitions as kernels for CUDA.

:mod:`~nbloss.engine.cuda.compiler` is the one module that knows the compiler, and
:mod:`~nbloss.engine.cuda.driver` the one that knows the driver. The templates, a module for each
pattern, are written in CUDA's own words (threads, blocks, shared memory) and call the formulas.
"""
