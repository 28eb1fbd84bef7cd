"""How a definition becomes a kernel: a module for each kind of formula.

Each holds a template (what one chunk does, in Python that Numba compiles), compiles it for a
definition (``kernel``), and decides how the memory is walked (``make_plan``).
"""
