"""Long lines of a source are broken as a formatter would."""

from collections.abc import Iterator

WIDTH = 100
STEP = "    "


def laid_out(line: str) -> list[str]:
    """Break an assignment that is too long: before its operators, or after a call's arguments."""
    body = line.lstrip()
    indent = line[: len(line) - len(body)]
    if len(line) <= WIDTH or " = " not in body or body.startswith(('"', "#")):
        return [line]
    name, _, text = body.partition(" = ")
    if len(_split(text, (" + ", " - ", " * ", " / "))) > 1:
        return [f"{indent}{name} = (", *_broken(indent + STEP, text), f"{indent})"]
    first, *rest = _broken(indent, text, len(name) + len(" = "))
    return [f"{indent}{name} = {first.lstrip()}", *rest]


def _broken(indent: str, text: str, before: int = 0) -> Iterator[str]:
    """Give the lines of an expression: by its sums, else its products, else its arguments.

    So many characters stand before the first line.
    """
    if before + len(indent + text) <= WIDTH:
        yield indent + text
        return
    for operators in ((" + ", " - "), (" * ", " / ")):
        terms = _split(text, operators)
        if len(terms) > 1:
            for term in terms:
                yield from _broken(indent, term)
            return
    start = text.find("(")
    if start < 0 or not text.endswith((")", "),")):
        yield indent + text
        return
    end = text.rindex(")")
    is_call = start > 0 and text[start - 1].isidentifier()
    yield indent + text[: start + 1]
    for argument in _split(text[start + 1 : end], (", ",)):
        yield from _broken(indent + STEP, f"{argument}," if is_call else argument)
    yield indent + text[end:]


def _split(text: str, separators: tuple[str, ...]) -> list[str]:
    """Split a text at separators that are in no parentheses; operators stay with what follows."""
    parts, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        for separator in separators:
            if depth == 0 and text.startswith(separator, place) and place > start:
                parts.append(text[start:place])
                start = place + (len(separator) if separator == ", " else 1)
    return [*parts, text[start:]]
