"""A progress bar for long work, quiet where nobody watches."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any


@contextlib.contextmanager
def busy(text: str, shown: bool) -> Iterator[None]:
    """Says on a terminal what goes on, for work without steps."""
    if not (shown and sys.stderr.isatty()):
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


@contextlib.contextmanager
def bars(shown: bool, transient: bool = False) -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Gives a function that begins a bar of a text and a total and returns the one that advances it. `transient` bars
    leave nothing on the screen.
    """
    if not (shown and sys.stderr.isatty()):
        yield lambda text, total: lambda count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn(), TimeElapsedColumn())
    rest = (TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *rest, console=Console(stderr=True), transient=transient) as progress:

        def begin(text, total):
            task = progress.add_task(text, total=total)
            return lambda count: progress.advance(task, count)

        yield begin


def track(items: Sequence[Any], text: str, shown: bool) -> Iterator[Any]:
    """Goes through a sequence with a bar that vanishes at the end."""
    with bars(shown, transient=True) as begin:
        advance = begin(text, len(items))
        for item in items:
            yield item
            advance(1)


class ProgressBar:
    """Shows step, loss per term, rate and time left on a terminal; does nothing elsewhere.

    Called with each `State`; `start` and `stop` frame it.
    """

    def __init__(self, steps: int | None, seconds: float | None):
        self.steps, self.seconds = steps, seconds
        self._bar = None

    def start(self) -> None:
        """Draws the bar at once, before anything is compiled."""
        if not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.fields[steps]}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
            console=Console(stderr=True),
        )
        whole = self.seconds if self.seconds is not None else self.steps
        self._task = self._bar.add_task("", total=whole, steps="compiling", rate="", terms="")
        self._bar.start()

    def __call__(self, state) -> None:
        """Shows one state of the training."""
        if self._bar is None:
            return
        done = state.seconds if self.seconds is not None else state.step
        terms = sorted((i for i in state.losses.items() if i[0] != "loss"), key=lambda i: -i[1])
        shown = [("loss", state.losses.get("loss", float("nan"))), *terms[:5]]
        self._bar.update(
            self._task,
            completed=done,
            steps=f"step {state.step}" + (f"/{self.steps}" if self.steps else ""),
            rate=f"{state.rate:.1f}/s" if state.rate else "",
            terms="  ".join(f"{name} {value:.1e}" for name, value in shown),
        )

    def stop(self) -> None:
        """Leaves the last line on the screen."""
        if self._bar is not None:
            self._bar.stop()
