"""Plans for a device, of kernels that are emitted from the formulas."""

import functools
from typing import Any

from nbloss.codegen import emit_cuda
from nbloss.codegen.emit_cuda import Share
from nbloss.codegen.spec import Spec
from nbloss.engine.cuda import grid, runtime
from nbloss.engine.cuda.compiler import Kernel, digest, kernel_of
from nbloss.engine.cuda.plan import FIELDS, NUMBERS, Plan, Stage, planned
from nbloss.engine.kernels import function_of
from nbloss.engine.patterns.common import Work
from nbloss.engine.plan import Request


def make_plan(pattern: Any, request: Request) -> Plan | None:
    """Choose kernels and share the work; None if they take contiguous operands."""
    made: Work | None = pattern.work(request)
    if made is None:
        return None
    main, blocks = _stage(made.spec, made, made.weighs)
    weights = None
    if made.weighs:
        first, weight_blocks = _stage(made.weighing, made)
        weights = Stage(first, min(weight_blocks, grid.WEIGHT_BLOCKS))
    return planned(
        request,
        pattern.value_shape(request),
        made.spec.block(0, {**made.values, "rows_per_chunk": 0}),
        made.floats,
        Stage(main, blocks),
        weights,
    )


def source(pattern: Any, request: Request) -> str:
    """Give the source of a request's kernel."""
    made: Work = pattern.work(request)
    return emit_cuda.source(made.spec, share_of(made.spec, made.values), made.weighs)


def _stage(spec: Spec, made: Work, weighs: str = "") -> tuple[Kernel, int]:
    rows, columns = made.values["rows"], made.values["columns"]
    share = share_of(spec, made.values)
    kernel = kernel_for(spec, share, weighs, rows * columns < runtime.MOST_32)
    items = rows * share.threads_per_row
    if not spec.formula.rowwise:
        items = -(-rows * columns // share.strip)
    return kernel, grid.blocks(items, share.threads)


def share_of(spec: Spec, values: dict[str, Any]) -> Share:
    """Choose how the work is shared among threads: by its shape alone."""
    rows, columns = values["rows"], values["columns"]
    operands, cost = emit_cuda.reach(spec)
    if not spec.formula.rowwise:
        return grid.share_elements(spec.dtype, rows == 1, cost)
    if operands == 0:
        return grid.share(1)
    names = [name for name, kind in spec.arrays.items() if kind == "element"]
    lies_across = any(values[f"{n}_step"] > values[f"{n}_row_step"] > 0 for n in names)
    if spec.tiled or lies_across:
        return grid.share_across(rows, columns, operands, cost)
    return grid.share(columns, operands, cost)


@functools.lru_cache(maxsize=4096)
def kernel_for(spec: Spec, share: Share, weighs: str, in_32_bits: bool) -> Kernel:
    """Give the kernel of a specification."""
    text = emit_cuda.source(spec, share, weighs)
    fields = {**spec.fields, **FIELDS}
    numbers = {**spec.numbers, **NUMBERS}
    suffix = digest(text, spec.dtype, share, fields, numbers, in_32_bits)
    build = functools.partial(
        function_of, text, spec, suffix, lambda: runtime.names(spec.dtype, share, in_32_bits)
    )
    return kernel_of(f"{spec.name}_{suffix}", spec.dtype, share.threads, build, fields, numbers)
