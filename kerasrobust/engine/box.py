"""The unit in which attacks work: whatever the unit of the inputs, pixels are in 0..1 for them."""

from __future__ import annotations

import dataclasses
from typing import Any

LENGTHS = ("eps", "eps_step")
POINTS = ("x", "start")


@dataclasses.dataclass(frozen=True)
class Box:
    """The valid inputs, and the way from their unit to 0..1 and back, for arrays and tensors.

    An attack's own constants (a learning rate, the weight of a penalty, the first radius of a
    search) are made for pixels in 0..1. So a driver hands it points in 0..1 whatever the model
    takes, and the model is shown what these stand for.

    Attributes:
        low: Smallest valid value.
        high: Largest valid value.
    """

    low: float
    high: float

    @property
    def span(self) -> float:
        """Width of the box."""
        return self.high - self.low

    @property
    def is_unit(self) -> bool:
        """Whether nothing has to be done."""
        return self.low == 0 and self.span == 1

    def inwards(self, x: Any) -> Any:
        """Inputs as points in 0..1."""
        return x if self.is_unit else (x - self.low) / self.span

    def outwards(self, point: Any) -> Any:
        """Points in 0..1 as inputs."""
        return point if self.is_unit else self.low + self.span * point

    def leaves(self, given: dict[str, Any]) -> dict[str, Any]:
        """The leaves of a state, points and lengths among them, in the unit of attacks."""
        if self.is_unit:
            return given
        inside = {key: self.inwards(given[key]) for key in POINTS if key in given}
        lengths = {key: given[key] / self.span for key in LENGTHS if key in given}
        return {**given, **inside, **lengths}
