"""Templates for any number of operands, without tuples of unknown length.

A template is ordinary Python, and runs as such. Where it loops over a constant that is known when
the kernel is made (``for k in OPERANDS``, ``tuple(... for k in OPERANDS)``), or asks for one
(``if WEIGHTED``), its syntax tree is unrolled and pruned before Numba sees it. What is left is
straight code, which compiles several times faster than functions over tuples do, and means the same
on every target.
"""

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable
from typing import Any


def missing_source(module: str) -> RuntimeError:
    """Make the error that an installation of nbloss without its source gives."""
    return RuntimeError(
        f"nbloss makes its kernels from its own source files, and finds none for {module}: "
        "install it with its source (.py), not with the bytecode (.pyc) alone"
    )


def unroll(template: Callable, constants: dict[str, Any]) -> Callable:
    """Specialise a function for constants that its global names stand for.

    Parameters
    ----------
    template : function
        It must have its source at hand, and no closure.
    constants : dict
        What its global names mean. A name that is a Python constant or a tuple of them can be
        looped over and asked for, and stand in an index.

    Returns
    -------
    function
        With the constants among its globals.

    Raises
    ------
    RuntimeError
        If there is no source for the function.
    """
    try:
        lines, first_line = inspect.getsourcelines(template)
    except OSError as error:
        raise missing_source(template.__module__) from error
    tree = ast.parse(textwrap.dedent("".join(lines)))
    ast.increment_lineno(tree, first_line - 1)
    namespace = {**template.__globals__, **constants}
    static = {name: value for name, value in namespace.items() if _is_static(value)}
    tree = ast.fix_missing_locations(_Unroller(static).visit(tree))
    exec(compile(tree, template.__code__.co_filename, "exec"), namespace)
    return namespace[template.__name__]


def _is_static(value: Any) -> bool:
    if isinstance(value, tuple | range):
        return all(_is_static(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


class _Substitute(ast.NodeTransformer):
    """Put a constant where a loop's variable stands."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id == self.name:
            return ast.copy_location(ast.Constant(self.value), node)
        return node


class _Unroller(ast.NodeTransformer):
    def __init__(self, static: dict[str, Any]) -> None:
        self.static = static

    def _value(self, node: ast.expr) -> tuple[bool, Any]:
        """Evaluate an expression if it is made of constants alone."""
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        if not names <= self.static.keys() or any(isinstance(n, ast.Call) for n in ast.walk(node)):
            return False, None
        code = compile(ast.Expression(copy.deepcopy(node)), "<constant>", "eval")
        return True, eval(code, {"__builtins__": {}}, self.static)

    def _copies(self, target: ast.expr, over: ast.expr, nodes: list) -> list[list] | None:
        """Give the nodes once for each item of a constant, or None if it is none."""
        if not isinstance(over, ast.Name) or over.id not in self.static:
            return None
        assert isinstance(target, ast.Name), "loops over constants take a single name"
        return [
            [_Substitute(target.id, item).visit(copy.deepcopy(node)) for node in nodes]
            for item in self.static[over.id]
        ]

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "tuple" and node.args:
            (argument,) = node.args
            if isinstance(argument, ast.GeneratorExp):
                (loop,) = argument.generators
                copies = self._copies(loop.target, loop.iter, [argument.elt])
                if copies is not None:
                    items = [self.visit(item) for (item,) in copies]
                    return ast.copy_location(ast.Tuple(items, ast.Load()), node)
        return self.generic_visit(node)

    def visit_For(self, node: ast.For) -> ast.AST | list[ast.stmt]:
        copies = self._copies(node.target, node.iter, node.body)
        if copies is None:
            return self.generic_visit(node)
        return self._block([statement for body in copies for statement in body], node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        known, value = self._value(node.test)
        if not known:
            return self.generic_visit(node)
        return self._block(node.body if value else node.orelse, node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        # The compiler takes literals where it takes no sums of them: the place in a tuple, a size.
        known, value = self._value(node)
        if known and isinstance(value, int):
            return ast.copy_location(ast.Constant(value), node)
        return self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        known, value = self._value(node.test)
        if not known:
            return self.generic_visit(node)
        return self.visit(node.body if value else node.orelse)

    def _block(self, statements: list[ast.stmt], node: ast.stmt) -> list[ast.stmt]:
        done: list[ast.stmt] = []
        for statement in statements:
            result = self.visit(statement)
            done.extend(result if isinstance(result, list) else [result])
        return done or [ast.copy_location(ast.Pass(), node)]
