"""What each piece of a run took, on disk: a run that goes on decides as if it had not stopped."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import time
from collections.abc import Iterator


class Journal:
    """Seconds of the pieces of one run.

    A piece that was finished before keeps the seconds that it took then, so that what is decided by
    time is decided alike. Of a piece that was interrupted the last attempt counts.

    Args:
        path: The file; that of another run is begun anew.
        run: Stands for all that the run depends on.

    Attributes:
        seconds: By piece.
    """

    def __init__(self, path: pathlib.Path, run: str):
        self.path, self.run = path, run
        self.seconds: dict[str, float] = {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if isinstance(found, dict) and found.get("run") == run:
            self.seconds = {str(key): float(value) for key, value in found["seconds"].items()}

    @contextlib.contextmanager
    def piece(self, name: str) -> Iterator[None]:
        """Times a piece and writes it down when it is finished."""
        start = time.perf_counter()
        yield
        self.seconds.setdefault(name, time.perf_counter() - start)
        part = self.path.with_suffix(".part")
        text = json.dumps({"run": self.run, "seconds": self.seconds}, indent=1)
        part.write_text(text + "\n", encoding="utf-8")
        os.replace(part, self.path)

    @property
    def minutes(self) -> float:
        """Minutes of all pieces together."""
        return sum(self.seconds.values()) / 60
