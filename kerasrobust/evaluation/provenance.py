"""Where a report comes from: the machine, the call that repeats it, the samples by their places."""

from __future__ import annotations

import os
import pathlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def machine() -> dict[str, Any]:
    """What this process runs on.

    Returns:
        `cpu` (its model), `cores` (those that this process may use), `memory_gib` (None where the
        system does not tell), `accelerators` (names of the devices that TensorFlow sees beside the
        CPU), `os`, `python`.
    """
    usable = getattr(os, "sched_getaffinity", None)
    accelerators = []
    for device in tf.config.list_physical_devices():
        if device.device_type != "CPU":
            details = tf.config.experimental.get_device_details(device)
            accelerators.append(str(details.get("device_name", device.device_type)))
    return {
        "cpu": _cpu(),
        "cores": len(usable(0)) if usable else os.cpu_count(),
        "memory_gib": _memory(),
        "accelerators": accelerators,
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def _cpu() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)


def call(first: Sequence[str], arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """The call of `kerasrobust.evaluate` as text.

    Args:
        first: Names in the place of what is no literal.
        arguments: Its keyword arguments; what is no text, number or list of these is left to `...`.
        defaults: What need not be said.
    """
    literals = {key: _literal(value) for key, value in arguments.items()}
    told = [f"{key}={text}" for key, text in literals.items() if text != _literal(defaults[key])]
    return f"kerasrobust.evaluate({', '.join([*first, *told])})"


def _literal(value: Any) -> str:
    if value is None or isinstance(value, (str, bool, int, float)):
        return repr(value)
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    if isinstance(value, (list, tuple)):
        inside = ", ".join(map(_literal, value))
        return f"[{inside}]" if isinstance(value, list) or len(value) == 1 else f"({inside})"
    return "..."


def spans(indices: Iterable[int]) -> str:
    """Ascending whole numbers as text, runs of them by their ends: `"0-99,250,300-301"`.

    Args:
        indices: Numbers from 0 on.
    """
    numbers = np.asarray(list(indices), np.int64)
    if not len(numbers):
        return ""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1)
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def from_spans(text: str) -> np.ndarray:
    """The inverse of `spans`, int64 of shape `(n,)`."""
    runs = [[int(end) for end in part.split("-")] for part in text.split(",") if part]
    return np.concatenate([np.arange(run[0], run[-1] + 1) for run in runs] or [np.zeros(0, int)])


def class_names(names: Sequence[str], nb_classes: int) -> list[str]:
    """Names as an evaluation is given them.

    Raises:
        TypeError: If one is no text.
        ValueError: If there is not one for each class.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"Expected names of classes. Received: class_names={names!r}")
    if len(names) != nb_classes:
        raise ValueError(
            f"Expected a name for each of the {nb_classes} classes. "
            f"Received: class_names with {len(names)} names"
        )
    return list(names)
