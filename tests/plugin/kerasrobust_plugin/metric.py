"""A figure of the report that is found by an entry point."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasrobust.metrics import Metric, Outcome


class PluginMetric(Metric):
    """The largest change of any pixel over all samples on which the attack succeeded."""

    key = "plugin_metric"
    header = "plugin"

    def measure(self, x: np.ndarray, x_adv: np.ndarray, value_range: float) -> np.ndarray:
        return np.abs(x_adv - x).max(axis=tuple(range(1, x.ndim))) / value_range

    def compute(self, outcome: Outcome) -> Any:
        values = outcome.result.columns[self.key][outcome.found]
        return float(values.max()) if len(values) else None
