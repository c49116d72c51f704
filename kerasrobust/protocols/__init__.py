"""Protocols of the papers: several evaluations, one table and one picture.

Each may be resumed: the same call on the same `output` folder goes on where it was interrupted.
"""

from kerasrobust.protocols.all_targets import all_targets
from kerasrobust.protocols.budget_sweep import budget_sweep
from kerasrobust.protocols.n_of_six import n_of_six
from kerasrobust.protocols.repeated import repeated
from kerasrobust.protocols.result import ProtocolResult
from kerasrobust.protocols.transfer_matrix import transfer_matrix

__all__ = [
    "ProtocolResult",
    "all_targets",
    "budget_sweep",
    "n_of_six",
    "repeated",
    "transfer_matrix",
]
