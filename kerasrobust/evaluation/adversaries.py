"""Adversarial samples as files, written batch by batch."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
import zipfile
from typing import Any, BinaryIO

import numpy as np

from kerasrobust.engine import store as storage
from kerasrobust.engine.result import AttackResult

FOLDER = "adversarial"


class Adversaries:
    """What each attack made of the samples, one `.npz` file for each attack.

    `kerasrobust.datasets.load` reads such a file: `x`, float32 `[n, ...]`, and `y`, the true
    labels. Beside them lie `indices`, int64 `[n]`, the places of the samples in the data that were
    given; `labels`, those that the model gives; and `success`, whether the attack reached its aim
    within the budget. Where it did not, `x` is what the attack returns then: of a budget attack its
    strongest point, of an attack that looks for the nearest one the clean sample.

    One batch is in memory at a time: samples go to a temporary file first.

    Args:
        y: True labels of all samples, int64 `[n]`.
        indices: Their places, int64 `[n]`.
    """

    def __init__(self, y: np.ndarray, indices: np.ndarray):
        self.y, self.indices = y, indices
        self._folder = tempfile.TemporaryDirectory()
        self._samples: dict[str, BinaryIO] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._columns: dict[str, list[dict[str, np.ndarray]]] = {}

    def __enter__(self) -> Adversaries:
        return self

    def __exit__(self, *error: Any) -> None:
        for file in self._samples.values():
            file.close()
        self._folder.cleanup()

    def watch(self, attack: str, rows: np.ndarray, result: AttackResult) -> None:
        """Takes a batch; see `Evaluation.compute`."""
        assert result.x_adv is not None
        if attack not in self._samples:
            path = pathlib.Path(self._folder.name) / str(len(self._samples))
            self._samples[attack] = path.open("w+b")
            self._shapes[attack] = result.x_adv.shape[1:]
            self._columns[attack] = []
        self._samples[attack].write(np.ascontiguousarray(result.x_adv, np.float32).tobytes())
        self._columns[attack].append(
            {
                "y": self.y[rows],
                "indices": self.indices[rows],
                "labels": result.labels,
                "success": result.success,
            }
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes a file for each attack, of all batches that were taken."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for attack, samples in self._samples.items():
            columns = self._columns[attack]
            n = sum(len(column["y"]) for column in columns)
            header = {"descr": "<f4", "fortran_order": False, "shape": (n, *self._shapes[attack])}
            path = folder / f"{storage.file_name(attack)}.npz"
            with zipfile.ZipFile(path, "w") as archive:
                with archive.open("x.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    samples.seek(0)
                    shutil.copyfileobj(samples, member, 2**20)
                for key in columns[0]:
                    with archive.open(f"{key}.npy", "w") as member:
                        whole = np.concatenate([column[key] for column in columns])
                        np.lib.format.write_array(member, whole)
            samples.seek(0, os.SEEK_END)
