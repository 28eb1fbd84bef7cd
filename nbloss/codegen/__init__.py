"""The compiler's back: a schedule becomes the source of a kernel, and that becomes machine code.

spec         what a kernel is asked for, and the fields of its call
emit         what the sources for all devices share: expressions, names, walks
emit_cpu     kernels for the CPU: rows one by one, or a tile of rows side by side
runtime      what a source calls on the CPU
compile      Numba compiles a source, or takes it from the cache
"""
