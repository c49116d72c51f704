"""ART's attack classes by name and manner, with the attacks of this toolbox inside.

A script that was written for ART runs with its imports changed:

    from kerasrobust.art.compat import CarliniL2Method, FastGradientMethod

Each class takes what ART's class of the same name takes, in the same order: an ART estimator (or a
`keras.Model` or `Classifier`) as `estimator` or `classifier`, then ART's parameters and those of
the native attack. Each is an `art.attacks.EvasionAttack`, so that ART's own tools take it, its
`AdversarialTrainer` among them. What is left out has the native default, which is chosen to be
strong, not ART's (`kerasrobust.attacks.get(name, like="art")` has those); only whether labels are
targets is ART's choice. `native` is the attack inside, which `kerasrobust.evaluate` takes.

What cannot be had is an error that names what to write instead.
"""

from __future__ import annotations

import inspect
import logging
import socket
import time
import warnings
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf
from scipy import stats

with warnings.catch_warnings():
    # Some of ART's modules miss PyTorch aloud, which nothing here needs.
    warnings.filterwarnings("ignore", message="PyTorch not found")
    from art.attacks import EvasionAttack, evasion
    from art.summary_writer import SummaryWriter

from kerasrobust import attacks, checks
from kerasrobust.art import ATTACKS
from kerasrobust.art.estimators import ScoresEstimator, classifier
from kerasrobust.attacks.base import Attack
from kerasrobust.attacks.momentum_iterative import MomentumIterativeMethod
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.result import AttackResult

# ART's names for the model.
MODEL = ("estimator", "classifier", "model")
# An iteration of ART's C&W is a line search of so many points at most. Here Adam makes the steps,
# as in the paper, as many as ART's line searches have points.
LINE_SEARCH = {"max_halving": 5, "max_doubling": 5}
# Attacks to which it matters where a pixel is.
PLACES = ("square", "simba", "zoo")
# ART's names of inner attacks of the universal perturbation where ours differ.
INNER = {"carlini": "cwl2", "carlini_inf": "cwlinf"}
# Other names of ART for one attack.
ALIASES = {
    "ProjectedGradientDescentNumpy": "ProjectedGradientDescent",
    "ProjectedGradientDescentTensorFlowV2": "ProjectedGradientDescent",
}
# What ART has and this module has not: what to write instead.
INSTEAD = {
    "AdversarialTrainer": (
        'kerasrobust.wrap(model, "adversarial_training", attack=...), then `fit`; ART\'s own '
        "(art.defences.trainer) takes the attacks of this module"
    ),
    "AdversarialTrainerMadryPGD": (
        'kerasrobust.wrap(model, "adversarial_training", attack="pgd:...", alpha=0.0), then `fit`'
    ),
    "AdversarialTrainerTRADESPyTorch": 'kerasrobust.wrap(model, "trades"), then `fit`',
    "AdversarialTrainerAWPPyTorch": 'kerasrobust.wrap(model, "awp"), then `fit`',
    "AdversarialTrainerFBFPyTorch": 'kerasrobust.wrap(model, "fast"), then `fit`',
    "AutoAttack": 'kerasrobust.evaluate(model, x, y, attacks="autoattack", eps=..., norm=...)',
    "TensorFlowV2Classifier": "art.estimators.classification.TensorFlowV2Classifier, or the model",
    "KerasClassifier": "art.estimators.classification.KerasClassifier, or the keras.Model itself",
}

logger = logging.getLogger(__name__)


class CompatAttack(EvasionAttack):
    """An attack of this toolbox with ART's constructor and methods.

    Parameters may be assigned, or given to `set_params`; either way they are checked as by the
    constructor. `summary_writer` writes to TensorBoard after each `generate`: the share of samples
    that were fooled, median distances of those, and the passes made.

    Attributes:
        native: The attack inside, bound to the model.
        result: The `AttackResult` of the last `generate`, None before.

    Class attributes:
        name: Registry name of the native attack.
        original: ART's class.
    """

    name: ClassVar[str]
    original: ClassVar[type]

    def __init__(self, *args: Any, **kwargs: Any):
        given = self._named(args, kwargs)
        models = [given.pop(key) for key in MODEL if key in given]
        if len(models) != 1:
            raise TypeError(
                f"{type(self).__name__} takes one model, `estimator` or `classifier`. "
                f"Received: {len(models)} of them"
            )
        self._classifier, estimator = _both(models[0])
        # `summary_writer` is this class's own business: ART's needs tensorboardX.
        super().__init__(estimator=estimator)
        if getattr(estimator, "channels_first", False) and self.name in PLACES:
            raise ValueError(
                f"{type(self).__name__} takes images [height, width, channels]: turn them, and let "
                "the model begin with keras.layers.Permute((3, 1, 2)). "
                "Received: an estimator with channels_first=True"
            )
        self.result: AttackResult | None = None
        self._calls = self._before = 0
        self._given: dict[str, Any] = {}
        self._writer: Any = None
        self._apply(given)

    @classmethod
    def _named(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """All arguments by name."""
        names = [name for name in inspect.signature(cls.original).parameters]
        if len(args) > len(names):
            raise TypeError(
                f"{cls.__name__} takes at most {len(names)} positional arguments, "
                f"{', '.join(names)}. Received: {len(args)}"
            )
        given = dict(zip(names, args, strict=False))
        twice = sorted(given.keys() & kwargs.keys())
        if twice:
            raise TypeError(f"{cls.__name__} takes each argument once. Received: {twice[0]} twice")
        return {**given, **kwargs}

    # ---- parameters -------------------------------------------------------------------------

    def set_params(self, **kwargs: Any) -> None:
        """Changes parameters, checked as by the constructor; if one is wrong, none is changed."""
        self._apply(kwargs)

    def _apply(self, changes: dict[str, Any]) -> None:
        unknown = sorted(changes.keys() - set(self.attack_params))
        if unknown:
            raise TypeError(
                f"{type(self).__name__} must be given parameters that it has: "
                f"{', '.join(self.attack_params)}. Received: {', '.join(unknown)}"
            )
        given = {**self._given, **changes}
        native = self._made(dict(given))
        writer = self._writer
        if "summary_writer" in changes:
            writer = _writer(changes["summary_writer"])
        self.__dict__.update(_given=given, native=native, _writer=writer)

    def _made(self, given: dict[str, Any]) -> Attack:
        """The native attack for ART's arguments."""
        given.pop("summary_writer", None)
        for name in ("eps", "eps_step"):
            if name in given:
                given[name] = _size(given[name])
        theirs = inspect.signature(self.original).parameters
        if "targeted" in theirs:
            given.setdefault("targeted", theirs["targeted"].default)
        native = attacks.ATTACKS.find(self.name)
        if self.name == "pgd":
            checks.check_bool("random_eps", given.pop("random_eps", False))
            decay = given.pop("decay", None)
            if decay is not None:
                native, given = MomentumIterativeMethod, self._momentum(given, decay)
        elif self.name == "apgd":
            if given.get("loss_type", "") is None:
                del given["loss_type"]
            if checks.check_float("eps_step", given.pop("eps_step", 0.1), above=True) != 0.1:
                warnings.warn(
                    "`eps_step` has no effect on Auto-PGD here: its first step is 2 eps, as in the "
                    f"paper. Received: eps_step={self._given.get('eps_step')!r}",
                    stacklevel=4,
                )
        elif self.name in ("cwl2", "cwl0"):
            given.pop("mask", None)
            if given.keys() & {"max_iter", *LINE_SEARCH}:
                lengths = [
                    checks.check_int(name, given.pop(name, default), 0)
                    for name, default in LINE_SEARCH.items()
                ]
                iterations = checks.check_int("max_iter", given.get("max_iter", 10), 1)
                given["max_iter"] = iterations * max(sum(lengths), 1)
        elif self.name == "signopt":
            checks.check_bool("eval_perform", given.pop("eval_perform", False))
        elif self.name == "square":
            for name in ("adv_criterion", "loss"):
                if given.pop(name, None) is not None:
                    raise ValueError(
                        f"`{name}` must be None: the margin of the logits is part of the compiled "
                        "attack. Write a subclass of kerasrobust.attacks.SquareAttack instead. "
                        f"Received: {name}=..."
                    )
        elif self.name == "uap" and isinstance(given.get("attacker"), str):
            given["attacker"] = INNER.get(given["attacker"], given["attacker"])
        return native(self._classifier, **given)

    @staticmethod
    def _momentum(given: dict[str, Any], decay: Any) -> dict[str, Any]:
        """The arguments of the attack that PGD with a `decay` is."""
        if given.pop("num_random_init", 0):
            raise ValueError(
                "`num_random_init` must be 0 beside `decay`: momentum begins at the sample. Give "
                f"the start to `generate` as `x_adv_init` instead. Received: decay={decay!r}"
            )
        return {**given, "decay": decay}

    def __getattr__(self, name: str) -> Any:
        """A parameter as it was given, or as the native attack has it."""
        if name.startswith("_") or name == "native":
            raise AttributeError(name)
        if name in self._given:
            return self._given[name]
        if hasattr(self.native, name):
            return getattr(self.native, name)
        parameters = inspect.signature(self.original).parameters
        if name in parameters and name in self.attack_params:
            return parameters[name].default
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.attack_params and "native" in vars(self):
            self._apply({name: value})
        else:
            object.__setattr__(self, name, value)

    @property
    def summary_writer(self) -> Any:
        """What writes to TensorBoard, None for nothing."""
        return self._writer

    @property
    def targeted(self) -> bool:
        """Whether labels are classes to reach."""
        return self.native.targeted

    # ---- the call ---------------------------------------------------------------------------

    def generate(
        self,
        x: Any,
        y: Any = None,
        *,
        mask: Any = None,
        x_adv_init: Any = None,
        x_init: Any = None,
        resume: bool = False,
        **kwargs: Any,
    ) -> np.ndarray:
        """Adversarial samples for `x`, as ART's `generate` has it; an empty batch stays empty.

        Args:
            x: Samples `[n, ...]`.
            y: Labels or targets, integers `[n]` or one-hot `[n, classes]`; targets always in the
                saliency map method, as in ART.
            mask: Where the samples may change (non-zero), broadcast against `x`.
            x_adv_init: Where to begin, shape of `x`: of the decision attacks an adversarial point
                for each sample, as an earlier `generate` returned.
            x_init: Points among which decision attacks find a start for each sample, beside `x`.
                Without effect on other attacks, as in ART.
            resume: HopSkipJump: count iterations on from the last `generate`.

        Returns:
            float32 array of the shape of `x`.

        Raises:
            TypeError, ValueError: If an input does not fit, or is not known.
        """
        if kwargs:
            raise TypeError(
                f"`generate` of {type(self).__name__} takes x, y, mask, x_adv_init, x_init and "
                f"resume. Received: {', '.join(sorted(kwargs))}"
            )
        x = np.asarray(x)
        if len(x) == 0:
            return x.astype(np.float32)
        native = self._for_call(y, resume)
        mask = self._given.get("mask") if mask is None else mask
        if mask is not None:
            mask = np.broadcast_to(np.asarray(mask) != 0, x.shape)
        if x_adv_init is None and x_init is not None and native.needs_starts:
            x_adv_init = self._starts(native, x, y, np.asarray(x_init))
        self.result = native.run(x, y, mask=mask, start=x_adv_init)
        self._calls += 1
        self._before = getattr(native, "curr_iter", 0) + getattr(native, "max_iter", 0)
        self._note(native)
        assert self.result.x_adv is not None  # `run` keeps the samples
        return self.result.x_adv

    def _for_call(self, y: Any, resume: bool) -> Attack:
        """The native attack with what one call changes of it."""
        if resume and self.name != "hsja":
            raise ValueError(
                f"`resume` must be False: {type(self).__name__} has nothing that depends on the "
                "iterations behind it. Give `x_adv_init` to go on from earlier points. "
                f"Received: resume={resume!r}"
            )
        changes: dict[str, Any] = {}
        if resume:
            changes["curr_iter"] = self._before
        if self.name == "jsma":
            changes["targeted"] = y is not None
        if self._given.get("random_eps"):
            # Kurakin et al. 2017, arXiv:1611.01236: the size of a normal number of deviation
            # eps / 2, between 0 and eps; the step keeps its share.
            draw = np.random.default_rng([self.native.seed, self._calls])
            share = float(stats.truncnorm.rvs(0, 2, random_state=draw)) / 2
            for name in ("eps", "eps_step"):
                size = getattr(self.native, name)
                changes[name] = None if size is None else size * share
        if not changes:
            return self.native
        arguments = {name: getattr(self.native, name) for name in self.native._arguments()}
        return type(self.native)(self._classifier, **{**arguments, **changes})

    def _starts(self, native: Attack, x: np.ndarray, y: Any, points: np.ndarray) -> np.ndarray:
        """For each sample the nearest of some points that counts as adversarial.

        Where there is none it is the sample: the attack then draws starts by itself.
        """
        judge = native.bound
        points = judge.check(points)
        labels = judge.judge(points)[0]
        wanted = judge.judge(judge.check(x))[0]
        if y is not None:
            wanted = checks.check_labels(np.asarray(y), len(x), judge.known_classes)
        fits = labels[None] == wanted[:, None]
        if not native.targeted:
            fits = ~fits
        starts = np.array(x, np.float32)
        for row in np.flatnonzero(fits.any(axis=1)):
            candidates = points[fits[row]]
            distance = ((candidates - x[row]) ** 2).reshape(len(candidates), -1).sum(axis=1)
            starts[row] = candidates[distance.argmin()]
        return starts

    def _note(self, native: Attack) -> None:
        """Writes down how a call went, where that was asked for."""
        result = self.result
        assert result is not None
        if self._given.get("eval_perform"):
            self.logs = result.l2[result.success]
            median = np.median(self.logs) if len(self.logs) else np.nan
            logger.info("fooled %.3f, median L2 %.4g", result.success.mean(), median)
        if self._writer is None:
            return
        if hasattr(self._writer, "update"):  # of ART's kind
            self._writer.update(
                batch_id=0,
                global_step=self._calls,
                estimator=self.estimator,
                x=result.x_adv,
                y=np.eye(native.bound.nb_classes, dtype=np.float32)[result.y],
                targeted=native.targeted,
            )
            return
        figures = {"fooled": result.success.mean()}
        for name in ("l2", "linf"):
            reached = getattr(result, name)[result.success]
            if len(reached):
                figures["median_" + name] = np.median(reached)
        for name in ("queries", "gradients", "zero_gradients"):
            figures[name] = getattr(result, name).sum()
        with self._writer.as_default(step=self._calls):
            for name, figure in figures.items():
                tf.summary.scalar(f"{self.name}/{name}", figure)
        self._writer.flush()


def _both(model: Any) -> tuple[Classifier, Any]:
    """A model as our classifier and as ART's estimator."""
    if isinstance(model, (keras.layers.Layer, Classifier)):
        shared = Classifier.of(model)
        return shared, classifier(shared)
    if isinstance(model, ScoresEstimator):
        return model.classifier, model
    if not hasattr(model, "clip_values"):
        return None, model  # type: ignore[return-value]  # ART's constructor says what is wrong
    return Classifier.of(model), model


def _size(value: Any) -> Any:
    """A size as one number where an array holds nothing else, or one per sample."""
    values = np.asarray(value)
    if values.ndim == 0 or values.dtype.kind not in "fiu" or not values.size:
        return value
    if (values == values.flat[0]).all():
        return float(values.flat[0])
    if values.ndim > 1:
        rows = values.reshape(len(values), -1)
        if (rows == rows[:, :1]).all():
            return rows[:, :1]
    return values


def _writer(value: Any) -> Any:
    """What writes to TensorBoard, for ART's `summary_writer`."""
    if isinstance(value, (SummaryWriter, tf.summary.SummaryWriter)):
        return value
    if value is False or value is None:
        return None
    if value is True:
        value = f"runs/{time.strftime('%b%d_%H-%M-%S')}_{socket.gethostname()}"
    if not isinstance(value, str):
        raise ValueError(
            "`summary_writer` must be True, False, a folder or a summary writer. "
            f"Received: summary_writer={value!r}"
        )
    return tf.summary.create_file_writer(value)


def _class(name: str) -> type[CompatAttack]:
    """The class for a native attack."""
    native = attacks.ATTACKS.find(name)
    original = getattr(evasion, native.__name__)
    theirs = list(inspect.signature(original).parameters.values())
    names = [parameter.name for parameter in theirs if parameter.name not in MODEL]
    own = [key for key in native._arguments() if key not in names]
    parameters = [*names, *own, "summary_writer"]
    ours = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY) for key in own]
    doc = f"ART's `{native.__name__}` with `kerasrobust.attacks.{native.__name__}` inside."
    return type(
        native.__name__,
        (CompatAttack,),
        {
            "name": name,
            "original": original,
            "attack_params": list(dict.fromkeys(parameters)),
            "_estimator_requirements": original._estimator_requirements,
            "__doc__": doc,
            "__module__": __name__,
            "__signature__": inspect.Signature([*theirs, *ours]),
        },
    )


_CLASSES = {made.__name__: made for made in map(_class, ATTACKS)}
globals().update(_CLASSES)
__all__ = ["CompatAttack", *_CLASSES]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if ALIASES.get(name):
        return _CLASSES[ALIASES[name]]
    if name in INSTEAD:
        # An AttributeError would lose its words in `from ... import ...`.
        raise ImportError(f"{name} is not in {__name__}: use {INSTEAD[name]}.")
    if hasattr(evasion, name) and name[:1].isupper():
        raise ImportError(
            f"{name} has no counterpart here: ART's own runs on kerasrobust.art.classifier(model)."
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
