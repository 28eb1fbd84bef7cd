"""How wide the vectors of a kernel are."""

import numba
from numba import types
from numba.extending import intrinsic

WIDTH = '"prefer-vector-width"="512"'


def _prefer(typingctx):
    """Have the loops of the function that calls this use the widest vectors that there are.

    On processors with AVX-512 LLVM keeps to half the width unless it is asked, since the first of
    them slowed down for wide ones; later ones hardly do.
    """

    def codegen(context, builder, signature, arguments):
        # llvmlite knows the attributes that are words, not those that are strings.
        set.add(builder.function.attributes, WIDTH)
        return context.get_dummy_value()

    return types.void(), codegen


wide_vectors = (lambda: None) if numba.config.DISABLE_JIT else intrinsic(_prefer)
