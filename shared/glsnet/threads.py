"""How many threads NumPy multiplies in."""

from functools import cache

from threadpoolctl import ThreadpoolController


def one_thread() -> None:
    """One from here on, in this process: the other parties are often on the same machine."""
    _pools().limit(limits=1)


@cache
def _pools() -> ThreadpoolController:
    """NumPy's; to find them takes a while."""
    return ThreadpoolController().select(internal_api="openblas")
