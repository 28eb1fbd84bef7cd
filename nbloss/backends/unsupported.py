"""How a call ends for which there is no kernel."""

from typing import NoReturn


class Unsupported(Exception):
    """A call that nbloss has no kernel for, with the error that it should end in.

    On arrays that error is raised; on tensors torch itself is asked, which has its own words for
    it, or can do what nbloss does not.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def unsupported(error: Exception) -> NoReturn:
    raise Unsupported(error)
