"""Processes that work for this one."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any


@contextmanager
def processes(
    number: int, initializer: Callable[..., None] | None = None, *initargs: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool of so many, each of which begins with `initializer(*initargs)`. They end with the
    context, at once where that is left by an error, or when this process is killed."""
    others = multiprocessing.active_children()
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(number, context, _begin, (initializer, *initargs))
    try:
        yield pool
    except BaseException:
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(initializer: Callable[..., None] | None, *initargs: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer is not None:
        initializer(*initargs)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


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
