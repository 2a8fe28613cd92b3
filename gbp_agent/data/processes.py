"""Processes that work for this one."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any


@contextmanager
def processes(
    number: int, initializer: Callable[..., None] | None = None, *initargs: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many, each of which begins with `initializer(*initargs)`; at the end they finish
    what they are at."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(number, context, initializer, initargs)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def deaths_explained() -> Iterator[None]:
    """Raises RuntimeError where a process dies, as all do that import a script which asks for
    processes in turn."""
    try:
        yield
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process died, see above for why. If this is a script that does not do its work "
            'under `if __name__ == "__main__":`, each process imports it, does so as well and '
            "fails: write that line, or give workers=1"
        ) from error
