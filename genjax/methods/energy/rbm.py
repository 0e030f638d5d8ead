"""Restricted Boltzmann machines of binary images.

Contrastive divergence is Hinton, Neural Computation 14(8), 2002; persistent chains are
Tieleman, ICML 2008; the partition function by annealed importance sampling is
Salakhutdinov & Murray, ICML 2008.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from genjax.config import call, check_count, choose
from genjax.losses import energy as losses
from genjax.losses.reconstruction import bernoulli_nll
from genjax.methods import _inputs
from genjax.networks.rbm import RBM
from genjax.samplers import langevin
from genjax.types import Batch, Method, ModelState, Params, Player

Cond = Mapping[str, Array]


def make(config: ConfigDict) -> Method:
    """One player, "rbm"; config.model holds the arguments of `rbm`."""
    return call(rbm, config.model, config, where="config.model")


def rbm(
    config: ConfigDict,
    *,
    num_hidden: int,
    num_steps: int = 1,
    persistent: bool = True,
    num_chains: int = 100,
    binarize: str = "dynamic",
) -> Method:
    """A Bernoulli RBM, trained by contrastive divergence.

    Args:
        config: Resolved; the data must be images.
        num_hidden: Hidden units, H.
        num_steps: k, Gibbs steps from where a chain stands to its samples.
        persistent: Whether chains go on from one train step to the next (PCD-k); else
            each starts at an example of the batch (CD-k).
        num_chains: How many of them go on.
        binarize: "dynamic" draws each pixel with probability image / 255, anew at each
            step; "threshold" is image > 127.
    """
    how = dict.fromkeys(("dynamic", "threshold"))
    choose(how, binarize, "config.model.binarize")
    shape = _inputs.image_shape(config)
    counts = dict(num_hidden=num_hidden, num_steps=num_steps, num_chains=num_chains)
    for name, value in counts.items():
        check_count(f"config.model.{name}", value)
    steps = call(sampling_steps, config.sampler, where="config.sampler")
    module = RBM(math.prod(shape), num_hidden)
    chains = num_chains if persistent else 0
    model = Machine(module, shape, binarize, num_steps, chains, steps)
    return Method(
        init=model.init,
        players=(Player("rbm", ("rbm",), model.loss),),
        sample=model.sample,
        log_likelihood=model.log_likelihood,
        encode=model.encode,
        decode=model.decode,
        prior=model.prior,
        energy=model.energy,
        complete=model.complete,
        denoise=model.denoise,
    )


def sampling_steps(*, num_steps: int = 1000) -> int:
    """config.sampler: Gibbs steps from independent pixels to samples."""
    check_count("config.sampler.num_steps", num_steps)
    return num_steps


@dataclass(frozen=True)
class Machine:
    """An RBM with its data, its chains and what can be asked of it.

    Attributes:
        module: The machine.
        shape: (H, W, C) of the images.
        binarize: How they become binary.
        num_steps: k of CD-k or PCD-k.
        num_chains: Persistent chains; 0 for CD.
        sampling_steps: Gibbs steps of `sample`, along which the temperature falls.
    """

    module: RBM
    shape: tuple[int, ...]
    binarize: str
    num_steps: int
    num_chains: int
    sampling_steps: int

    def init(self, key: Array, batch: Batch) -> tuple[Params, ModelState]:
        """Visible biases that say the batch's mean; chains of that mean."""
        key, chains_key = jax.random.split(key)
        v = self.visible(batch, None)
        params = {**self.module.init(key, v)["params"]}
        # From 1% to 99%, lest a pixel that never changes here can never change.
        mean = jnp.clip(v.mean(axis=0), 0.01, 0.99)
        params["visible"] = logit(mean)
        state = {"mean": mean}
        if self.num_chains:
            shape = (self.num_chains, len(mean))
            chains = jax.random.bernoulli(chains_key, mean, shape)
            state["chains"] = chains.astype(jnp.float32)
        return {"rbm": params}, state

    def loss(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        key: Array,
        *,
        step: Array,
        train: bool,
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        """Free energies of data minus those of the chains' ends."""
        data_key, chain_key = jax.random.split(key)
        v = self.visible(batch, data_key)
        start = model_state["chains"] if self.num_chains else v
        keys = jax.random.split(chain_key, len(start))
        fixed = jax.lax.stop_gradient(params)
        ends = self.gibbs(fixed, start, keys, jnp.ones(self.num_steps))
        values = losses.contrastive_divergence(
            self.apply(params, v), self.apply(params, ends)
        )
        logits = self.up_and_down(params, v)
        metrics = {"reconstruction": bernoulli_nll(logits, v).mean()}
        changed = {}
        if train:
            changed["mean"] = 0.99 * model_state["mean"] + 0.01 * jnp.clip(
                v.mean(axis=0), 0.01, 0.99
            )
            changed |= {"chains": ends} if self.num_chains else {}
        return values.mean(), (changed, metrics)

    def apply(
        self, params: Params, *args: Array | float, method: str | None = None
    ) -> Array:
        """Free energies [B], or what another method of the machine gives."""
        return self.module.apply({"params": params["rbm"]}, *args, method=method)

    def visible(self, batch: Batch, key: Array | None) -> Array:
        """Binary float32 [B, D]; without a key their mean."""
        x = _inputs.binarized(batch, self.binarize, key)
        return x.reshape(len(x), -1)

    def images(self, logits: Array) -> Array:
        """The visible units' means, as images in [-1, 1]."""
        return 2 * jax.nn.sigmoid(logits).reshape(-1, *self.shape) - 1

    def up_and_down(self, params: Params, v: Array) -> Array:
        """Logits of the visible units given the mean of the hidden ones given v."""
        h = jax.nn.sigmoid(self.apply(params, v, method="hidden_logits"))
        return self.apply(params, h, method="visible_logits")

    def transition(
        self,
        params: Params,
        v: Array,
        keys: Array,
        beta: Array | float,
        base: Array | float = 0.0,
    ) -> Array:
        """One step of Gibbs sampling: all hidden units, then all visible ones."""
        h_keys, v_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        h = draw(h_keys, self.apply(params, v, beta, method="hidden_logits"))
        return draw(v_keys, self.apply(params, h, base, beta, method="visible_logits"))

    def gibbs(
        self,
        params: Params,
        v: Array,
        keys: Array,
        betas: Array,
        base: Array | float = 0.0,
        known: Array | bool = False,
    ) -> Array:
        """A step at each of the betas; units that are known stay as they are."""

        def step(v: Array, inputs: tuple[Array, Array]):
            index, beta = inputs
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
            new = self.transition(params, v, own, beta, base)
            return jnp.where(known, v, new), None

        return jax.lax.scan(step, v, (jnp.arange(len(betas)), betas))[0]

    def annealed(
        self,
        params: Params,
        model_state: ModelState,
        keys: Array,
        given: Array | None = None,
        known: Array | bool = False,
    ) -> Array:
        """Binary [N, D], by Gibbs steps whose beta rises to 1 in the first half.

        Chains that start hot find the modes in better proportion than at beta = 1.
        """
        start_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        base = logit(model_state["mean"])
        v = draw(start_keys, jnp.broadcast_to(base, (len(keys), len(base))))
        v = v if given is None else jnp.where(known, given, v)
        betas = np.minimum(1, np.linspace(0, 2, self.sampling_steps + 1)[1:])
        return self.gibbs(params, v, keys, jnp.asarray(betas), base, known)

    def prior(
        self, params: Params, model_state: ModelState, keys: Array, cond: Cond
    ) -> Array:
        """Binary hidden units, [N, H]."""
        h_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        v = self.annealed(params, model_state, keys)
        return draw(h_keys, self.apply(params, v, method="hidden_logits"))

    def decode(
        self, params: Params, model_state: ModelState, latents: Array, cond: Cond
    ) -> Array:
        """Visible means given hidden units or their means, [N, H]."""
        return self.images(self.apply(params, latents, method="visible_logits"))

    def sample(
        self, params: Params, model_state: ModelState, keys: Array, cond: Cond
    ) -> Array:
        """Visible means at the chains' ends, without the noise of the pixels."""
        latents = self.prior(params, model_state, keys, cond)
        return self.decode(params, model_state, latents, cond)

    def encode(
        self, params: Params, model_state: ModelState, key: Array, batch: Batch
    ) -> Array:
        """Means of the hidden units, [B, H]."""
        v = self.visible(batch, None)
        return jax.nn.sigmoid(self.apply(params, v, method="hidden_logits"))

    def energy(self, params: Params, model_state: ModelState, batch: Batch) -> Array:
        """Free energies [B], of the expected pixels where binarising is random."""
        return self.apply(params, self.visible(batch, None))

    def complete(
        self,
        params: Params,
        model_state: ModelState,
        keys: Array,
        images: Array,
        known: Array,
        cond: Cond,
    ) -> Array:
        """Binary units of chains whose known ones are clamped at image > 0."""
        known = jnp.broadcast_to(known[..., None], images.shape)
        v = self.annealed(
            params,
            model_state,
            keys,
            binary(images),
            known.reshape(len(images), -1),
        )
        return jnp.where(known, images, 2 * v.reshape(images.shape) - 1)

    def denoise(
        self,
        params: Params,
        model_state: ModelState,
        keys: Array,
        images: Array,
        cond: Cond,
    ) -> Array:
        """Visible means given those of the hidden units given image > 0."""
        v = binary(images)
        return self.images(self.up_and_down(params, v))

    def log_likelihood(
        self,
        params: Params,
        model_state: ModelState,
        key: Array,
        batch: Batch,
        *,
        num_chains: int = 100,
        num_temperatures: int = 1000,
        enumerate_up_to: int = 12,
        chains_seed: int = 0,
    ) -> tuple[Array, dict[str, Array]]:
        """log p(v) in nats [B] of the binary images: minus free energy minus log Z.

        Z is exact where the smaller layer has few units. Else it is estimated, by the
        same chains for each batch; the estimate of log Z is on average too low, so that
        the likelihood looks too high, the less so the more chains and temperatures
        there are.

        Args:
            params: Of the machine.
            model_state: The pixels' mean, from which the chains start, is read.
            key: Of the binarisation.
            batch: With images.
            num_chains: Of annealed importance sampling.
            num_temperatures: Of the same, evenly spaced.
            enumerate_up_to: Units of the smaller layer for which all states are summed.
            chains_seed: Of the chains; another one shows how far log Z can be trusted.
        """
        counts = dict(num_chains=num_chains, num_temperatures=num_temperatures)
        for name, value in counts.items():
            check_count(f"config.likelihood.{name}", value)
        free_energy = self.apply(params, self.visible(batch, key))
        if min(self.module.num_visible, self.module.num_hidden) <= enumerate_up_to:
            log_z = enumerated_log_partition(params["rbm"])
        else:
            keys = jax.random.split(jax.random.key(chains_seed), num_chains)
            log_weights = self.log_weights(params, model_state, keys, num_temperatures)
            log_z = jax.nn.logsumexp(log_weights) - math.log(num_chains)
        log_z = jnp.broadcast_to(log_z, free_energy.shape)
        parts = {"free_energy": free_energy, "log_partition": log_z}
        return -free_energy - log_z, parts

    def log_weights(
        self, params: Params, model_state: ModelState, keys: Array, num: int
    ) -> Array:
        """Logarithms of unbiased estimates of Z, one for each key, by AIS."""
        base = logit(model_state["mean"])
        start_keys, keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        logits = jnp.broadcast_to(base, (len(keys), len(base)))
        _, log_weights = langevin.annealed_importance(
            lambda v, beta: -self.apply(params, v, base, beta),
            lambda v, keys, beta: self.transition(params, v, keys, beta, base),
            draw(start_keys, logits),
            keys,
            betas=np.linspace(0, 1, num + 1),
        )
        log_z_of_base = jnp.logaddexp(0, base).sum()
        return log_weights + log_z_of_base + self.module.num_hidden * math.log(2)


def enumerated_log_partition(rbm: Mapping[str, Array]) -> Array:
    """log Z by the sum over all states of the smaller layer, a scalar."""
    weights, bias, other = rbm["weights"], rbm["hidden"], rbm["visible"]
    if weights.shape[0] < weights.shape[1]:
        weights, bias, other = weights.T, other, bias
    states = np.array(list(itertools.product([0.0, 1.0], repeat=len(bias))), np.float32)
    gains = jnp.logaddexp(0, other + states @ weights.T).sum(axis=1)
    return jax.nn.logsumexp(states @ bias + gains)


def draw(keys: Array, logits: Array) -> Array:
    """Bernoulli units as float32 [N, D], row i from keys[i]."""
    u = jax.vmap(lambda key: jax.random.uniform(key, logits.shape[1:]))(keys)
    return (u < jax.nn.sigmoid(logits)).astype(jnp.float32)


def binary(images: Array) -> Array:
    """Float32 [N, D] in {0, 1} of images in [-1, 1]."""
    return (images > 0).reshape(len(images), -1).astype(jnp.float32)


def logit(p: Array) -> Array:
    """The logarithm of the odds."""
    return jnp.log(p) - jnp.log1p(-p)
