"""Square attack."""

from __future__ import annotations

import math
from typing import Any, Unpack

import numpy as np
import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import base
from kerasrobust.attacks.query_attack import QueryAttack, QueryCommon

# Of 10,000 iterations those after which the share of pixels that change is halved (section 3.1).
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
TILES = 5
TINY = 1e-12


class SquareAttack(QueryAttack):
    """Random search that changes one square of the image at a time and keeps what helps.

    Linf: from vertical stripes of `+-eps`, a square at a random place is set to `+-eps` in every
    channel. L2: from a grid of bumps, the mass of a square is moved into another one, which gets a
    new bump (Algorithm 3). A candidate is kept if it lowers the loss. The area of the squares is
    the share `p_init` of the image, halved on a schedule that is stretched to `max_iter`. The
    loss is the margin of the logits and, with a target, the cross-entropy of the target, as in the
    authors' program. A sample ends when it is fooled: `1 + max_iter` queries at most per restart,
    and one for the clean sample.

    The start is kept only where it lowers the loss, else the search begins at the sample, as in
    ART; the authors' program always keeps it. On an MNIST CNN (100 runs of 100 samples, L2 within
    1.0, 1.5 and 2.0) 20 iterations fool 3.4, 8.3 and 12.7 % so, against 2.5, 7.3 and 11.1 % (ART:
    4.3, 8.6 and 12.5 %), 100 iterations 12.2, 17.4 and 30.5 %, against 12.1, 16.9 and 29.3 % (ART:
    10.7, 19.1 and 26.1 %), each within 0.4; in Linf and after 1000 iterations nothing differs.
    A sample that is misclassified already stays where it is; the authors' program leaves it out.

    Places and signs of the squares are drawn once for all samples of a batch, as in the authors'
    program: for each sample they are distributed as in the paper, and packing cannot change the
    result. Every sample has a start of its own. Squares may touch the
    lower and right edge, as in the paper; the authors' program and ART leave out the last place.
    ART's class of this name asks the model three times per iteration.

    Reference: Andriushchenko, Croce, Flammarion & Hein, "Square Attack: a query-efficient
    black-box adversarial attack via random search", 2020, arXiv:1912.00049.

    Args:
        model: See `Attack`; inputs must be images `[height, width, channels]`, or with the channels
            first where the shape tells (`checks.channel_axis`).
        norm: inf or 2.
        max_iter: Candidates per restart; AutoAttack takes 5000, ART's default is 100 (MNIST, `eps`
            0.2: 71 % left, against 1 % at 1000).
        eps: Budget in the unit of the inputs: a number, or one per sample `[n]`. Default: 0.3 of
            the width of the box.
        p_init: First share of the image that a square covers, above 0 and at most 1.
        nb_restarts: Number of starts.
        **common: `max_queries`: see `QueryAttack`; `targeted`, `batch_size`, `seed`, `verbose`,
            `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = SquareAttack(model, eps=0.3, max_iter=1000).generate(x, y)
    """

    name = "square"
    kind = "budget"
    norms = (2.0, math.inf)
    strategy = "optimization"
    source = "AREB"
    lengths = {"eps": 0.3}
    traced = ("max_iter", "nb_restarts")
    state_leaves = ("signs", "clean", "loss", "steps")
    art_defaults = {"max_iter": 100}

    def __init__(
        self,
        model: Any = None,
        *,
        norm: float | str = math.inf,
        max_iter: int = 1000,
        eps: Any = None,
        p_init: float = 0.8,
        nb_restarts: int = 1,
        **common: Unpack[QueryCommon],
    ):
        self.norm = norms.check_norm(norm, (2.0, math.inf))
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.eps = None if eps is None else checks.check_size("eps", eps)
        self.p_init = checks.check_float("p_init", p_init, above=True)
        if self.p_init > 1:
            raise ValueError(f"`p_init` must be at most 1. Received: p_init={p_init!r}")
        self.nb_restarts = checks.check_int("nb_restarts", nb_restarts, 1)
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.nb_restarts * (self.max_iter + 1)

    def check(self) -> None:
        super().check()
        checks.check_images("The square attack", self.bound.input_shape)

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        checks.check_images("The square attack", tuple(state["x"].shape[1:]))
        # Signs of each sample's own; a restart turns them by signs that all samples share, which
        # makes new ones of them whatever samples are left.
        shape = self._start_shape(_channels_last(state["x"]).shape)
        own = tf.random.stateless_uniform([tf.shape(state["x"])[0], *shape], seed)
        loss, fooled, granted, state = self._look(model, state, state["x"])
        return {
            **state,
            "signs": tf.where(own < 0.5, -1.0, 1.0),
            "best": state["x"],
            "clean": tf.where(granted, loss, math.inf),
            "loss": tf.fill([tf.shape(state["x"])[0]], math.inf),
            "found": fooled,
            "steps": tf.zeros_like(state["y"]),
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x, eps = state["x"], norms.expand(state["eps"], state["x"])
        first_axis = checks.channel_axis(tuple(x.shape[1:])) == 0
        images = _channels_last(x)
        i = t % (params["max_iter"] + 1)
        first = i == 0
        # i iterations are behind this one, the start is not one of them.
        progress = tf.cast(i - 1, tf.float32) / tf.cast(params["max_iter"], tf.float32) * 1e4
        level = tf.reduce_sum(tf.cast(tf.floor(progress) > np.array(HALVINGS), tf.int32))
        seeds = tf.random.split(seed, 6)
        start, propose = self._stripes, self._squares
        if self.norm == 2:
            start, propose = self._grid, self._bumps
        delta = tf.cond(
            first,
            lambda: start(images, eps, state["signs"], seeds),
            lambda: propose(_channels_last(state["best"]) - images, eps, level, seeds),
        )
        if first_axis:
            delta = tf.transpose(delta, [0, 3, 1, 2])
        delta = tf.ensure_shape(delta, [None, *x.shape[1:]])
        if "mask" in state:
            delta *= state["mask"]
        if self.norm == math.inf:
            delta = tf.clip_by_value(delta, -eps, eps)
        else:
            delta = eps * norms.normalize(delta, 2)
        candidate = self.clip(model, x + delta)
        loss, fooled, granted, state = self._look(model, state, candidate)
        best = norms.select(first, x, state["best"])
        least = tf.where(first, state["clean"], state["loss"])
        better = granted & (fooled | (loss < least))
        return {
            **state,
            "best": norms.select(better, candidate, best),
            "loss": tf.where(better, loss, least),
            "found": fooled,
            "steps": state["steps"] + 1,
        }

    def _look(
        self, model: Any, state: base.State, points: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, base.State]:
        """Loss of a point of each sample, whether it fools, whether it was asked for, the state."""
        logits, fooled, granted, state = self.scores(model, state, points[:, None])
        logits = logits[:, 0]
        if self.targeted:
            loss = losses.log_odds(logits, state["y"])
        else:
            loss = losses.margin(logits, state["y"])
        return loss, fooled[:, 0], granted[:, 0], state

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        most = params["nb_restarts"] * (params["max_iter"] + 1)
        return state["found"] | (state["steps"] >= most)

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]

    # ---- Linf -------------------------------------------------------------------------------

    def _stripes(self, x: tf.Tensor, eps: tf.Tensor, signs: tf.Tensor, seeds: Any) -> tf.Tensor:
        signs *= self._signs(signs.shape[1:], seeds[0])
        return eps * signs[:, None] + tf.zeros_like(x)

    def _squares(self, delta: tf.Tensor, eps: tf.Tensor, level: Any, seeds: Any) -> tf.Tensor:
        height, width, channels = delta.shape[1:]
        side = tf.gather(self._sides(height, width), level)
        row, column = self._place(height, width, side, seeds[0])
        inside = _window(height, row, side)[:, None] & _window(width, column, side)[None]
        square = 2 * eps * self._signs([1, 1, 1, channels], seeds[1])
        return delta + square * tf.cast(inside, delta.dtype)[None, ..., None]

    # ---- L2 ---------------------------------------------------------------------------------

    def _grid(self, x: tf.Tensor, eps: tf.Tensor, signs: tf.Tensor, seeds: Any) -> tf.Tensor:
        """Bumps of random sign and orientation on a grid of 5 by 5 tiles."""
        height, width = x.shape[1:3]
        side, rows, columns = _tiles(height, width)
        bump = _bump(side)
        pattern = np.zeros((2, height, width), np.float32)
        tile = np.zeros((height, width), np.int32)
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        for index in range(rows * columns):
            i, j = top + index // columns * side, left + index % columns * side
            pattern[:, i : i + side, j : j + side] = np.stack([bump, bump.T])
            tile[i : i + side, j : j + side] = index
        turned = tf.gather(self._signs([rows * columns], seeds[0]) > 0, tile)
        sign = tf.gather(signs * self._signs(signs.shape[1:], seeds[1]), tile, axis=1)
        return tf.where(turned, pattern[1], pattern[0])[..., None] * sign + tf.zeros_like(x)

    def _bumps(self, delta: tf.Tensor, eps: tf.Tensor, level: Any, seeds: Any) -> tf.Tensor:
        """Algorithm 3: the norm of two windows and what is left of eps go into the first one."""
        height, width, channels = delta.shape[1:]
        sides = self._sides(height, width)
        table = np.zeros((len(sides), 2, height, width), np.float32)
        for k, side in enumerate(sides):
            table[k, :, :side, :side] = np.stack([_bump(side), _bump(side).T])
        side = tf.gather(sides, level)
        turned = tf.cast(self._signs([], seeds[0]) > 0, tf.int32)
        windows, places = [], []
        for key in (seeds[1], seeds[2]):
            row, column = self._place(height, width, side, key)
            inside = _window(height, row, side)[:, None] & _window(width, column, side)[None]
            windows.append(tf.cast(inside, tf.float32)[None, ..., None])
            places.append([row, column])
        bump = tf.roll(tf.gather(tf.gather(table, level), turned), places[0], axis=[0, 1])
        bump = tf.ensure_shape(bump, [height, width])[None, ..., None]
        bump *= self._signs([1, 1, 1, channels], seeds[3])

        def length(values: tf.Tensor) -> tf.Tensor:
            return tf.sqrt(tf.reduce_sum(tf.square(values), axis=[1, 2], keepdims=True))

        new = bump + delta * windows[0] / (TINY + length(delta * windows[0]))
        left = tf.square(eps) - norms.expand(tf.square(norms.norm(delta, 2)), delta)
        both = tf.maximum(windows[0], windows[1])
        mass = tf.sqrt(tf.maximum(left, 0.0) / channels + tf.square(length(delta * both)))
        return delta * (1 - both) + new / (TINY + length(new)) * mass

    # ---- both -------------------------------------------------------------------------------

    def _start_shape(self, shape: Any) -> list[int]:
        """Shape of one sample's signs: those of the stripes, or of the tiles."""
        if self.norm == math.inf:
            return list(shape[2:])
        return [math.prod(_tiles(*shape[1:3])[1:]), shape[3]]

    def _sides(self, height: int, width: int) -> np.ndarray:
        """Side of the squares at each level of the schedule; odd and at least 3 for L2."""
        sides = []
        for level in range(len(HALVINGS) + 1):
            side = round(math.sqrt(self.p_init / 2**level * height * width))
            if self.norm == 2:
                side = max(side, 3)
                side += side % 2 == 0
            sides.append(min(max(side, 1), height, width))
        return np.array(sides, np.int32)

    @staticmethod
    def _place(height: int, width: int, side: Any, seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """Upper left corner of a square that fits in the image."""
        u = tf.random.stateless_uniform([2], seed)
        room = tf.constant([height, width]) - side + 1
        corner = tf.minimum(tf.cast(u * tf.cast(room, tf.float32), tf.int32), room - 1)
        return corner[0], corner[1]

    @staticmethod
    def _signs(shape: list[int], seed: Any) -> tf.Tensor:
        return tf.where(tf.random.stateless_uniform(shape, seed) < 0.5, -1.0, 1.0)


def _channels_last(images: tf.Tensor) -> tf.Tensor:
    first = checks.channel_axis(tuple(images.shape[1:])) == 0
    return tf.transpose(images, [0, 2, 3, 1]) if first else images


def _tiles(height: int, width: int) -> tuple[int, int, int]:
    """Side of the tiles of the first L2 point, and how many fit into the image each way."""
    side = max(min(height, width) // TILES, 1)
    return side, height // side, width // side


def _window(size: int, begin: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    position = tf.range(size)
    return (position >= begin) & (position < begin + side)


def _bump(side: int) -> np.ndarray:
    """Two halves of opposite sign, each a pyramid of growing rectangles (eq. 2), of unit length."""

    def pyramid(height: int, width: int) -> np.ndarray:
        values = np.zeros((height, width))
        i, j = height // 2, width // 2
        for k in range(max(height // 2, width // 2) + 1):
            low, left = max(i - k, 0), max(j - k, 0)
            values[low : i + k + 1, left : j + k + 1] += 1 / (k + 1) ** 2
        return values / max(float(np.linalg.norm(values)), TINY)

    upper = side // 2
    bump = np.concatenate([pyramid(upper, side), -pyramid(side - upper, side)])
    return (bump / np.linalg.norm(bump)).astype(np.float32)
