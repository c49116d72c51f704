"""ART's attacks behind our contract."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import tensorflow as tf

with warnings.catch_warnings():
    # Some of ART's modules miss PyTorch aloud, which nothing here needs.
    warnings.filterwarnings("ignore", message="PyTorch not found")
    from art.attacks import evasion

from kerasrobust.art.estimators import (
    BATCH_SIZE,
    OutOfQueries,
    ProbabilitiesEstimator,
    ScoresEstimator,
    estimator,
    numpy_seed,
)
from kerasrobust.attacks import base, registry
from kerasrobust.attacks.auto_projected_gradient_descent import AutoProjectedGradientDescent
from kerasrobust.attacks.basic_iterative import BasicIterativeMethod
from kerasrobust.attacks.boundary import BoundaryAttack
from kerasrobust.attacks.carlini_l0 import CarliniL0Method
from kerasrobust.attacks.carlini_l2 import CarliniL2Method
from kerasrobust.attacks.carlini_linf import CarliniLInfMethod
from kerasrobust.attacks.deepfool import DeepFool
from kerasrobust.attacks.elastic_net import ElasticNet
from kerasrobust.attacks.fast_gradient import LENGTH, FastGradientMethod
from kerasrobust.attacks.hop_skip_jump import HopSkipJump
from kerasrobust.attacks.momentum_iterative import MomentumIterativeMethod
from kerasrobust.attacks.projected_gradient_descent import ProjectedGradientDescent
from kerasrobust.attacks.saliency_map import SaliencyMapMethod
from kerasrobust.attacks.sign_opt import SignOPTAttack
from kerasrobust.attacks.simba import SimBA
from kerasrobust.attacks.square import SquareAttack
from kerasrobust.attacks.universal_perturbation import UniversalPerturbation
from kerasrobust.attacks.virtual_adversarial import VirtualAdversarialMethod
from kerasrobust.attacks.zoo import ZooAttack
from kerasrobust.engine import drivers
from kerasrobust.engine.batches import Batch, Prologue
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.result import AttackResult
from kerasrobust.engine.source import Source

SIZES = ("eps", "eps_step")


class ArtAttack(base.Attack):
    """An attack of ART that takes the arguments of the native attack of the same kind.

    The arguments have ART's names, and the native attack's defaults, so that a configuration of
    either runs both. What ART's class does not know is accepted and has no effect: `jit_compile`,
    since ART runs on the host; `early_stop` and `abort_early`, since it takes every step;
    `max_queries`, since it counts none; and what a subclass names. What would make another attack
    of it is refused. Success and distances are judged like any other attack's.

    ART does not say which sample a pass was for, save in the decision attacks, which go from
    sample to sample: `queries` and `gradients` divide the passes of a batch evenly. They include
    the ones in which ART takes stock of its own success.

    Class attributes:
        original: ART's class.
        takes_mask: Whether it knows masks.
        probabilities: Whether it wants probabilities instead of logits.
    """

    original: ClassVar[Any]
    takes_mask: ClassVar[bool] = False
    probabilities: ClassVar[bool] = False
    in_graph = False

    def check(self) -> None:
        super().check()
        labels = getattr(self, "attack_labels", "hard")
        if labels != "hard":
            self._refuse("is run with hard labels", f"attack_labels={labels!r}")

    def run(
        self,
        x: Any,
        y: Any = None,
        *,
        mask: np.ndarray | None = None,
        start: np.ndarray | None = None,
    ) -> AttackResult:
        """See `Attack.run`."""
        if mask is not None and not self.takes_mask:
            raise ValueError(
                f"ART's {self.original.__name__} takes no mask. Received: mask of shape "
                f"{np.shape(mask)}"
            )
        if start is not None:
            raise ValueError(
                f"ART's {self.original.__name__} chooses its own start here. Received: start=..."
            )
        return super().run(x, y, mask=mask)

    def prologue(self, source: Source) -> Prologue:
        """Nothing: ART finds its own starting points."""
        return {}

    def craft(
        self, batch: Batch, prologue: Prologue, progress: Callable[[int], None]
    ) -> drivers.Crafted:
        """Has ART attack the samples, one by one where ART goes from sample to sample."""
        x, done = batch.given["x"], batch.given["done"]
        crafted = drivers.Crafted.untouched(x)
        model = self.estimator(self.bound, x.shape[1:])
        progress(self.max_steps() * int(done.sum()))
        rows = np.flatnonzero(~done)
        # ART takes one size for all, too.
        singly = self.access == "labels" or any(np.ndim(getattr(self, key, 0.0)) for key in SIZES)
        with numpy_seed([self.seed, batch.index]):
            for part in np.split(rows, len(rows)) if singly and len(rows) else [rows]:
                if len(part):
                    self._attack(model, batch.given, part, crafted)
                    progress(self.max_steps() * len(part))
        return crafted

    def _attack(
        self,
        model: ScoresEstimator,
        given: dict[str, np.ndarray],
        rows: np.ndarray,
        crafted: drivers.Crafted,
    ) -> Any:
        """Runs ART's attack, which is returned, on some samples."""
        x, y = given["x"][rows], given["y"][rows]
        sizes = {key: float(given[key][rows[0]]) for key in SIZES if key in given}
        original = self.make(model, **sizes)
        labels = self.labels(y.astype(np.int64), model.nb_classes)
        mask = {"mask": given["mask"][rows]} if "mask" in given else {}
        model.queries = model.gradients = 0
        model.executed_queries = model.executed_gradients = 0
        model.limit = self.limit()
        try:
            x_adv = original.generate(x, labels, **mask)
        except OutOfQueries:
            x_adv = x
        finally:
            for key in ("queries", "gradients"):
                share, rest = divmod(getattr(model, key), len(rows))
                getattr(crafted, key)[rows] += share + (np.arange(len(rows)) < rest)
            crafted.executed_queries += model.executed_queries
            crafted.executed_gradients += model.executed_gradients
        crafted.x_adv[rows] = crafted.best[rows] = np.asarray(x_adv, np.float32)
        if self.access == "labels":
            moved = np.any(crafted.x_adv[rows] != x, axis=tuple(range(1, x.ndim)))
            crafted.found[rows] = moved
            crafted.gave_up[rows] = ~moved
        return original

    def perturb(self, x: tf.Tensor, y: tf.Tensor, **options: Any) -> tf.Tensor:
        """Not offered: ART runs on the host."""
        native = self.name.removeprefix("art:")
        raise TypeError(
            f"An attack of ART cannot be part of a graph: use {native!r}. "
            f"Received: attack={self.name!r}"
        )

    def limit(self) -> int | None:
        """Queries of one call after which ART's loop is taken for endless; None for no limit."""
        return None

    def estimator(self, shared: Classifier, shape: tuple[int, ...]) -> ScoresEstimator:
        """The model as ART's class wants it."""
        if self.probabilities:
            return ProbabilitiesEstimator(shared, tuple(shape))
        return estimator(shared, shape)

    def labels(self, y: np.ndarray, nb_classes: int) -> np.ndarray | None:
        """What ART's `generate` gets for the labels or targets `y`, int64 `[n]`."""
        return y

    def arguments(self, **sizes: float) -> dict[str, Any]:
        """The arguments of ART's class, `eps` and `eps_step` as given."""
        config = {name: getattr(self, name) for name in self.get_config()}
        config.update((key, size) for key, size in sizes.items() if key in config)
        if "eps_step" in config and config["eps_step"] is None:
            steps = config.get("max_iter")
            # Madry et al.'s share, for steps that cannot fall here.
            share = LENGTH if steps is None else min(max(2.5 / steps, 0.1), 1.0)
            config["eps_step"] = config["eps"] * share
        config["verbose"] = False  # the job shows progress
        if config.get("learning_rate", 0.0) is None:
            del config["learning_rate"]  # a schedule of ours: ART has its default
        known = inspect.signature(self.original.__init__).parameters
        return {key: value for key, value in config.items() if key in known}

    def make(self, estimator: ScoresEstimator, **sizes: float) -> Any:
        """ART's attack with these hyperparameters, `eps` and `eps_step` as given."""
        return self.original(estimator, **self.arguments(**sizes))

    def _refuse(self, reason: str, received: str) -> None:
        raise ValueError(f"ART's {self.original.__name__} {reason}. Received: {received}")

    def _check_unit_box(self) -> None:
        bounds = self.bound.clip_values
        if bounds != (0.0, 1.0):
            self._refuse("attacks only models with inputs in 0..1", f"clip_values={bounds}")

    def _check_images(self, square: bool = False) -> None:
        shape = self.bound.input_shape
        if shape is None or None in shape:
            return  # the callable's first samples will tell
        if len(shape) != 3 or (square and shape[0] != shape[1]):
            kind = "square images" if square else "images [height, width, channels]"
            self._refuse(f"takes only {kind}", f"input shape {tuple(shape)}")


class SeededStarts:
    """Has random starts depend on NumPy's seed, as everything else in ART does."""

    def _init_sample(self, *arguments: Any) -> Any:
        # ART makes a new generator here, without a seed.
        with mock.patch.object(np.random, "RandomState", lambda: np.random):
            return super()._init_sample(*arguments)  # type: ignore[misc]


class ArtFastGradientMethod(ArtAttack, FastGradientMethod):
    """ART's `FastGradientMethod`; `binary_search_steps` has no effect."""

    name = "art:fgsm"
    original = evasion.FastGradientMethod
    takes_mask = True


class ArtProjectedGradientDescent(ArtAttack, ProjectedGradientDescent):
    """ART's `ProjectedGradientDescent`."""

    name = "art:pgd"
    original = evasion.ProjectedGradientDescent
    takes_mask = True


class ArtCarliniL2Method(ArtAttack, CarliniL2Method):
    """ART's `CarliniL2Method`: a line search along the plain gradient instead of Adam.

    A step differentiates two logits in a pass each, and the line search adds up to ten queries. It
    has no restarts and no mean gradients.
    """

    name = "art:cwl2"
    original = evasion.CarliniL2Method

    def check(self) -> None:
        super().check()
        low, high = self.bound.clip_values
        unset: dict[str, float] = {"restarts": 0, "gradient_samples": 0}
        for name, share in self.lengths.items():
            assert share is not None
            unset[name] = share * (high - low)
        given = {name: getattr(self, name) for name in unset}
        if given != unset:
            self._refuse(
                "has no restarts and no mean gradients",
                ", ".join(f"{name}={value!r}" for name, value in given.items()),
            )


class ArtElasticNet(ArtAttack, ElasticNet):
    """ART's `ElasticNet`, for inputs in 0..1 only: it clips to these bounds, whatever the model's.

    A step differentiates two logits in a pass each and makes two queries.
    """

    name = "art:ead"
    original = evasion.ElasticNet

    def check(self) -> None:
        super().check()
        self._check_unit_box()


class ArtHopSkipJump(ArtAttack, HopSkipJump):
    """ART's `HopSkipJump`, sample by sample.

    Without a target it leaves the class that the model predicts, whatever the label. Its search
    for a step that stays adversarial does not end where there is none (a point that is on the
    boundary within rounding, a model with noise): a sample that takes ten times the queries that
    the algorithm can need is given up.
    """

    name = "art:hsja"
    takes_mask = True

    class original(SeededStarts, evasion.HopSkipJump):
        pass

    def limit(self) -> int | None:
        searches = 100  # passes of a binary search and of a step size search, generously
        return 10 * (self.init_size + searches + self.max_iter * (self.max_eval + searches))


class ArtBasicIterativeMethod(ArtAttack, BasicIterativeMethod):
    """ART's `BasicIterativeMethod`."""

    name = "art:bim"
    original = evasion.BasicIterativeMethod
    takes_mask = True


class ArtMomentumIterativeMethod(ArtAttack, MomentumIterativeMethod):
    """ART's `MomentumIterativeMethod`: the gradient is accumulated at unit length in `norm`."""

    name = "art:mifgsm"
    original = evasion.MomentumIterativeMethod
    takes_mask = True


class ArtAutoProjectedGradientDescent(ArtAttack, AutoProjectedGradientDescent):
    """ART's `AutoProjectedGradientDescent` with the cross-entropy and a first step of `2 eps`.

    That is the paper's first step, where ART's own default is 0.1. ART has its DLR loss only for
    its own estimators. `rho` (it has 0.75) and `eot_iter` have no effect. Its mask leaves out the
    random start, so that it is refused.
    """

    name = "art:apgd"
    original = evasion.AutoProjectedGradientDescent

    def check(self) -> None:
        super().check()
        if self.loss_type != "cross_entropy" or self.nb_target_classes is not None:
            self._refuse(
                "is run with the cross-entropy and no target classes of its own",
                f"loss_type={self.loss_type!r}, nb_target_classes={self.nb_target_classes}",
            )

    def arguments(self, **sizes: float) -> dict[str, Any]:
        arguments = super().arguments(**sizes)
        # With None the loss is the estimator's, the cross-entropy.
        return {**arguments, "loss_type": None, "eps_step": 2 * arguments["eps"]}


class ArtVirtualAdversarialMethod(ArtAttack, VirtualAdversarialMethod):
    """ART's `VirtualAdversarialMethod`, on probabilities.

    An iteration takes one query more than a sample has pixels, and no gradient; `finite_diff` is
    the step of the difference quotient.
    """

    name = "art:vat"
    original = evasion.VirtualAdversarialMethod
    probabilities = True


class ArtSaliencyMapMethod(ArtAttack, SaliencyMapMethod):
    """ART's `SaliencyMapMethod`: the two pixels with the largest derivative of the target's logit.

    Without a target it draws a class at random and goes on until that one is reached. `outputs`
    has no effect.
    """

    name = "art:jsma"
    original = evasion.SaliencyMapMethod

    def labels(self, y: np.ndarray, nb_classes: int) -> np.ndarray | None:
        return y if self.targeted else None  # ART takes whatever it is given for targets


class ArtDeepFool(ArtAttack, DeepFool):
    """ART's `DeepFool`, for boxes of width 1 only: it scales its steps by the width.

    It leaves the class that the model predicts, whatever the label. A step differentiates every
    class of every sample in a pass of its own, until the last sample of the batch has ended.
    """

    name = "art:deepfool"
    original = evasion.DeepFool

    def check(self) -> None:
        super().check()
        low, high = self.bound.clip_values
        if high - low != 1:
            self._refuse("overshoots unless the box has width 1", f"clip_values={(low, high)}")


class ArtUniversalPerturbation(ArtAttack, UniversalPerturbation):
    """ART's `UniversalPerturbation`, sample by sample; `group_size` has no effect.

    The inner attack must be one that ART knows here and that works on logits and labels: cwl2,
    cwlinf, deepfool, ead, fgsm, bim or pgd.
    """

    name = "art:uap"
    original = evasion.UniversalPerturbation
    inners: ClassVar[dict[str, str]] = {
        "cwl2": "carlini",
        "cwlinf": "carlini_inf",
        **{name: name for name in ("deepfool", "ead", "fgsm", "bim", "pgd")},
    }

    def check(self) -> None:
        super().check()
        if self.inner.name not in self.inners:
            self._refuse(
                f"has no such inner attack; it has {', '.join(self.inners)}",
                f"attacker={self.attacker!r}",
            )
        self._inner()

    def prologue(self, source: Source) -> Prologue:
        """Has ART look for the perturbation, on all samples at once."""
        x, y = source.whole()
        classifier = self.bound
        if y is None:
            y = classifier.judge(x, self.batch_size)[0]
        crafted = drivers.Crafted.untouched(x)
        model = self.estimator(classifier, x.shape[1:])
        with numpy_seed([self.seed, 0]):
            original = self._attack(
                model,
                {"x": x, "y": y, "eps": np.full(len(x), self.eps)},
                np.arange(len(x)),
                crafted,
            )
        return {
            "noise": np.asarray(original.noise, np.float32)[0],
            "fooling_rate": np.array(float(original.fooling_rate)),
            "passes": np.array(
                [
                    crafted.queries.sum(),
                    crafted.gradients.sum(),
                    crafted.executed_queries,
                    crafted.executed_gradients,
                ]
            ),
        }

    craft = UniversalPerturbation.craft

    def _inner(self) -> ArtAttack:
        description = {"name": "art:" + self.inner.name, "config": self.inner.get_config()}
        bound = registry.get(description).bind(self.bound)
        assert isinstance(bound, ArtAttack)
        return bound

    def arguments(self, **sizes: float) -> dict[str, Any]:
        arguments = super().arguments(**sizes)
        name = self.inners[self.inner.name]
        return {**arguments, "attacker": name, "attacker_params": self._inner().arguments()}


class ArtCarliniL0Method(ArtAttack, CarliniL0Method):
    """ART's `CarliniL0Method`: a whole C&W L2 attack for each value that it fixes.

    It fixes one value per round and has as many rounds as the image has rows. A step
    differentiates two logits in a pass each, and the line search adds up to ten queries.
    """

    name = "art:cwl0"
    original = evasion.CarliniL0Method

    def check(self) -> None:
        super().check()
        self._check_images()


class ArtCarliniLInfMethod(ArtAttack, CarliniLInfMethod):
    """ART's `CarliniLInfMethod`, sample by sample, untargeted, for inputs in 0..1 only.

    Its bound on the entries begins at 1 and ends at 1/256, whatever the width of the box. With a
    target it would keep the points that miss it.
    """

    name = "art:cwlinf"
    original = evasion.CarliniLInfMethod
    can_target = False

    def check(self) -> None:
        super().check()
        self._check_unit_box()


class ArtZooAttack(ArtAttack, ZooAttack):
    """ART's `ZooAttack`, sample by sample, with Adam.

    The samples of a batch would all move the first one's noise, so that its batches are of one
    sample; but the points that it asks for are sent up to 128 at a time instead of one by one.
    With `use_resize` it brings smaller images up to 32 by 32 as well, and fails on black ones.
    `nb_parallel` is capped at the number of coordinates, above which ART fails.
    """

    name = "art:zoo"

    class original(evasion.ZooAttack):
        batch_size: int

        def _loss(self, *arguments: Any) -> Any:
            one, self.batch_size = self.batch_size, BATCH_SIZE
            try:
                return super()._loss(*arguments)
            finally:
                self.batch_size = one

    def check(self) -> None:
        super().check()
        if self.solver != "adam":
            self._refuse("has no other solver than 'adam'", f"solver={self.solver!r}")

    def make(self, estimator: ScoresEstimator, **sizes: float) -> Any:
        arguments = self.arguments(**sizes)
        shape = estimator.input_shape
        resized = self.use_resize and len(shape) == 3
        coordinates = 32 * 32 * shape[-1] if resized else math.prod(shape)
        parallel = min(self.nb_parallel, coordinates)
        return self.original(estimator, **{**arguments, "nb_parallel": parallel, "batch_size": 1})


class ArtBoundaryAttack(ArtAttack, BoundaryAttack):
    """ART's `BoundaryAttack`, sample by sample.

    Without a target it leaves the class that the model predicts, whatever the label.
    """

    name = "art:boundary"

    class original(SeededStarts, evasion.BoundaryAttack):
        pass


class ArtSignOPTAttack(ArtAttack, SignOPTAttack):
    """ART's `SignOPTAttack`, sample by sample, untargeted, for inputs in 0..1 and three classes up.

    It draws starts of unit variance and takes the boundary for unreachable beyond a distance of
    20. It leaves the class that the model predicts, whatever the label. A sample that takes many
    times the queries that its searches can need is given up: they do not end where a direction
    is not a number.
    """

    name = "art:signopt"
    original = evasion.SignOPTAttack
    can_target = False

    def check(self) -> None:
        super().check()
        self._check_unit_box()
        if self.bound.known_classes == 2:
            self._refuse("needs more than two classes", "a model with 2")

    def limit(self) -> int | None:
        search, steps = 2000, 30  # one per cent at a time, and lengths tried in an iteration
        return 100 * self.num_trial + self.max_iter * (self.k + steps * search)


class ArtSquareAttack(ArtAttack, SquareAttack):
    """ART's `SquareAttack`, untargeted, on square images; an iteration makes three queries.

    Its squares must be smaller than the image, and the grid of the L2 attack needs ten pixels on
    a side.
    """

    name = "art:square"
    original = evasion.SquareAttack
    can_target = False

    def check(self) -> None:
        super().check()
        self._check_images(square=True)
        shape = self.bound.input_shape
        if shape is None or shape[0] is None:
            return
        side = int(self._sides(shape[0], shape[0]).max())
        if side >= shape[0]:
            self._refuse(
                "needs a `p_init` with squares smaller than the image", f"p_init={self.p_init!r}"
            )
        if self.norm == 2 and shape[0] < 10:
            self._refuse("needs images of ten pixels or more for L2", f"input shape {shape}")


class ArtSimBA(ArtAttack, SimBA):
    """ART's `SimBA`, sample by sample, on probabilities and square images.

    Both signs of every step are asked for. Between `freq_dim` and the side of the image must lie
    a whole number of strides.
    """

    name = "art:simba"
    original = evasion.SimBA
    probabilities = True

    def labels(self, y: np.ndarray, nb_classes: int) -> np.ndarray | None:
        return np.eye(nb_classes)[y]

    def arguments(self, **sizes: float) -> dict[str, Any]:
        return {**super().arguments(**sizes), "batch_size": 1}  # it takes no other

    def check(self) -> None:
        super().check()
        self._check_images(square=True)
        shape = self.bound.input_shape
        if shape is not None and shape[0] is not None and (shape[0] - self.freq_dim) % self.stride:
            self._refuse(
                "needs a whole number of strides from `freq_dim` to the side of the image",
                f"freq_dim={self.freq_dim}, stride={self.stride}, input shape {tuple(shape)}",
            )
