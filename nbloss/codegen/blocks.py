"""The two blocks of numbers that every kernel is given: integers (addresses, sizes), and floats."""

INTEGERS = 64  # length of the block of integers
FLOATS = 8  # length of the block of floats

# Where all kernels find the partial sums: the last of the integers.
PARTIALS = INTEGERS - 1
# The first floats: factors of the sum of the values, and of the derivatives; then the parameters.
VALUE_SCALE, GRADIENT_SCALE, FIRST_PARAMETER = range(3)
