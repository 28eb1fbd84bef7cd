"""Calls that a library must survive: what goes in, and what has to come out.

A row names a loss, its arguments, and the outcome: an exception and what its message says, or
``None`` for the very result that torch gives. ``test_hostile.py`` runs every row on tensors, on
NumPy arrays, and on torch itself, so that no row can claim what torch does not do.
"""

from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch

INF, NAN = float("inf"), float("nan")
LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
REDUCTIONS = ("none", "mean", "sum")


@dataclass(frozen=True, repr=False)
class Call:
    """One call and its outcome.

    Attributes
    ----------
    section : str
        The part of this file that the row stands in.
    error : exception type, or several, or None
        What has to be raised, itself or a subclass; None asks for torch's result.
    match : str
        A regular expression that the message has to contain. Without one the wording is free.
    exact : bool
        The message to tensors is torch's, letter by letter; without it, ``match`` is enough.
    optional : bool
        Torch computes something here, by accident; nbloss may do so too instead of raising.
    ours : bool
        Torch itself says something else, for want of a check of its own.
    lenient : bool
        The gradient may be 0 where torch has NaN, from ``0 * inf`` or ``0 * nan``.
    """

    name: str
    label: str
    args: tuple
    kwargs: dict[str, Any] = field(default_factory=dict)
    section: str = ""
    error: type[Exception] | tuple[type[Exception], ...] | None = None
    match: str = ""
    exact: bool = True
    optional: bool = False
    ours: bool = False
    lenient: bool = False

    def __repr__(self) -> str:
        return f"{self.name}-{self.label}"


CALLS: list[Call] = []


def raises(name: str, label: str, error: Any, match: str, *args: Any, **kwargs: Any) -> None:
    """Add a call that raises; ``_exact=False`` and so on set the attributes of the row."""
    options = {key[1:]: kwargs.pop(key) for key in list(kwargs) if key.startswith("_")}
    CALLS.append(Call(name, label, args, kwargs, section, error, match, **options))


def same(name: str, label: str, *args: Any, **kwargs: Any) -> None:
    """Add a call that gives what torch gives, in value and in gradient."""
    raises(name, label, None, "", *args, **kwargs)


def real(*rows: Any) -> torch.Tensor:
    """Numbers that ask for a gradient."""
    return torch.tensor(rows[0] if len(rows) == 1 else rows, requires_grad=True)


def whole(*values: Any) -> torch.Tensor:
    """Class indices."""
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.int64)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


def indices(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def brackets(shape: tuple[int, ...]) -> str:
    """Write a shape as torch's messages do, for a regular expression."""
    return rf"\[{', '.join(map(str, shape))}\]"


# --- well-behaved arguments, of which the calls below spoil one -------------------------------

X, OTHER, THIRD = torch.randn((3, 4, 5), generator=torch.Generator().manual_seed(3))
LOGP = X.log_softmax(1)
PROBABILITIES = OTHER.softmax(1)
T = whole(0, 1, 2, 3)
LABELS = whole([0, 1, -1, 0, 0], [3, -1, 0, 0, 0], [-1, 0, 0, 0, 0], [1, 1, 2, -1, 2])
Y = (X > 0).float()

GOOD: dict[str, tuple[torch.Tensor, ...]] = {
    "nll_loss": (LOGP, T),
    "cross_entropy": (X, T),
    "huber_loss": (X, OTHER),
    "multilabel_margin_loss": (X, LABELS),
    "multilabel_soft_margin_loss": (X, Y),
    "margin_ranking_loss": (X, OTHER, 2 * Y - 1),
    "triplet_margin_loss": (X, OTHER, THIRD),
    "triplet_margin_with_distance_loss": (X, OTHER, THIRD),
}
NLL, CROSS, HUBER, MULTI, SOFT, RANKING, TRIPLET, DISTANCE = GOOD
CLASSES, TRIPLETS = (NLL, CROSS), (TRIPLET, DISTANCE)


def spoilt(name: str, position: int, value: Any) -> tuple:
    """The good arguments of a loss but one."""
    return (*GOOD[name][:position], value, *GOOD[name][position + 1 :])


# --- targets that are out of range: the index must not be followed ----------------------------

section = "targets"
BAD = (5, -1, 2**32, LONG_MAX, LONG_MIN)
for name, bad in product(CLASSES, BAD):
    for label, x, t, kwargs in (
        *(
            (f"2d-{reduction}", X, [0, 1, 2, bad], {"reduction": reduction})
            for reduction in REDUCTIONS
        ),
        ("2d-weight", X, [0, bad, 2, 3], {"weight": torch.ones(5)}),
        ("1d", X[0], bad, {}),
        ("3d", zeros(2, 5, 3), [[0, 1, 0], [0, bad, 0]], {}),
        ("4d", zeros(1, 5, 2, 2), [[[0, 1], [bad, 0]]], {}),
        ("4d-none", zeros(1, 5, 2, 2), [[[0, 1], [bad, 0]]], {"reduction": "none"}),
        ("5d", zeros(1, 5, 1, 2, 2), [[[[0, bad], [0, 0]]]], {}),
    ):
        text = rf"^Target {bad} is out of bounds\.$"
        raises(name, f"target-{bad}-{label}", IndexError, text, x, whole(t), **kwargs)
for name in CLASSES:
    raises(name, "first-of-two", IndexError, "Target -99 is", X, whole(0, -99, 0, 7))
    raises(name, "uint8", IndexError, "Target 252 is", X, T.to(torch.uint8) + 252)
    raises(name, "no-classes", IndexError, "Target 0 is", zeros(4, 0), T)
    t = whole(0, -1, -100, 0)
    raises(name, "ignores-another", IndexError, "Target -100 is", X, t, ignore_index=-1)
    for ignored in (7, LONG_MAX, LONG_MIN):
        same(name, f"ignored-{ignored}", X, whole(0, ignored, 1, 2), ignore_index=ignored)
    same(name, "no-classes-ignored", zeros(2, 0), whole(-100, -100))
t = whole(0, 1, 2, 5)
raises(CROSS, "smoothed", IndexError, "Target 5 is", X, t, label_smoothing=0.1)

for bad, reduction in product((5, -2, 2**32, LONG_MAX, LONG_MIN), REDUCTIONS):
    for label, x, t in (
        ("first", X[:2], [[0, -1, 0, 0, 0], [bad, 0, -1, 0, 0]]),
        ("last", X[:2], [[0, -1, 0, 0, 0], [0, 1, 2, 3, bad]]),
        ("after-the-end", X[:2], [[0, -1, 1, 1, bad], [0, -1, 0, 0, 0]]),
        ("1d", X[0], [0, -1, 0, 0, bad]),
        ("0d", X[0, 0], bad),
    ):
        text = "^argument #2 'target' is out of range$"
        label = f"target-{bad}-{label}-{reduction}"
        raises(MULTI, label, RuntimeError, text, x, whole(t), reduction=reduction)

# --- shapes -----------------------------------------------------------------------------------

section = "shapes"

FLAT = "0D or 1D target tensor expected, multi-target not supported"
FOUR = "only batches of spatial targets supported .* but got targets of dimension: 2"
for name, (error, text, x_shape, t_shape) in product(
    CLASSES,
    (
        (ValueError, r"batch_size \(4\) to match target batch_size \(3\)\.$", (4, 5), (3,)),
        (ValueError, r"batch_size \(4\) to match target batch_size \(0\)\.$", (4, 5), ()),
        (ValueError, r"batch_size \(4\) to match target batch_size \(2\)\.$", (4, 5), (2, 2)),
        (RuntimeError, FLAT, (4, 5), (4, 3)),
        (RuntimeError, FLAT, (5,), (1, 2)),
        (ValueError, "For 1D input, 1D target must have size 1, but got", (5,), (2,)),
        (RuntimeError, r"Expected target size \[2, 3\], got \[2, 4\]", (2, 4, 3), (2, 4)),
        (RuntimeError, r"Expected target size \[2, 3\], got \[2\]", (2, 4, 3), (2,)),
        (ValueError, r"batch_size \(2\) to match target batch_size \(3\)", (2, 4, 3), (3, 3)),
        (RuntimeError, r"^size mismatch \(got input: \[2, 4, 3", (2, 4, 3, 3), (2, 4, 3)),
        (ValueError, r"batch_size \(2\) to match target", (2, 4, 3, 3), (1, 3, 3)),
        (RuntimeError, FOUR, (2, 4, 3, 3), (2, 3)),
        (RuntimeError, r"Expected target size \[2, 3, 3, 2\]", (2, 4, 3, 3, 2), (2, 3, 4, 2)),
        (RuntimeError, r"Expected target size \[2, 3, 3, 2\]", (2, 4, 3, 3, 2), (2, 3, 3)),
    ),
):
    raises(name, f"{x_shape}{t_shape}", error, text, zeros(*x_shape), indices(*t_shape))
raises(NLL, "0d", ValueError, r"Expected 1 or more dimensions \(got 0\)", X[0, 0], T[0])

EMPTY = "Expected non-empty vector or matrix with optional 0-dim batch size, but got: "
for shape in ((2, 3, 4), (4, 0), (0,), (0, 0), (2, 3, 4, 1)):
    text = EMPTY + brackets(shape)
    raises(MULTI, f"{shape}", RuntimeError, text, zeros(*shape), indices(*shape))
for x_shape, shape in (
    *product([(4, 5)], ((4, 3), (3, 5), (5,), (), (1, 4, 5))),
    *product([(5,)], ((3,), (1, 5), (5, 1))),
    ((1, 5), (5,)),
    ((), (2,)),
):
    text = f"inconsistent target size: {brackets(shape)} for input of size: {brackets(x_shape)}"
    raises(MULTI, f"{x_shape}{shape}", RuntimeError, text, zeros(*x_shape), indices(*shape))

SIZES = r"The size of tensor a \(\d\) must match the size of tensor b \(\d\) at non-singleton"
for name in (HUBER, SOFT, RANKING, *TRIPLETS):
    for position, good in enumerate(GOOD[name]):
        for label, bad in (("rows", good[:3]), ("columns", good[:, :3])):
            args = spoilt(name, position, bad)
            raises(name, f"{label}-{position}", RuntimeError, SIZES, *args, _exact=False)
for name, text in (
    (RANKING, "^margin_ranking_loss : All input tensors should have same dimension but got sizes:"),
    (TRIPLET, "^The anchor, positive, and negative tensors are expected to have the same number"),
    (DISTANCE, "^The anchor, positive, and negative tensors are expected to have the same number"),
):
    for position, good in enumerate(GOOD[name]):
        for bad in (good[0], good[None], good[0, 0]):
            label = f"{bad.dim()}d-{position}"
            raises(name, label, RuntimeError, text, *spoilt(name, position, bad))
raises(SOFT, "0d", IndexError, "", X[0, 0], Y[0, 0])

# --- weights ----------------------------------------------------------------------------------

section = "weights"

for name, shape in product(CLASSES, ((4,), (6,), (1,), (), (1, 5), (0,), (4, 5))):
    text = "weight tensor should be defined either for all 5 classes or no classes but got "
    text += f"weight tensor of shape: {brackets(shape)}"
    weight = torch.ones(shape)
    raises(name, f"weight-{shape}", RuntimeError, f"^{text}", X, T, weight=weight)
    raises(name, f"weight-{shape}-1d", RuntimeError, f"^{text}", X[0], T[0], weight=weight)
    if name == CROSS:
        text = f"^{name}: {text}"
        raises(name, f"weight-{shape}-soft", RuntimeError, text, X, PROBABILITIES, weight=weight)
for name, x in product(CLASSES, (zeros(2, 5, 3), zeros(2, 5, 3, 3), zeros(2, 5, 3, 1, 1))):
    text = "weight tensor should be defined either for all (5 classes )?or no classes"
    t = indices(2, *x.shape[2:])
    raises(name, f"weight-{x.dim()}d", RuntimeError, text, x, t, weight=torch.ones(4))
OTHER_DTYPES = (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64)
for name, dtype in product(CLASSES, OTHER_DTYPES):
    raises(name, f"weight-{dtype}", RuntimeError, "", X, T, weight=torch.ones(5, dtype=dtype))
for name, x in product(CLASSES, (X, X.clone().requires_grad_())):
    text, label = "not differentiable .* 'weight'", f"weight-gradient-{x.requires_grad}"
    weight = real([1.0] * 5)
    raises(name, label, RuntimeError, text, x, T, weight=weight, _exact=False)
for shape in ((5,), (), (1, 5), (4, 1), (5, 4)):
    text, weight = "Weights and input must have the same size", torch.ones(shape)
    raises(HUBER, f"weight-{shape}", ValueError, text, X, OTHER, weight=weight)
raises(SOFT, "weight-(3,)", RuntimeError, SIZES, X, Y, weight=torch.ones(3), _exact=False)

# --- dtypes -----------------------------------------------------------------------------------

section = "dtypes"

WORDS = {
    torch.int8: "Char",
    torch.int16: "Short",
    torch.bool: "Bool",
    torch.float32: "Float",
    torch.float64: "Double",
    torch.float16: "Half",
    torch.complex64: "ComplexFloat",
    torch.uint16: "UInt16",
    torch.uint64: "UInt64",
}
for name, (dtype, word) in product(CLASSES, WORDS.items()):
    text = f"^expected target dtype to be Long or Byte, but got ({word}|{str(dtype)[6:]})$"
    for x, t in ((X[0], T[0]), (X, T), (zeros(2, 5, 3), indices(2, 3))):
        raises(name, f"target-{dtype}-{x.dim()}d", RuntimeError, text, x, t.to(dtype))
REFUSED = (NotImplementedError, RuntimeError)
for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64):
    x, label = X.to(dtype), f"input-{dtype}"
    for name in (*CLASSES, MULTI, SOFT):
        raises(name, label, NotImplementedError, "", *spoilt(name, 0, x))
    raises(HUBER, label, REFUSED, "", x, OTHER)
    raises(HUBER, f"both-{dtype}", NotImplementedError, "", x, x)
for dtype in (torch.uint8, torch.int8, torch.bool, torch.float32):
    raises(MULTI, f"target-{dtype}", RuntimeError, "", X, indices(4, 5).to(dtype))
raises(MULTI, "target-complex", REFUSED, "", X, LABELS + 0j)
raises(HUBER, "target-complex", RuntimeError, "", X, OTHER + 0j)
raises(SOFT, "target-bool", RuntimeError, "", X, Y.bool())
raises(SOFT, "target-complex", REFUSED, "", X, Y + 0j, _optional=True)
for name, position in product((RANKING, *TRIPLETS), range(3)):
    good = GOOD[name][position]
    raises(name, f"bool-{position}", RuntimeError, "", *spoilt(name, position, good > 0))
    args, optional = spoilt(name, position, good + 0j), name in TRIPLETS
    raises(name, f"complex-{position}", REFUSED, "", *args, _optional=optional)

# --- probabilities and label smoothing --------------------------------------------------------

section = "probabilities"

for dtype, word in ((torch.int64, "Long"), (torch.bool, "Bool"), (torch.uint8, "Byte")):
    text = "^Expected floating point type for target with class probabilities, got "
    text += f"({word}|{str(dtype)[6:]})$"
    raises(CROSS, f"probabilities-{dtype}", RuntimeError, text, X, Y.to(dtype))
for ignored in (0, 2, 7):
    text = "^ignore_index is not supported for floating point target$"
    args = X, PROBABILITIES
    raises(CROSS, f"probabilities-{ignored}", RuntimeError, text, *args, ignore_index=ignored)
same(CROSS, "probabilities-ignored-negative", X, PROBABILITIES, ignore_index=-1)
for bad, t in product((1.1, INF), (T, PROBABILITIES)):
    text, label = "^label_smoothing must be between 0.0 and 1.0. Got: ", f"smoothing-{bad}"
    raises(CROSS, f"{label}-{t.dim()}d", RuntimeError, text + str(bad), X, t, label_smoothing=bad)
for odd in (-0.1, NAN, -INF):  # torch refuses what is above one, and smooths if above zero
    same(CROSS, f"smoothing-{odd}", X, T, label_smoothing=odd)

# --- parameters -------------------------------------------------------------------------------

section = "parameters"

for bad, reduction in product((0, 0.0, -1.0, NAN, -INF), REDUCTIONS):
    text = r"^huber_loss does not support non-positive values for delta\.$"
    kwargs = {"delta": bad, "reduction": reduction}
    raises(HUBER, f"delta-{bad!r}-{reduction}", RuntimeError, text, X, OTHER, **kwargs)
    kwargs["weight"] = torch.ones(4, 5)
    raises(HUBER, f"delta-{bad!r}-{reduction}-weight", RuntimeError, text, X, OTHER, **kwargs)
for name, bad in product(TRIPLETS, (0, -1, 0.0, -0.5, -INF, False)):
    text = f"^margin must be greater than 0, got {bad}$"
    raises(name, f"margin-{bad!r}", ValueError, text, *GOOD[name], margin=bad)
for name, odd in product(TRIPLETS, (NAN, INF, 1e-30)):
    same(name, f"margin-{odd}", *GOOD[name], margin=odd)
for odd in (NAN, INF, -INF, -1, 1e30):
    same(RANKING, f"margin-{odd}", *GOOD[RANKING], margin=odd)
for name, parameter in (
    *((name, "ignore_index") for name in CLASSES),
    (CROSS, "label_smoothing"),
    (HUBER, "delta"),
    *((name, "margin") for name in (RANKING, *TRIPLETS)),
    (TRIPLET, "p"),
    (TRIPLET, "eps"),
):
    for bad in (None, "a", [1.0], *([1.5] if parameter == "ignore_index" else [])):
        label = f"{parameter}-{bad!r}"
        raises(name, label, TypeError, "", *GOOD[name], **{parameter: bad})
for name, bad in product(CLASSES, (2**63, -(2**63) - 1)):
    raises(name, f"ignore_index-{bad}", ValueError, "", X, T, ignore_index=bad)

for name, bad in product(GOOD, ("foo", "", "MEAN", "batchmean", None, 1, True, b"mean", ["mean"])):
    error, text = ValueError, "^" + str(bad).replace("[", r"\[") + " is not a valid value for redu"
    if name == SOFT:
        error, text = (
            (ValueError, f"^{bad} is not valid$")
            if isinstance(bad, str)
            else ((TypeError, ValueError), "")  # torch trips over its own message
        )
    raises(name, f"reduction-{bad!r}", error, text, *GOOD[name], reduction=bad)
for bad in ("foo", None, 1):
    text = f"^Invalid reduction mode: {bad}. Expected one of 'none', 'mean', 'sum'.$"
    kwargs = {"reduction": bad, "weight": torch.ones(4, 5)}
    raises(HUBER, f"reduction-{bad!r}-weight", ValueError, text, X, OTHER, **kwargs)

# --- what is no dense tensor on the CPU, or no tensor at all ----------------------------------

section = "objects"


class Thing:
    """An object of no use to anybody."""


for name, good in GOOD.items():
    for position, x in enumerate(good):
        for bad in (None, x.tolist(), "abc", Thing(), 1.0, x.numpy()):
            # Python's arithmetic lets torch take a number for the target of this loss.
            number = name == SOFT and position == 1 and isinstance(bad, (int, float))
            args, label = spoilt(name, position, bad), f"{type(bad).__name__}-{position}"
            raises(name, label, TypeError, "", *args, _ours=True, _optional=number)
        args = spoilt(name, position, x.to("meta"))
        raises(name, f"meta-{position}", RuntimeError, "device", *args, _exact=False)
        args = spoilt(name, position, x.to_sparse())
        raises(name, f"sparse-{position}", (*REFUSED, TypeError), "", *args, _optional=True)
    args = [x.to("meta") for x in good]
    raises(name, "meta", (*REFUSED, TypeError), "", *args, _optional=True)
    raises(name, "lists", TypeError, "", *(x.tolist() for x in good), _ours=True)
    raises(name, "one-argument", TypeError, "", good[0])
    raises(name, "unknown-keyword", TypeError, "", *good, gamma=1)
for name, shape in {NLL: 5, CROSS: 5, HUBER: (4, 5), SOFT: 5}.items():
    weight = torch.ones(shape)
    for bad in ([1.0], "abc", Thing(), 2.0, weight.numpy()):
        number = name == SOFT and isinstance(bad, (int, float))
        label, kwargs = f"weight-{type(bad).__name__}", {"_ours": True, "_optional": number}
        raises(name, label, TypeError, "", *GOOD[name], weight=bad, **kwargs)
    weight = weight.to("meta")
    raises(name, "weight-meta", RuntimeError, "device", *GOOD[name], weight=weight, _exact=False)
raises(DISTANCE, "positional", TypeError, "", *GOOD[DISTANCE], None)
for label, bad in {"int": 3, "one-operand": lambda a: a, "number": lambda a, b: 1.0}.items():
    raises(DISTANCE, f"distance-{label}", TypeError, "", *GOOD[DISTANCE], distance_function=bad)

# --- NaN, infinities, huge and tiny numbers: torch's result -----------------------------------

section = "numbers"

SPECIAL = (NAN, INF, -INF, 1e30, -1e30, 1e-30, -1e-40, 88.8, -104.0, 0.0, -0.0)
for odd in SPECIAL:
    rows = {"target": [odd, 0.5, -1.0], "other": [0.5, odd, -1.0]}
    for name, (label, row) in product(CLASSES, rows.items()):
        label, x = f"{odd}-{label}", real(row, [0.2, 0.5, 1.0])
        weight = torch.tensor([0.0, 1.0, 2.0])
        same(name, label, x, whole(0, 2), reduction="none")
        # log_softmax has a NaN gradient wherever a row holds a NaN, even if the row is ignored.
        same(name, f"{label}-ignored", x, whole(-100, 2), _lenient=True)
        same(name, f"{label}-weight", x, whole(0, 2), weight=weight, _lenient=True)
    weight, x = torch.tensor([1.0, odd, 1.0, 1.0, 1.0]), real(rows["target"], [0.2, 0.5, 1.0])
    same(NLL, f"weight-{odd}", X, T, weight=weight)
    same(CROSS, f"weight-{odd}", X, T, weight=weight)
    same(CROSS, f"{odd}-smoothed", x, whole(0, 2), label_smoothing=0.1)
    same(CROSS, f"{odd}-probabilities", x, torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]))
    for name, position in product(TRIPLETS, range(3)):
        args = [x[:2].clone() for x in GOOD[name]]
        args[position][1, 2] = odd
        args = [x.requires_grad_() for x in args]
        if abs(odd) != 1e30:  # the square is beyond float32, but not beyond a wider sum
            for swap in (False, True):
                kwargs = {"swap": swap, "reduction": "none"}
                same(name, f"{odd}-{position}-{swap}", *args, **kwargs)
same(CROSS, "all-minus-infinity", real([-INF] * 3, [0.0, 1.0, 2.0]), whole(0, 1))
x = real([[0.0, -INF, 1.0]])
same(CROSS, "masked-smoothed", x, whole([0]), label_smoothing=0.1)
same(CROSS, "masked-zero-probability", x, torch.tensor([[0.5, 0.0, 0.5]]), _lenient=True)

FIRST, SECOND = (real(side) for side in zip(*product(SPECIAL, SPECIAL), strict=True))
same(HUBER, "special", FIRST, SECOND, reduction="none")
for sign in (1.0, -1.0):
    args = FIRST, SECOND, real([sign] * len(FIRST))
    same(RANKING, f"special-{sign}", *args, margin=0.5, reduction="none")
for odd in SPECIAL:
    args = X[0].clone().requires_grad_(), OTHER[0].clone().requires_grad_(), real([odd] * 5)
    same(RANKING, f"target-{odd}", *args, margin=0.5, reduction="none")
for odd, p, swap in product((NAN, INF), (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, INF, -INF), (False, True)):
    for position in range(3):
        args = [x[:2].clone() for x in GOOD[TRIPLET]]
        args[position][1, 2] = odd
        args = [x.requires_grad_() for x in args]
        kwargs = {"p": p, "swap": swap, "reduction": "none"}
        same(TRIPLET, f"{odd}-{position}-p{p}-{swap}", *args, **kwargs)
FINITE = (1e30, -1e30, 1e-30, -1e-40, 88.8, -104.0, 0.0, 0.5, 1.0, -1.0)
FIRST, SECOND = (real(side) for side in zip(*product(FINITE, FINITE), strict=True))
for delta in (1e-30, 1e30, INF):
    same(HUBER, f"delta-{delta}", FIRST, SECOND, delta=delta, reduction="none")
FIRST, SECOND = real([INF, -INF, INF, NAN, 1.0]), real([0.0, 0.5, INF, INF, INF])
same(HUBER, "delta-inf-errors-inf", FIRST, SECOND, delta=INF, reduction="none")
for shape, reduction in product(((0, 0), (3, 0), (0, 3), (0,)), REDUCTIONS):
    x = zeros(*shape).requires_grad_()
    same(SOFT, f"empty-{shape}-{reduction}", x, zeros(*shape), reduction=reduction)
x = real([[value] for value in SPECIAL])
for target in (0.0, 1.0, 0.5, -1.0, NAN):
    same(SOFT, f"special-{target}", x, real([[target]] * len(SPECIAL)), reduction="none")
same(SOFT, "infinite-weight", X, Y, weight=torch.tensor([0.0, INF, 1.0, 1.0, -1.0]))
for odd, place in product((INF, -INF, 1e30, -1e30, 1e-40), (0, 1, 3)):
    scores = [0.5, 0.25, -0.5, 1.0]
    scores[place] = odd
    same(MULTI, f"{odd}-{place}", real(scores), whole(0, 1, -1, 0))
for offset in (100.0, 2.0**20, -(2.0**20)):
    scores = [offset + step for step in (8.0, 0.0, 16.0, 8.0)]
    same(MULTI, f"offset-{offset}", real(scores), whole(0, 1, -1, 0))
