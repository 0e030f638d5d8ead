"""Hopfield networks: memories that are stored at once, and completed.

Hopfield, Neural Networks and Physical Systems with Emergent Collective Computational
Abilities, PNAS 79, 1982, for states of -1 and 1; Ramsauer et al., Hopfield Networks is
All You Need, arXiv:2008.02217, for continuous ones.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, check_count, choose
from genjax.methods._inputs import floats, image_shape
from genjax.types import Batch, Method, ModelState, Params

Cond = Mapping[str, Array]
Hold = Callable[[Array], Array]


def make(config: ConfigDict) -> Method:
    """No player; config.model holds the arguments of `hopfield`."""
    return call(hopfield, config.model, config, where="config.model")


def hopfield(
    config: ConfigDict,
    *,
    kind: str = "modern",
    num_steps: int = 5,
    beta: float = 1.0,
    rule: str = "hebb",
    update: str = "asynchronous",
) -> Method:
    """Stores the first batch of the data, and retrieves from it.

    There is nothing to train: a run takes no steps, and config.data.batch_size is the
    number of patterns. They are model_state["patterns"], [P, N] of N pixels. A sample
    is what a random state recalls; with few patterns they repeat.

    Args:
        config: Resolved; the data must be images.
        kind: "modern", of grey images, or "classical", of black and white ones: pixels
            are cut at 0.
        num_steps: Updates of all pixels. The modern one needs one or two.
        beta: Inverse temperature of the modern one's softmax, for pixels in [-1, 1].
            The larger, the less do patterns mix.
        rule: How the classical one stores: "hebb", or "pseudo_inverse", which keeps up
            to N patterns however alike.
        update: Of the classical one: "asynchronous", one pixel after another in random
            order, or "synchronous", all at once.
    """
    shape = image_shape(config)
    check_count("config.model.num_steps", num_steps)
    choose(dict.fromkeys(("modern", "classical")), kind, "config.model.kind")
    choose(RULES, rule, "config.model.rule")
    updates = dict.fromkeys(("asynchronous", "synchronous"))
    choose(updates, update, "config.model.update")
    if not isinstance(beta, (int, float)) or beta <= 0:
        raise ConfigError(f"config.model.beta must be above 0, got {beta!r}")
    classical = Classical(rule, update == "asynchronous")
    memory = Modern(beta) if kind == "modern" else classical
    model = Machine(memory, shape, num_steps)
    return Method(
        init=model.init,
        sample=model.sample,
        energy=model.energy,
        complete=model.complete,
        denoise=model.denoise,
    )


def hebb(patterns: Array) -> Array:
    """Weights patterns^T patterns / N without a diagonal, [N, N], of patterns [P, N].

    Up to about 0.138 N random patterns are nearly fixed points (Amit, Gutfreund &
    Sompolinsky, Phys. Rev. Lett. 55, 1985).

    Reference: Hopfield, PNAS 79, 1982, Eq. 2, with -1 for 0 and over N.
    """
    weights = patterns.T @ patterns / patterns.shape[1]
    return weights - jnp.diag(jnp.diag(weights))


def pseudo_inverse(patterns: Array) -> Array:
    """The projection on the patterns without its diagonal, [N, N], of patterns [P, N].

    All are fixed points where P < N, however alike; without the diagonal more states
    find their way to them.

    Reference: Kanter & Sompolinsky, Phys. Rev. A 35, 1987, Eq. 3.
    """
    weights = jnp.linalg.pinv(patterns) @ patterns
    return weights - jnp.diag(jnp.diag(weights))


RULES = {"hebb": hebb, "pseudo_inverse": pseudo_inverse}


@dataclass(frozen=True)
class Modern:
    """Continuous states; one update finds a pattern, and exponentially many fit.

    Attributes:
        beta: Inverse temperature.
    """

    beta: float

    def state(self, x: Array) -> Array:
        """Pixels as they are."""
        return x

    def energy(self, patterns: Array, x: Array) -> Array:
        """E(x) of states [B, N] under patterns [P, N], float [B], at least 0.

        Reference: Ramsauer et al., arXiv:2008.02217, Eq. 2.
        """
        overlaps = jax.nn.logsumexp(self.beta * x @ patterns.T, axis=1) / self.beta
        largest = jnp.square(patterns).sum(axis=1).max()
        constant = jnp.log(len(patterns)) / self.beta + 0.5 * largest
        return 0.5 * jnp.square(x).sum(axis=1) - overlaps + constant

    def retrieve(
        self, patterns: Array, x: Array, keys: Array, num_steps: int, hold_fn: Hold
    ) -> Array:
        """softmax(beta x patterns^T) patterns, `num_steps` times; no key is needed.

        It is attention with x for queries and patterns for keys and values. A step
        never raises the energy.

        Reference: Ramsauer et al., arXiv:2008.02217, Eq. 3 and 10.
        """

        def step(x: Array, _: None):
            weights = jax.nn.softmax(self.beta * x @ patterns.T, axis=1)
            return hold_fn(weights @ patterns), None

        return jax.lax.scan(step, x, None, length=num_steps)[0]


@dataclass(frozen=True)
class Classical:
    """States of -1 and 1, each unit of which follows the sign of what it hears.

    Attributes:
        rule: A key of `RULES`.
        asynchronous: Whether units follow one after another, or all at once.
    """

    rule: str
    asynchronous: bool

    def state(self, x: Array) -> Array:
        """The signs; 0 counts as 1."""
        return jnp.where(x < 0, -1.0, 1.0)

    def energy(self, patterns: Array, x: Array) -> Array:
        """-x W x / 2 of states [B, N], float [B]; updates one by one never raise it.

        Reference: Hopfield, PNAS 79, 1982, Eq. 7.
        """
        return -0.5 * jnp.sum(x @ RULES[self.rule](patterns) * x, axis=1)

    def retrieve(
        self, patterns: Array, x: Array, keys: Array, num_steps: int, hold_fn: Hold
    ) -> Array:
        """Lets all units follow `num_steps` times; one that hears 0 stays as it is.

        Args:
            patterns: Of -1 and 1, float [P, N].
            x: States, float [B, N].
            keys: Of the orders in which units follow, [B].
            num_steps: Times.
            hold_fn: Applied to the states after each update.
        """
        weights, rows = RULES[self.rule](patterns), jnp.arange(len(x))

        def follow(x: Array, heard: Array) -> Array:
            return jnp.where(heard == 0, x, jnp.sign(heard))

        def one(x: Array, unit: Array):
            heard = jnp.sum(weights[unit] * x, axis=1)
            return hold_fn(x.at[rows, unit].set(follow(x[rows, unit], heard))), None

        def sweep(x: Array, index: Array):
            if not self.asynchronous:
                return hold_fn(follow(x, x @ weights)), None
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
            size = x.shape[1]
            order = jax.vmap(lambda key: jax.random.permutation(key, size))(own)
            return jax.lax.scan(one, x, order.T)[0], None

        return jax.lax.scan(sweep, x, jnp.arange(num_steps))[0]


@dataclass(frozen=True)
class Machine:
    """A memory of images.

    Attributes:
        memory: What recalls.
        shape: (H, W, C) of the images.
        num_steps: Updates of all pixels.
    """

    memory: Modern | Classical
    shape: tuple[int, ...]
    num_steps: int

    def init(self, key: Array, batch: Batch) -> tuple[Params, ModelState]:
        """No weights; the batch as patterns."""
        return {}, {"patterns": self.states(floats(batch))}

    def states(self, images: Array) -> Array:
        """[B, N] of images in [-1, 1]."""
        return self.memory.state(images.reshape(len(images), -1))

    def random_states(self, keys: Array) -> Array:
        """[B, N] of pixels uniform in [-1, 1]."""

        def draw(key: Array) -> Array:
            return jax.random.uniform(key, self.shape, minval=-1.0)

        return self.states(jax.vmap(draw)(keys))

    def recall(
        self,
        model_state: ModelState,
        start: Array,
        keys: Array,
        hold_fn: Hold = lambda x: x,
    ) -> Array:
        """Images that states [B, N] lead to."""
        patterns = model_state["patterns"]
        x = self.memory.retrieve(patterns, start, keys, self.num_steps, hold_fn)
        return x.reshape(-1, *self.shape)

    def sample(
        self, params: Params, model_state: ModelState, keys: Array, cond: Cond
    ) -> Array:
        """What random states recall."""
        start_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        return self.recall(model_state, self.random_states(start_keys), keys)

    def energy(self, params: Params, model_state: ModelState, batch: Batch) -> Array:
        """The memory's, [B]."""
        return self.memory.energy(model_state["patterns"], self.states(floats(batch)))

    def complete(
        self,
        params: Params,
        model_state: ModelState,
        keys: Array,
        images: Array,
        known: Array,
        cond: Cond,
    ) -> Array:
        """What known pixels, held, recall beside others that are random at first."""
        start_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        known = jnp.broadcast_to(known[..., None], images.shape)
        given, fixed = self.states(images), known.reshape(len(images), -1)

        def hold(x: Array) -> Array:
            return jnp.where(fixed, given, x)

        start = hold(self.random_states(start_keys))
        return jnp.where(known, images, self.recall(model_state, start, keys, hold))

    def denoise(
        self,
        params: Params,
        model_state: ModelState,
        keys: Array,
        images: Array,
        cond: Cond,
    ) -> Array:
        """What the images recall."""
        return self.recall(model_state, self.states(images), keys)
