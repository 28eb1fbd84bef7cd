"""The source of a loss's kernel, printed."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def run(console: "Console", options: argparse.Namespace) -> int:
    """Print the kernel of a loss, with highlighting where the terminal has it."""
    from rich.syntax import Syntax

    import nbloss
    from nbloss.formula.registry import LOSSES

    if options.name not in LOSSES:
        console.print(f"there is no loss {options.name!r}; there are {', '.join(LOSSES)}")
        return 2
    text = nbloss.source(
        getattr(nbloss.functional, options.name),
        device=options.device,
        dtype=options.dtype,
        reduction=options.reduction,
    )
    if console.is_terminal:
        console.print(Syntax(text, "python", background_color="default"))
    else:
        print(text)
    return 0
