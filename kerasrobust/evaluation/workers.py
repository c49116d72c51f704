"""Batches shared out to worker processes, on this machine or on a cluster, by Ray.

Each worker keeps the model and its compiled functions, gets one batch after the other and stores
what comes out; the process that asked reads it there. So a run by many workers is one that was
resumed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

import keras

from kerasrobust.engine.source import Block
from kerasrobust.registry import IMPORTED

# How often a batch is tried again whose worker died.
_RETRIES = 3
# Batches under way and waiting, for each worker.
_AHEAD = 2


class Work(Protocol):
    """What is shared out; see `kerasrobust.evaluation.pieces.Evaluation`. It can be pickled."""

    def units(self) -> Iterator[Any]: ...

    def prepare(self, group: int) -> None: ...

    def block(self, unit: Any) -> Block: ...

    def compute(self, unit: Any, *, block: Block) -> None: ...

    def forget(self) -> None: ...


def check_ray(workers: int) -> None:
    """Raises before any work is done where Ray is needed and absent.

    Raises:
        ImportError: If it is.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ImportError(f"workers={workers} needs Ray: pip install 'kerasrobust[ray]'") from error


@contextlib.contextmanager
def shared_out(
    work: Work, workers: int, address: str | None = None
) -> Iterator[Iterator[tuple[Any, Block]]]:
    """Starts workers, and ends them with the context.

    Args:
        work: An evaluation with a store that all of them can reach.
        workers: How many. The cores, and the accelerators where there are any, are shared out among
            them evenly.
        address: Of a running Ray cluster (`"auto"`, `"ray://host:10001"`); None starts Ray on this
            machine alone, or takes the one that this process has joined.

    Yields:
        All pieces in order, each when its result is stored. What a worker raises, an
        `AttackInterrupted` say, is raised on the way to it.

    Raises:
        ValueError: If the cluster has fewer cores than workers.
        TypeError: If the evaluation cannot be pickled.
    """
    import ray

    joined = ray.is_initialized()
    if not joined:
        own: dict[str, Any] = {}
        if address is None:
            own = {"num_cpus": max(os.cpu_count() or 1, workers), "include_dashboard": False}
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    actors: list[Any] = []
    try:
        options = _resources(workers)
        # Held here, for a worker that is started again.
        packed = ray.put(_packed(work))
        hired = ray.remote(_Worker).options(**options)
        actors += [hired.remote(options["num_cpus"]) for _ in range(workers)]
        yield _pieces(work, actors, packed)
    finally:
        if not joined:
            ray.shutdown()
        else:
            for actor in actors:
                ray.kill(actor)


def _resources(workers: int) -> dict[str, Any]:
    """What Ray is to give to each worker."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(node.get("CPU", 0)) for node in nodes]
    if sum(cores) < workers:
        raise ValueError(
            f"Each worker needs a core of its own. Received: workers={workers} on a cluster "
            f"with {sum(cores)}"
        )
    accelerators = sum(node.get("GPU", 0) for node in nodes)
    return {
        "num_cpus": min(sum(cores) // workers, max(cores)),
        "num_gpus": min(accelerators / workers, 1),
        "max_restarts": -1,
        "max_task_retries": _RETRIES,
        # Where two share an accelerator, neither takes all of its memory.
        "runtime_env": {
            "env_vars": {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        },
    }


def _packed(work: Work) -> tuple[bytes, bytes]:
    """Keras's custom objects and the evaluation, pickled.

    Apart, so that classes are known to Keras before it builds a model of them.
    """
    from ray import cloudpickle

    for name, module in sys.modules.items():
        if name.startswith(IMPORTED):  # a script: no worker could import it by its name
            cloudpickle.register_pickle_by_value(module)
    classes = cloudpickle.dumps(dict(keras.saving.get_custom_objects()))
    try:
        return classes, cloudpickle.dumps(work)
    except Exception as error:
        raise TypeError(
            "Workers need a model, attacks and metrics that can be pickled; workers=1 does "
            f"not. Received: {type(error).__name__}: {error}"
        ) from error


def _pieces(work: Work, actors: list[Any], packed: Any) -> Iterator[tuple[Any, Block]]:
    """See `shared_out`; a few pieces for each actor are under way or waiting."""
    import ray
    from ray.util import ActorPool

    pool = ActorPool(actors)
    ahead: deque[tuple[Any, Block]] = deque()
    units = work.units()
    group = None
    while True:
        while len(ahead) < _AHEAD * len(actors):
            unit = next(units, None)
            if unit is None:
                break
            if unit.group != group:
                group = unit.group
                work.prepare(group)
            piece = unit, work.block(unit)
            # In a list, a reference is not followed before it is needed.
            pool.submit(lambda actor, job: actor.compute.remote(*job), ([packed], *piece))
            ahead.append(piece)
        if not ahead:
            return
        try:
            pool.get_next()
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        yield ahead.popleft()


class _Worker:
    """An evaluation in another process.

    Args:
        threads: Cores it may use.
    """

    def __init__(self, threads: int):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
        self.evaluation: Work | None = None

    def compute(self, packed: list[Any], unit: Any, block: Block) -> None:
        """Computes a piece, which the store keeps.

        Args:
            packed: A reference to what `_packed` returned.
            unit: The piece.
            block: Its samples.
        """
        if self.evaluation is None:
            import ray
            from ray import cloudpickle

            classes, evaluation = ray.get(packed[0])
            keras.saving.get_custom_objects().update(cloudpickle.loads(classes))
            self.evaluation = cloudpickle.loads(evaluation)
        assert self.evaluation is not None
        self.evaluation.compute(unit, block=block)
        self.evaluation.forget()
