"""Made tables go into pages between markers: `<!-- name -->` and `<!-- end of name -->`."""

from __future__ import annotations

import re


def insert(page: str, name: str, text: str) -> str:
    """Put a text between the markers of a name.

    Raises
    ------
    ValueError
        If the page has no such markers, or has them twice.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    block = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    page, count = block.subn(lambda _: f"{start}\n\n{text}\n\n{end}", page)
    if count != 1:
        raise ValueError(
            f"a page needs the markers {start!r} and {end!r} once, it has them {count} times"
        )
    return page
