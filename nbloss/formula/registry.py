"""What a definition is, and the list of all of them.

The decorators here turn a plain formula into a :class:`Definition`. The pattern says what the
formula is a formula of: one element, one class of a row, one pair, one coordinate of a distance.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nbloss.formula import derive, expression, finite_differences, trace
from nbloss.formula.trace import Formula

LOSSES: dict[str, "Definition"] = {}
# The public functions, by the names of their losses; nbloss.functional makes them.
FUNCTIONS: dict[str, Callable] = {}
# Called with a definition that another one takes the place of.
ON_REPLACEMENT: list[Callable[["Definition"], None]] = []


@dataclass(frozen=True, eq=False)
class Definition:
    """A formula and what the engine has to know of it.

    Attributes
    ----------
    name : str
        Name of the function in ``nbloss.functional``.
    formula : function
        Plain Python over the primitives; gives the value.
    symbolic : Formula
        The same for the compiler.
    pattern : str
        Name of the module of :mod:`nbloss.engine.patterns` that turns it into kernels.
    operands : tuple of str
        The arguments that are arrays: those without a default.
    parameters : mapping
        The arguments that are numbers, with their defaults.
    differentiable : tuple of str
        The operands that the value has a derivative with respect to.
    module : str
        Name of the class in ``nbloss.nn``.
    mean_over_classes : bool
        Whether the loss of a sample is the mean over the last dimension.
    hinge : function or None
        For a pairwise loss that is a hinge: what the formula adds to the other class's score.
    saves_operands : bool
        Whether torch's own function saves the operands for its backward pass, where a change in
        place between the passes is an error. Where it does not, it keeps as much memory as the
        gradients take.
    sparse_gradient : bool
        Whether the value takes but a few of the numbers that the gradient has.
    row_formulas : tuple of Formula
        The formulas of a row's value, from which the CPU's kernels are made: for a label, and for
        probabilities.
    optional : tuple of str
        Operands of the formula that may be left out, and are 1 then.
    of_distances : Definition or None
        Of a loss of distances: the same of distances that have been measured.
    autocast : tuple of str
        The devices on which torch's autocast has half types computed in float32.
    targets : tuple of float
        The numbers that a target may be, if not all are.
    is_compiled_wrongly : bool
        Whether torch's compiler makes another loss of torch's own function.
    """

    name: str
    formula: Callable
    symbolic: Formula
    pattern: str
    operands: tuple[str, ...]
    parameters: Mapping[str, float]
    differentiable: tuple[str, ...]
    module: str
    mean_over_classes: bool = False
    hinge: Callable | None = None
    saves_operands: bool = True
    sparse_gradient: bool = False
    row_formulas: tuple[Formula, ...] = ()
    optional: tuple[str, ...] = ()
    of_distances: "Definition | None" = None
    autocast: tuple[str, ...] = ("cpu", "cuda")
    targets: tuple[float, ...] = ()
    is_compiled_wrongly: bool = False

    @functools.cached_property
    def keeps_zeros(self) -> bool:
        """Whether a derivative of 0 says that something takes no part in the loss.

        It may be another class than the target's, an ignored row, or a margin that is kept. The
        gradient is 0 then, in torch as well, though `grad_output` be infinite or NaN.
        """
        if self.pattern == "classes":
            return True
        graph = self.symbolic.graph()
        return any(x.op == "clamp_min" for x in expression.ancestors(graph.value))

    def __call__(self, *arguments: Any) -> Any:
        """Evaluate the formula as it stands, on Python numbers or NumPy arrays."""
        return self.formula(*arguments)

    def __repr__(self) -> str:
        return f"<{self.pattern} definition {self.name}>"


def listed(definition: Definition) -> Definition:
    """List a definition among the losses.

    One's own loss may be defined again, as a notebook does when its cell is run again; whatever is
    made of it from then on is made of the new definition.
    """
    if not definition.name.isidentifier():
        raise expression.FormulaError(
            f"a loss needs a name: define it with def {trace.location(definition.formula)}"
        )
    known = LOSSES.get(definition.name)
    if known is not None and is_built_in(known):
        raise ValueError(
            f"{definition.name} is a loss of nbloss; a loss of your own needs another name"
        )
    LOSSES[definition.name] = definition
    if known is not None:
        for forget in ON_REPLACEMENT:
            forget(known)
    return definition


def is_built_in(definition: Definition) -> bool:
    """Whether a definition is one of those in :mod:`nbloss.losses`."""
    return definition.formula.__module__.startswith("nbloss.losses.")


def built_in() -> tuple[str, ...]:
    """Name the losses of nbloss; those that torch has as well have torch's contract."""
    return tuple(name for name, definition in LOSSES.items() if is_built_in(definition))


def variant(definition: Definition, name: str, module: str, **facts: Any) -> Definition:
    """List the same formula once more, for a function that differs in its arguments alone."""
    return listed(replace(definition, name=name, module=module, **facts))


def pointwise(
    function: Callable | None = None,
    *,
    module: str | None = None,
    derivatives: Mapping[str, Callable] | None = None,
    check: bool = True,
    **facts: Any,
) -> Any:
    """Define a loss by the formula of one element.

    Parameters
    ----------
    function : function
        Gives the value. Its arguments without a default are the operands, those with a float as
        default the parameters.
    module : str, optional
        Name of the class in ``nbloss.nn``; by default the formula's name in CamelCase.
    derivatives : mapping of str to function, optional
        Derivatives that deliberately are not those of the value, by operand; functions of the same
        arguments.
    check : bool, optional
        Whether these are compared with finite differences of the value.
    **facts
        Further attributes of the :class:`Definition`.

    Raises
    ------
    FormulaError
        If the formula does what the compiler can't follow.
    ValueError
        If the name is that of a loss of nbloss.
    """
    if function is None:
        return functools.partial(
            pointwise, module=module, derivatives=derivatives, check=check, **facts
        )
    check_formula(trace.formula(function, False))
    module = module or camel_case(function.__name__)
    definition = element(function, derivatives, module=module, **facts)
    if derivatives and check:
        finite_differences.check(definition.symbolic)
    return listed(definition)


def rowwise(
    function: Callable | None = None,
    *,
    module: str | None = None,
    derivatives: Mapping[str, Callable] | None = None,
    check: bool = True,
    **facts: Any,
) -> Any:
    """Define a loss by the formula of one row, which lies along the last dimension.

    Parameters
    ----------
    function : function
        Gives the value of the row. Its arguments without a default are the operands: rows, unless
        they are annotated with :class:`~nbloss.formula.trace.Index`, ``PerRow`` or ``PerColumn``.
        Those with a float as default are parameters, those with another default options.
    module, derivatives, check, **facts
        As for :func:`pointwise`.

    Raises
    ------
    FormulaError
        If the formula does what the compiler can't follow.
    ValueError
        If the name is that of a loss of nbloss.
    """
    if function is None:
        return functools.partial(
            rowwise, module=module, derivatives=derivatives, check=check, **facts
        )
    symbolic = trace.formula(function, True, derivatives)
    check_formula(symbolic)
    floats = tuple(n for n, kind in symbolic.operands.items() if kind in ("element", "per_row"))
    if not floats or symbolic.operands[floats[0]] != "element":
        raise expression.FormulaError(
            f"{function.__name__}: the first operand must be a row, got {list(symbolic.operands)} "
            f"{trace.location(function)}"
        )
    if derivatives and check:
        finite_differences.check(symbolic)
    return listed(
        Definition(
            function.__name__,
            function,
            symbolic,
            "rows",
            tuple(symbolic.operands),
            symbolic.parameters,
            with_derivative(symbolic, floats),
            module or camel_case(function.__name__),
            **facts,
        )
    )


def check_formula(symbolic: Formula) -> None:
    """See that a formula is one, and that torch's graphs can hold its options."""
    for name, value in symbolic.options.items():
        if not isinstance(value, bool | int | str):
            raise expression.FormulaError(
                f"{symbolic.name}: the default of {name} must be a float, which makes a parameter, "
                f"or a bool, int or str, which makes an option; got {value!r} "
                f"{trace.location(symbolic.function)}"
            )
    trace.check_uses(symbolic)


def element(
    function: Callable,
    derivatives: Mapping[str, Callable] | None = None,
    module: str = "",
    optional: tuple[str, ...] = (),
    **more: Any,
) -> Definition:
    """Make the definition of a loss of elements; see :func:`pointwise`."""
    symbolic = trace.formula(function, False, derivatives)
    operands = tuple(name for name in symbolic.operands if name not in optional)
    return Definition(
        function.__name__,
        function,
        symbolic,
        "pointwise",
        operands,
        symbolic.parameters,
        with_derivative(symbolic, operands),
        module,
        optional=optional,
        **more,
    )


def camel_case(name: str) -> str:
    """Give the name of a module of a loss."""
    return "".join(word.capitalize() for word in name.split("_"))


def with_derivative(symbolic: Formula, operands: tuple[str, ...]) -> tuple[str, ...]:
    """Name the operands that the value has a derivative with respect to."""
    graph = symbolic.graph()
    nodes = [expression.operand(name, symbolic.operands[name]) for name in operands]
    found = derive.slopes(graph, nodes, derive.ONE)
    # Weights of rows have no gradient, as weights of classes have none: a mean divides by them.
    weights = set() if graph.weight is None else set(expression.ancestors(graph.weight))
    return tuple(
        name
        for name, x, slope in zip(operands, nodes, found, strict=True)
        if not expression.is_number(slope, 0) and x not in weights
    )


def classes(
    *,
    module: str,
    of_probabilities: Callable | None = None,
    **facts: Any,
) -> Callable[[Callable], Definition]:
    """Define a loss of class scores, which lie along the second dimension of several.

    Parameters
    ----------
    module : str
        Name of the class in ``nbloss.nn``.
    of_probabilities : function, optional
        The formula of a target that is a probability for each class; that of a label is decorated.
    **facts
        Further attributes of the :class:`Definition`.
    """

    def decorated(function: Callable) -> Definition:
        symbolic = trace.formula(function, True)
        others = () if of_probabilities is None else (trace.formula(of_probabilities, True),)
        names = tuple(name for name, kind in symbolic.operands.items() if kind != "index")
        return listed(
            Definition(
                function.__name__,
                function,
                symbolic,
                "classes",
                names,
                symbolic.parameters,
                names[:1],
                module,
                row_formulas=(symbolic, *others),
                **facts,
            )
        )

    return decorated


def pairwise(
    *, module: str | None = None, hinge: Callable | None = None, **facts: Any
) -> Callable[[Callable], Definition]:
    """Define a loss over all pairs of a target class and another class of a row.

    The formula takes the scores of the two. The loss of a row is the sum over the pairs divided by
    the number of classes.

    Parameters
    ----------
    module : str, optional
        Name of the class in ``nbloss.nn``; by default the formula's name in CamelCase.
    hinge : function, optional
        Says that the formula is ``maximum(hinge(labelled) + other, 0)``, and that ``hinge`` falls
        as fast as its argument rises. The sum over all pairs then needs but the labels in order.
    **facts
        Further attributes of the :class:`Definition`.
    """
    return lambda function: listed(
        replace(
            element(function, module=module or camel_case(function.__name__)),
            pattern="pairs",
            hinge=hinge,
            **facts,
        )
    )


def triplet(
    *, of_distances: Callable, module: str | None = None, **facts: Any
) -> Callable[..., Definition]:
    """Define a loss of two distances from an anchor, to a positive and to a negative example.

    Parameters
    ----------
    of_distances : function
        The formula of the same loss, of two distances that have been measured.
    module : str, optional
        Name of the class in ``nbloss.nn``; by default the formula's name in CamelCase.
    **facts
        Further attributes of the :class:`Definition`.
    """

    def decorated(function: Callable) -> Definition:
        symbolic = trace.formula(function, True)
        measured = replace(element(of_distances), name=function.__name__)
        return listed(
            Definition(
                function.__name__,
                function,
                symbolic,
                "rows",
                tuple(symbolic.operands),
                symbolic.parameters,
                tuple(symbolic.operands),
                module or camel_case(function.__name__),
                of_distances=measured,
                **facts,
            )
        )

    return decorated
