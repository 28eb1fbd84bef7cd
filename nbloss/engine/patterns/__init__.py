"""How the work of a loss is laid out: by elements, rows, classes, or pairs of classes.

Each pattern says what there is to do for a request (``work``); the kernels are emitted from the
formulas. Pairs have loops that are written by hand, and a plan of their own (``make_plan``).
"""
