"""How a definition becomes a kernel: a module for each kind of formula.

Each has a template (what one chunk does, in Python that Numba compiles) and two functions that lay
the memory out for it:

- ``forward(xp, problem, wanted)`` gives the value and, in the same pass, the wanted gradients of a
  reduced loss;
- ``backward(xp, problem, upstream, wanted)`` gives the gradients alone.

``xp`` is the module that knows the arrays at hand: :mod:`nbloss.bridge.numpy` or
:mod:`nbloss.bridge.torch`.
"""
