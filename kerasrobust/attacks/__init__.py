"""Attacks: one file each, their contract in `base.py`, their names in `registry.py`."""

from typing import Any

from kerasrobust.attacks.base import Attack
from kerasrobust.attacks.registry import ATTACKS, get, names
from kerasrobust.attacks.taxonomy import taxonomy
from kerasrobust.engine.result import AttackInterrupted, AttackResult

__all__ = ["Attack", "AttackInterrupted", "AttackResult", "get", "names", "taxonomy"]
__all__ += ATTACKS.exported()


def __getattr__(name: str) -> Any:
    return ATTACKS.attribute(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
