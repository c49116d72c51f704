"""One progress bar over the batches of all attacks, with the time that is left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Bar:
    """The batches behind, those of a batch under way by the steps of its attack.

    Args:
        progress: Where it is shown; None shows nothing.
        batches: How many there are.
    """

    def __init__(self, progress: Progress | None, batches: int):
        self._progress, self._batches, self.done = progress, batches, 0
        self._task = progress.add_task("", total=batches, batches="") if progress else None

    @contextlib.contextmanager
    def batch(self, name: str, steps: int) -> Iterator[Callable[[int], Any]]:
        """A batch under way.

        Args:
            name: What is run on it.
            steps: How many it takes at most, summed over samples.

        Yields:
            A function to be told of steps that are behind.
        """
        behind = 0

        def update(more: int) -> None:
            nonlocal behind
            behind += more
            self._show(name, min(behind / max(steps, 1), 1.0))

        self._show(name, 0.0)
        yield update
        self.done += 1
        self._show(name, 0.0)

    def _show(self, name: str, share: float) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task,
                completed=self.done + share,
                description=name,
                batches=f"{self.done}/{self._batches} batches",
            )


@contextlib.contextmanager
def bar(batches: int, shown: bool, console: Console | None = None) -> Iterator[Bar]:
    """A bar on a terminal; in a notebook or a log nothing is shown.

    Args:
        batches: How many there are.
        shown: Whether it is wanted.
        console: Where; the error stream by default.
    """
    console = console or Console(stderr=True)
    if not shown or not console.is_terminal or console.is_jupyter:
        yield Bar(None, batches)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[batches]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(progress, batches)
