"""AREB's process flow: threats, preprocessing, training, check, another round."""

from kerasrobust.hardening.flow import harden
from kerasrobust.hardening.result import Hardening

__all__ = ["Hardening", "harden"]
