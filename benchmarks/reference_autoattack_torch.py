"""The authors' AutoAttack on weights that came from Keras.

    PYTHONPATH=REPOSITORY python reference_autoattack_torch.py FOLDER NORM EPS

`reference_autoattack.py` runs it with PyTorch's Python. The folder holds what `torch_twin.py`
reads. What came out goes to `FOLDER/reference.npz`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from autoattack import AutoAttack
from torch_twin import load


def main(folder, norm, eps):
    model, x, y = load(folder)
    model.forwards = model.backwards = 0
    attack = AutoAttack(model, norm=norm, eps=eps, seed=0, device="cpu", verbose=False)
    begin = time.perf_counter()
    found = attack.run_standard_evaluation(x, y.long(), bs=len(x))
    seconds = time.perf_counter() - begin
    np.savez_compressed(
        folder / "reference.npz",
        x_adv=found.detach().permute(0, 2, 3, 1).numpy(),
        passes=np.array([model.forwards, model.backwards]),
        seconds=seconds,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
