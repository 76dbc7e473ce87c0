"""What readers share: open files, a bounded number at a time, and the number of threads."""

import contextlib
import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

MOST_OPEN = 128
MOST_THREADS = 8


def reader_threads() -> int:
    """How many threads read by default: the processors that this process may use, at most eight."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(MOST_THREADS, allowed or 1)


class Handles:
    """The open files of sources, each kept for its next use. A new one closes those used longest ago.

    Several threads may use one handle at once. What `open` and `close` lock must not be held when `use` is called.
    """

    def __init__(self, close: Callable[[Any], None], most: int = MOST_OPEN):
        self._close, self._most = close, most
        self._open: OrderedDict[int, Any] = OrderedDict()
        self._users: dict[int, int] = {}
        self._known: set[int] = set()
        self._gone: deque[int] = deque()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def use(self, owner: Any, open: Callable[[], Any]) -> Iterator[Any]:
        """The handle of a source, opened if it is not open. It stays open while it is used."""
        key = id(owner)
        with self._lock:
            self._drop_gone()
            if key not in self._open:
                self._open[key] = open()
                self._users[key] = 0
                if key not in self._known:
                    self._known.add(key)
                    weakref.finalize(owner, self._forget, key).atexit = False
                self._shrink()
            self._open.move_to_end(key)
            self._users[key] += 1
            handle = self._open[key]
        try:
            yield handle
        finally:
            with self._lock:
                self._users[key] -= 1

    def _shrink(self) -> None:
        *others, _ = self._open
        idle = [key for key in others if not self._users[key]]
        for key in idle[: max(0, len(self._open) - self._most)]:
            self._drop(key)

    def _forget(self, key: int) -> None:
        self._gone.append(key)
        # The garbage collector may call this in a thread that holds the lock; then the next use clears up.
        if self._lock.acquire(blocking=False):
            try:
                self._drop_gone()
            finally:
                self._lock.release()

    def _drop_gone(self) -> None:
        while self._gone:
            key = self._gone.popleft()
            self._known.discard(key)
            if key in self._open:
                self._drop(key)

    def _drop(self, key: int) -> None:
        del self._users[key]
        self._close(self._open.pop(key))
