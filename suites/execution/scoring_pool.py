"""Processes that score while others train: calls under a name, whose results are taken when they are there."""

import multiprocessing
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from typing import Any

import torch


class ScoringPool(AbstractContextManager):
    """Calls made by `processes` other processes, each under a name. Leaving the context drops those not begun.

    A process has one thread: more would wait for each other, and keep cores from the training. One that dies fails all
    calls that are pending; later ones are made by new processes.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._executor = self._started()
        self._pending: dict[Hashable, Future] = {}

    def _started(self) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._processes, spawn, torch.set_num_threads, (1,))

    def submit(self, name: Hashable, function: Callable[..., Any], *arguments: Any) -> None:
        """Does nothing for a name that is pending."""
        if name in self._pending:
            return
        try:
            self._pending[name] = self._executor.submit(function, *arguments)
        except BrokenProcessPool:
            self._executor.shutdown()
            self._executor = self._started()
            self._pending[name] = self._executor.submit(function, *arguments)

    def results(self, until: float | None = None) -> Iterator[tuple[Hashable, Future]]:
        """Names and futures of what is done; with `until` (time.monotonic()) also of what will be done by then."""
        while self._pending:
            ready = [name for name, future in self._pending.items() if future.done()]
            for name in ready:
                yield name, self._pending.pop(name)
            if not ready:
                rest = None if until is None else until - time.monotonic()
                if rest is None or rest <= 0:
                    return
                timeout = None if rest == float("inf") else rest
                wait(self._pending.values(), timeout=timeout, return_when=FIRST_COMPLETED)

    def last(self) -> Iterator[tuple[Hashable, Future]]:
        """The same of what has begun; the rest is dropped."""
        for name in [name for name, future in self._pending.items() if future.cancel()]:
            del self._pending[name]
        yield from self.results(float("inf"))

    def __exit__(self, *_: Any) -> None:
        self._executor.shutdown(cancel_futures=True)
