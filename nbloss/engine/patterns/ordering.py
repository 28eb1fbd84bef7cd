"""A hinge over all pairs of a row, without going through the pairs.

A label's bound is the score above which another class costs something. With the bounds in order, a
binary search tells how many of them lie below a class's score, and a sum kept along the order what
they come to. A row of C classes and T labels takes (C + T) log T steps instead of C T. Derivatives
are numbers of classes and labels, and exact.
"""

import numpy as np

from nbloss.codegen.vectors import wide_vectors

LANES = 4


def in_order(numbers, spare, count):
    """Sort 1, 2, 4, ... numbers by merging; give back whichever array they end up in.

    Two runs of a length give one from both its ends at once: neither can be used up, and there is
    no branch to be guessed wrongly.
    """
    width = 1
    while width < count:
        for begin in range(0, count, 2 * width):
            end = begin + 2 * width - 1
            low, high = begin, begin + width
            last_low, last_high = high - 1, end
            for k in range(width):
                second = numbers[high] < numbers[low]
                spare[begin + k] = numbers[high] if second else numbers[low]
                high += second
                low += not second
                first = numbers[last_high] < numbers[last_low]
                spare[end - k] = numbers[last_low] if first else numbers[last_high]
                last_low -= first
                last_high -= not first
        numbers, spare = spare, numbers
        width *= 2
    return numbers


def count_below(bounds, half, numbers, below, count):
    """Count for each number the bounds below it: a binary search for many at a time.

    The bounds are in order, and ``2 * half - 1`` of them.
    """
    wide_vectors()
    for i in range(count):
        below[i] = 0
    step = half
    while step > 0:
        for i in range(count):
            found = np.uint32(below[i] + step)
            below[i] = found if bounds[np.uint32(found - np.uint32(1))] < numbers[i] else below[i]
        step //= 2


def by_order(
    score, pull, labels, count, half, classes, length, own, bounds, spare, sums, below, met
):
    """Give the value of a row, and put the derivatives into ``pull``.

    What another class costs is what its score exceeds each of the bounds by that lie below it: its
    score times their number, less their sum. Scores count from the lowest bound, so that there is
    little to lose in this difference.

    The scores of ``count`` labels are finite, ``half`` is the power of two that is at most as much,
    and the arrays after it are memory to work in.
    """
    wide_vectors()
    for t in range(count):
        own[t] = -hinge(score[labels[t]])
        bounds[t] = own[t]
    for k in range(count, 2 * half):
        bounds[k] = COMPUTED(np.inf)
    bounds = in_order(bounds, spare, 2 * half)
    origin = np.float64(bounds[0])
    sums[0] = 0.0
    for k in range(count):
        sums[k + 1] = sums[k] + (bounds[k] - origin)
    for start in range(0, classes, length):
        count_below(bounds, half, score[start:], below[start:], min(length, classes - start))
    for t in range(count):
        below[labels[t]] = 0
    value = 0.0
    for c in range(classes):
        excess = np.float64(score[c]) - origin
        value += below[c] * (excess if excess > 0.0 else 0.0) - sums[below[c]]
    if NEEDS_GRAD:
        # How many classes exceed how many bounds. Neighbours count in different places, since to
        # add to what has only just been stored takes time.
        for k in range(LANES * (count + 1)):
            met[k] = 0
        for c in range(classes):
            pull[c] = COMPUTED(below[c])
            met[LANES * below[c] + np.uint32(c % LANES)] += 1
        above = 0
        for k in range(count, -1, -1):
            for lane in range(LANES):
                above += met[LANES * k + lane]
            met[k * LANES] = above
        count_below(bounds, half, own, below, count)
        for t in range(count):
            pull[labels[t]] -= COMPUTED(met[LANES * (below[t] + 1)])
    return value
