"""Auto-PGD."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import base

LOSSES = ("cross_entropy", "difference_logits_ratio")
MOMENTUM = 0.75
# For L1: how far the number of moved pixels is cut, the factor and the floor of the step length.
SPARSER, SHORTER, SHORTEST = 1.5, 1.5, 0.1
# For L1: radius as a multiple of `eps` and share of the steps of each stage.
STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))


class AutoProjectedGradientDescent(base.Attack):
    """PGD with momentum that halves its own step length and goes back to its best point.

    `z = P(x_k + eta * s(grad))`, `x_{k+1} = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1}))`, `s`
    the steepest direction, `eta = 2 eps` at first. At checkpoints 0.22, 0.41, 0.57, ... of the way
    `eta` is halved, and the search goes on from the best point, where the loss rose in at most
    `rho` of the steps since the last one, or neither `eta` nor the best loss changed since then.
    Each sample has its own `eta`. The point of the largest loss among the adversarial ones is
    returned; a sample that is fooled takes no further start.

    For L1 the method is that of the second paper: sign steps on the largest entries of the
    gradient, whose number follows the sparsity of the best point; `eta = eps`, every 4 % divided
    by 1.5 or, when the best point has become sparser, reset; exact projection onto ball and box;
    three stages of radius 3, 2 and 1 `eps`. The authors' code (github.com/fra31/auto-attack) is
    followed where the papers leave a choice.

    ART's class of this name has no L1 method, no targeted DLR and one step length for the batch.

    Reference: Croce & Hein, "Reliable Evaluation of Adversarial Robustness with an Ensemble of
    Diverse Parameter-free Attacks", 2020, arXiv:2003.01690, algorithm 1; Croce & Hein, "Mind the
    Box: l1-APGD for Sparse Adversarial Attacks on Image Classifiers", 2021, arXiv:2103.01208.

    Args:
        model: See `Attack`.
        norm: inf, 1 or 2.
        eps: Budget in the unit of the inputs: a number, or one per sample `[n]`. Default: 0.3 of
            the width of the box.
        max_iter: Steps per start; each start takes one gradient more, at its first point.
        nb_random_init: Number of starts, each at a random point of the ball.
        loss_type: ``"cross_entropy"`` or ``"difference_logits_ratio"`` (DLR, at least three
            classes); with a target the targeted DLR `-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)`,
            `y` the class predicted at the sample, at least four classes.
        nb_target_classes: Without `targeted`: aim at this many classes, the most likely wrong
            ones, one after the other, each with all starts, until the sample has left its class;
            None aims at none. 9 with the DLR loss is AutoAttack's second attack (APGD-T).
        rho: See above.
        eot_iter: Gradients averaged per step, for randomised models.
        early_stop: End a sample at its first adversarial iterate. The result is as successful
            and less confident.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> attack = AutoProjectedGradientDescent(model, eps=8 / 255, nb_random_init=1)
        >>> x_adv = attack.generate(x, y)
    """

    name = "apgd"
    kind = "budget"
    strategy = "sensitivity"
    source = "AREB"
    random = True
    lengths = {"eps": 0.3}
    traced = ("rho",)
    state_leaves = (
        "own",
        "goals",
        "goal",
        "iterate",
        "previous",
        "top",
        "top_gradient",
        "top_loss",
        "last_loss",
        "eta",
        "rises",
        "halved",
        "checked_loss",
        "share",
        "moved",
        "count",
        "best_loss",
    )

    def __init__(
        self,
        model: Any = None,
        *,
        norm: float | str = math.inf,
        eps: Any = None,
        max_iter: int = 100,
        nb_random_init: int = 5,
        loss_type: str = "cross_entropy",
        nb_target_classes: int | None = None,
        rho: float = 0.75,
        eot_iter: int = 1,
        early_stop: bool = False,
        **common: Unpack[base.Common],
    ):
        self.norm = norms.check_norm(norm)
        self.eps = None if eps is None else checks.check_size("eps", eps)
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.nb_random_init = checks.check_int("nb_random_init", nb_random_init, 1)
        if loss_type not in LOSSES:
            raise ValueError(
                f"`loss_type` must be one of {', '.join(LOSSES)}. Received: loss_type={loss_type!r}"
            )
        self.loss_type = loss_type
        self.nb_target_classes = nb_target_classes
        if nb_target_classes is not None:
            self.nb_target_classes = checks.check_int("nb_target_classes", nb_target_classes, 1)
        self.rho = checks.check_float("rho", rho)
        self.eot_iter = checks.check_int("eot_iter", eot_iter, 1)
        self.early_stop = checks.check_bool("early_stop", early_stop)
        super().__init__(model, **common)
        if self.targeted and nb_target_classes is not None:
            raise ValueError(
                "With `targeted` the classes come from `y`: leave `nb_target_classes` out. "
                f"Received: nb_target_classes={nb_target_classes}"
            )

    def check(self) -> None:
        classes = self.bound.known_classes
        if classes is None:
            return
        needed = {LOSSES[0]: 2, LOSSES[1]: 4 if self._aims() else 3}[self.loss_type]
        needed = max(needed, (self.nb_target_classes or 0) + 1)
        if classes < needed:
            raise ValueError(
                f"loss_type={self.loss_type!r} with nb_target_classes={self.nb_target_classes} "
                f"needs at least {needed} classes. Received: a model with {classes}"
            )

    def _aims(self) -> bool:
        return self.targeted or self.nb_target_classes is not None

    def max_steps(self) -> int:
        return len(self._schedule()[0]) * self.nb_random_init * (self.nb_target_classes or 1)

    def _schedule(self) -> tuple[list[int], list[int], list[float]]:
        """For each gradient of a start: its step of the stage, since a checkpoint, and radius.

        A step of 0 opens a stage. The second number is 0 but at a checkpoint, where it is the
        number of steps since the last one.
        """
        stages = [(1.0, self.max_iter)]
        if self.norm == 1:
            early = [(radius, math.ceil(share * self.max_iter)) for radius, share in STAGES[:-1]]
            last = self.max_iter - sum(steps for _, steps in early)
            stages = [stage for stage in [*early, (1.0, last)] if stage[1] > 0]
            stages[-1] = (1.0, stages[-1][1])
        steps: list[int] = []
        checkpoints: list[int] = []
        radii: list[float] = []
        for radius, count in stages:
            gap, last = max(int((0.04 if self.norm == 1 else 0.22) * count), 1), 0
            for k in range(count + 1):
                steps.append(k)
                radii.append(radius)
                checkpoints.append(gap if k and k - last == gap else 0)
                if checkpoints[-1]:
                    last = k
                    if self.norm != 1:
                        gap = max(gap - max(int(0.03 * count), 1), max(int(0.06 * count), 1))
        return steps, checkpoints, radii

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        rows = tf.shape(state["x"])[0]
        low = tf.fill([rows], -math.inf)
        zeros = tf.zeros([rows])
        logits, state = self.score(model, state, state["x"])
        own = tf.argmax(logits, axis=-1, output_type=tf.int32) if self.targeted else state["y"]
        goals = state["y"][:, None]
        if self.nb_target_classes is not None:
            taken = tf.one_hot(own, tf.shape(logits)[1], on_value=True, off_value=False)
            goals = tf.math.top_k(
                tf.where(taken, -math.inf, logits), k=self.nb_target_classes
            ).indices
        return {
            **state,
            "own": own,
            "goals": goals,
            "goal": goals[:, 0],
            "iterate": state["x"],
            "previous": state["x"],
            "top": state["x"],  # the best point of this start, adversarial or not
            "top_gradient": tf.zeros_like(state["x"]),
            "top_loss": low,
            "last_loss": low,
            "eta": zeros,
            "rises": zeros,
            "halved": tf.zeros([rows], tf.bool),
            "checked_loss": low,
            "share": zeros,  # L1: of the pixels that a step moves
            "moved": zeros,  # L1: pixels that the best point had moved at the last checkpoint
            "count": tf.zeros([rows], tf.int32),
            "best": state["x"],
            "best_loss": low,
            "found": tf.zeros([rows], tf.bool),
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        steps, gaps, radii = (tf.constant(column) for column in self._schedule())
        length = tf.shape(steps)[0]
        place = t % length
        k, gap, radius = steps[place], gaps[place], radii[place]
        state = tf.cond(
            tf.equal(place, 0),
            lambda: self._restart(model, state, t // length, seed),
            lambda: state,
        )
        eps = radius * state["eps"]
        if self.norm == 1:
            # On with the best point in a smaller ball.
            point = self._project(model, state["x"], state["top"] - state["x"], eps)
            opens = tf.equal(k, 0) & (place > 0)
            state = tf.cond(opens, lambda: self._open_stage(state, point, eps), lambda: state)
        logits, loss, gradient, state = self._gradient(model, state)

        fooled = self.fools(model, state, state["iterate"], logits)
        counts = fooled & tf.equal(radius, 1.0)
        better = counts & (loss > state["best_loss"])
        rises = state["rises"] + tf.cast((loss > state["last_loss"]) & (k > 0), tf.float32)
        higher = loss > state["top_loss"]
        state = {
            **state,
            "best": norms.select(better, state["iterate"], state["best"]),
            "best_loss": tf.where(better, loss, state["best_loss"]),
            "found": state["found"] | better,
            "rises": rises,
            "last_loss": loss,
            "top": norms.select(higher, state["iterate"], state["top"]),
            "top_gradient": norms.select(higher, gradient, state["top_gradient"]),
            "top_loss": tf.where(higher, loss, state["top_loss"]),
            "count": state["count"] + 1,
        }
        # At the first gradient of a stage the best loss is the one to be compared with.
        checked = tf.where(tf.equal(k, 0), state["top_loss"], state["checked_loss"])
        state = {**state, "checked_loss": checked}
        state, back = tf.cond(
            gap > 0,
            lambda: self._checkpoint(state, params, eps, tf.cast(gap, tf.float32)),
            lambda: (state, tf.zeros_like(state["found"])),
        )
        point = norms.select(back, state["top"], state["iterate"])
        gradient = norms.select(back, state["top_gradient"], gradient)
        moved = self._move(model, state, point, gradient, eps, k)
        return {**state, "iterate": moved, "previous": point}

    def _gradient(
        self, model: Any, state: base.State
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, base.State]:
        """The direction of a gradient, or of the mean over draws of a randomised model."""
        y = {key: state[key] for key in ("own", "goal")}

        def draw(state: base.State, i: Any) -> tuple[Any, ...]:
            return self.differentiate(
                model, state, state["iterate"], lambda z: self._objective(z, y), i
            )

        def add(state: base.State, i: Any, _: Any, __: Any, total: Any, largest: Any) -> Any:
            # The label and the loss are those of the last draw, as in the authors' code.
            logits, loss, gradient, state = draw(state, i)
            share = self._log_share(loss)
            most = tf.maximum(largest, share)
            total *= norms.expand(tf.exp(largest - most), total)
            total += norms.expand(tf.exp(share - most), total) * gradient
            return state, i + 1, logits, loss, total, most

        logits, loss, total, state = draw(state, 0)
        if self.eot_iter > 1:
            first = (1, logits, loss, total, self._log_share(loss))
            state, _, logits, loss, total, _ = self.loop(
                state, lambda i, *_: i < self.eot_iter, add, first
            )
        return logits, loss, total, state

    def _log_share(self, loss: tf.Tensor) -> tf.Tensor:
        """By how much, as a logarithm, the mean over draws counts a draw's gradient.

        The gradient of the cross-entropy is `1 - p_y` times that of the log-odds.
        """
        if self.loss_type != "cross_entropy":
            return tf.zeros_like(loss)
        return tf.math.log_sigmoid(-loss if self._aims() else loss)

    def _objective(self, logits: tf.Tensor, y: base.State) -> tf.Tensor:
        if self.loss_type == "cross_entropy":
            if self._aims():
                return -losses.log_odds(logits, y["goal"])
            return losses.log_odds(logits, y["own"])
        if self._aims():
            return losses.targeted_difference_of_logits_ratio(logits, y["own"], y["goal"])
        return losses.difference_of_logits_ratio(logits, y["own"])

    def _restart(self, model: Any, state: base.State, start: Any, seed: Any) -> base.State:
        """A random point of the (first) ball and everything as at the beginning."""
        x = state["x"]
        radius = self._schedule()[2][0] * state["eps"]
        if self.norm == math.inf:
            noise = tf.random.stateless_uniform(tf.shape(x), seed, -1.0, 1.0)
        else:
            noise = tf.random.stateless_normal(tf.shape(x), seed)
        noise = tf.ensure_shape(noise, x.shape)
        if "mask" in state:
            noise *= state["mask"]
        if self.norm != 1:  # on the edge of the ball
            noise = norms.expand(radius, x) * norms.normalize(noise, self.norm)
        point = self._project(model, x, noise, radius)
        goal = state["goals"][:, 0]
        if self.nb_target_classes is not None:
            goal = tf.gather(state["goals"], start // self.nb_random_init, axis=1)
        return self._open_stage({**state, "goal": goal}, point, radius)

    def _open_stage(self, state: base.State, point: tf.Tensor, eps: tf.Tensor) -> base.State:
        """Everything but the target and what has been found as at the beginning, from a point."""
        low = tf.fill(tf.shape(eps), -math.inf)
        moved = norms.norm(point - state["x"], 0)
        return {
            **state,
            "iterate": point,
            "previous": point,
            "top": point,
            "top_loss": low,
            "last_loss": low,
            "eta": eps * (1.0 if self.norm == 1 else 2.0),
            "rises": tf.zeros_like(eps),
            # The first checkpoint has no earlier one to compare its best loss with.
            "halved": tf.ones_like(state["halved"]),
            "moved": moved,
            "share": self._sparser(state, moved),
        }

    def _sparser(self, state: base.State, moved: tf.Tensor) -> tf.Tensor:
        pixels = tf.cast(tf.shape(norms.flatten(state["x"]))[1], tf.float32)
        return moved / pixels / SPARSER

    def _checkpoint(
        self, state: base.State, params: base.Params, eps: tf.Tensor, gap: tf.Tensor
    ) -> tuple[base.State, tf.Tensor]:
        """New step lengths, and which samples go back to their best point."""
        if self.norm == 1:
            moved = norms.norm(state["top"] - state["x"], 0)
            sparser = tf.math.divide_no_nan(moved, state["moved"]) < 0.95
            eta = tf.where(sparser, eps, tf.maximum(state["eta"] / SHORTER, SHORTEST * eps))
            share = self._sparser(state, moved)
            return {**state, "eta": eta, "share": share, "moved": moved}, sparser
        # The paper has "fewer than rho"; the authors' code, "at most".
        oscillates = state["rises"] <= params["rho"] * gap
        stuck = ~state["halved"] & (state["checked_loss"] >= state["top_loss"])
        halved = oscillates | stuck
        return {
            **state,
            "eta": tf.where(halved, state["eta"] / 2, state["eta"]),
            "halved": halved,
            "checked_loss": state["top_loss"],
            "rises": tf.zeros_like(state["rises"]),
        }, halved

    def _move(
        self,
        model: Any,
        state: base.State,
        point: tf.Tensor,
        gradient: tf.Tensor,
        eps: tf.Tensor,
        k: tf.Tensor,
    ) -> tf.Tensor:
        x = state["x"]
        eta = norms.expand(state["eta"], x)
        if self.norm == 1:
            size = tf.abs(norms.flatten(gradient))
            pixels = size.shape[1] or tf.shape(size)[1]
            rank = tf.cast(state["share"] * tf.cast(pixels, tf.float32), tf.int32)
            least = norms.of_rank(size, tf.clip_by_value(rank, 0, pixels - 1)[:, None] + 1)
            signs = tf.sign(norms.flatten(gradient)) * tf.cast(size >= least, size.dtype)
            step = norms.normalize(tf.reshape(signs, tf.shape(x)), 1)
            return self._project(model, x, point + eta * step - x, eps)
        step = tf.sign(gradient) if self.norm == math.inf else norms.normalize(gradient, 2)
        target = self._project(model, x, point + eta * step - x, eps)
        share = tf.where(tf.equal(k, 0), 1.0, MOMENTUM)
        mixed = point + share * (target - point) + (1 - share) * (point - state["previous"])
        return self._project(model, x, mixed - x, eps)

    def _project(self, model: Any, x: tf.Tensor, delta: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """`x + delta` brought into ball and box; for L2 one after the other."""
        low, high = model.clip_values
        if self.norm == 1:
            return x + norms.project_l1_in_box(delta, eps, low - x, high - x)
        return self.clip(model, x + norms.project(delta, eps, self.norm))

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        ended = state["count"] >= self.max_steps()
        if self.early_stop:
            return ended | state["found"]
        return ended | (state["found"] & tf.equal(state["count"] % len(self._schedule()[0]), 0))

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        found = norms.expand(state["found"], state["x"])
        return tf.where(found, state["best"], state["top"])
