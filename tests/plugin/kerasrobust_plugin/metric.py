"""A figure of the report that is found by an entry point."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasrobust.metrics import Metric, Outcome, Points


class PluginMetric(Metric):
    """The largest change of any pixel over all samples on which the attack succeeded."""

    key = "plugin_metric"
    header = "plugin"

    def measure(self, points: Points) -> np.ndarray:
        size = np.abs(points.x_adv - points.x).reshape(len(points.x), -1)
        return size.max(axis=1) / points.value_range

    def compute(self, outcome: Outcome) -> Any:
        values = outcome.result.columns[self.key][outcome.found]
        return float(values.max()) if len(values) else None
