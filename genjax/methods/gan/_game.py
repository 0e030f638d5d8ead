"""What adversarial methods share: two networks, and the players that train them.

A method file picks the networks, the pair of losses and the penalty, and calls
`Game.method`; one whose discriminator says more than a value per example builds its own
losses from `Game.generate` and `Game.judge`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax.config import ConfigError, call, check_count, choose, compute_dtype
from genjax.methods._inputs import floats
from genjax.networks import dcgan, resnet_gan
from genjax.networks.layers import activation
from genjax.networks.mlp import MLP
from genjax.placement import beside_examples
from genjax.samplers.metropolis_hastings import independence_chain
from genjax.types import Batch, LossFn, Method, ModelState, Params, Player

PRIORS = {
    "normal": jax.random.normal,
    "uniform": lambda key, shape: jax.random.uniform(key, shape, minval=-1.0),
}


class MLPGenerator(nn.Module):
    """A multilayer perceptron from latents to points or flattened images.

    Attributes:
        shape: Of one example: (D,) for points, (H, W, C) for images, which a tanh
            keeps in [-1, 1].
        features: Widths of the hidden layers.
        activation: A key of `layers.ACTIVATIONS`.
    """

    shape: tuple[int, ...]
    features: tuple[int, ...]
    activation: str = "relu"
    dtype: Any = None

    @nn.compact
    def __call__(self, z: Array, *, train: bool) -> Array:
        """Maps latents z [B, D] to float32 [B, *shape]."""
        mlp = MLP(self.features, self.shape, self.activation, self.dtype, name="mlp")
        x = mlp(z).astype(jnp.float32)
        return jnp.tanh(x) if len(self.shape) == 3 else x


class MLPDiscriminator(nn.Module):
    """A multilayer perceptron from points or images to values.

    Attributes:
        features: Widths of the hidden layers, at least one.
        activation: A key of `layers.ACTIVATIONS`.
        num_outputs: Numbers said of each example.
        out_bias: Whether a constant is added to them. A Wasserstein critic is defined
            up to one, and no gradient would reach it.
    """

    features: tuple[int, ...]
    activation: str = "leaky_relu"
    num_outputs: int = 1
    out_bias: bool = True
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Maps x [B, ...] to float32 [B], or [B, num_outputs] if that is not 1."""
        if not self.features:
            raise ValueError("features must name the width of a hidden layer, got ()")
        *hidden, last = self.features
        mlp = MLP(hidden, (last,), self.activation, self.dtype, name="mlp")
        h = activation(self.activation)(mlp(x))
        out = nn.Dense(
            self.num_outputs, use_bias=self.out_bias, dtype=self.dtype, name="out"
        )
        values = out(h).astype(jnp.float32)
        return values[:, 0] if self.num_outputs == 1 else values


GENERATORS = {
    "mlp": MLPGenerator,
    "dcgan": dcgan.Generator,
    "resnet": resnet_gan.Generator,
}
DISCRIMINATORS = {
    "mlp": MLPDiscriminator,
    "dcgan": dcgan.Discriminator,
    "resnet": resnet_gan.Discriminator,
}


@dataclass(frozen=True)
class Game:
    """A generator against a discriminator.

    Batch norm, where a network has it, uses the statistics of the batch in training.
    Real and generated examples pass the discriminator as separate batches, as DCGAN's
    authors do: in a joint one each would see the other's mean. Running averages belong
    to the network's owner: a player's step changes those of its own network alone.

    Attributes:
        generator: Linen module, (z [B, D], *cond, train=) -> x [B, *shape].
        discriminator: Linen module, (x [B, *shape], *cond, train=) -> [B], or a tuple
            if the method builds its own losses.
        shape: Of one example.
        latent_features: D.
        prior: Of the latents: a key of `PRIORS`.
        opponent: The name of the discriminator's network and player, "discriminator" or
            "critic".
        cond: Batch entries that both modules take after their first argument.
        instance_noise: Standard deviation of the noise on all that the discriminator
            sees in training (Sonderby et al., arXiv:1610.04490, Sec. 4).
    """

    generator: nn.Module
    discriminator: nn.Module
    shape: tuple[int, ...]
    latent_features: int
    prior: str = "normal"
    opponent: str = "discriminator"
    cond: tuple[str, ...] = ()
    instance_noise: float = 0.0

    def init(self, key: Array, batch: Batch) -> tuple[Params, ModelState]:
        """Fresh weights of both networks, and their batch statistics if any."""
        g_key, d_key = jax.random.split(key)
        batch = jax.tree.map(lambda x: x[:2], batch)
        z, cond = jnp.zeros((2, self.latent_features)), self.cond_of(batch)
        g = self.generator.init(g_key, z, *cond, train=False)
        d = self.discriminator.init(d_key, floats(batch), *cond, train=False)
        both = {"generator": g, self.opponent: d}
        params = {name: v["params"] for name, v in both.items()}
        rest = {name: {k: v[k] for k in v if k != "params"} for name, v in both.items()}
        return params, {name: state for name, state in rest.items() if state}

    def checked(self) -> "Game":
        """The game itself, once its networks have been tried on shapes alone.

        Raises:
            ConfigError: If they do not fit the data or each other.
        """
        entry, dtype = ("image", jnp.uint8) if len(self.shape) == 3 else ("point", None)
        x = jax.ShapeDtypeStruct((2, *self.shape), dtype or jnp.float32)
        others = {k: jax.ShapeDtypeStruct((2,), jnp.int32) for k in self.cond}

        def play(key: Array, batch: Batch) -> Array:
            params, state = self.init(key, batch)
            z, cond = self.latents(key, 2), self.cond_of(batch)
            return self.generate(params, state, z, *cond, train=True)[0]

        try:
            made = jax.eval_shape(play, jax.random.key(0), {entry: x, **others})
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"config.model: the networks do not fit data of shape {self.shape}: "
                f"{error}"
            ) from None
        if made.shape != x.shape:
            raise ConfigError(
                f"config.model.generator must make examples of shape {self.shape}, got "
                f"{made.shape[1:]}"
            )
        return self

    def cond_of(self, batch: Mapping[str, Array]) -> tuple[Array, ...]:
        """The entries of the batch that the networks are conditioned on."""
        return tuple(batch[name] for name in self.cond)

    def latents(self, key: Array, num: int) -> Array:
        """Draws z for a training batch: float32 [num, D]."""
        z = PRIORS[self.prior](key, (num, self.latent_features))
        return beside_examples(z)

    def generate(
        self,
        params: Params,
        model_state: ModelState,
        z: Array,
        *cond: Array,
        train: bool,
    ) -> tuple[Array, ModelState]:
        """Generated examples [B, *shape], and the generator's entry of model_state."""
        return self._apply(
            "generator", self.generator, params, model_state, z, *cond, train=train
        )

    def judge(
        self,
        params: Params,
        model_state: ModelState,
        x: Array,
        *cond: Array,
        train: bool,
    ) -> tuple[Array, ModelState]:
        """What the discriminator says of x, and its entry of model_state."""
        return self._apply(
            self.opponent,
            self.discriminator,
            params,
            model_state,
            x,
            *cond,
            train=train,
        )

    def seen(self, key: Array, x: Array, *, train: bool) -> Array:
        """Examples [B, *shape] as the discriminator sees them."""
        if not (train and self.instance_noise):
            return x
        return x + self.instance_noise * jax.random.normal(key, x.shape)

    def _apply(
        self,
        name: str,
        module: nn.Module,
        params: Params,
        model_state: ModelState,
        *inputs: Array,
        train: bool,
    ) -> tuple[Any, ModelState]:
        state = model_state.get(name, {})
        variables = {"params": params[name], **state}
        if not (train and state):
            return module.apply(variables, *inputs, train=train), {}
        output, changed = module.apply(
            variables, *inputs, train=True, mutable=list(state)
        )
        return output, {name: changed}

    def discriminator_loss(
        self, loss_fn: Callable, penalty_fn: Callable | None = None
    ) -> LossFn:
        """The discriminator's loss in the contract's form.

        Args:
            loss_fn: (values of real [B], of generated [B]) -> [B].
            penalty_fn: (values_fn, real, fake, key) -> [B], weighted; added to it.
        """

        def loss(params, model_state, batch, key, *, step, train):
            z_key, real_key, fake_key, penalty_key = jax.random.split(key, 4)
            real, cond = floats(batch), self.cond_of(batch)
            z = self.latents(z_key, len(real))
            fake, _ = self.generate(params, model_state, z, *cond, train=train)
            real = self.seen(real_key, real, train=train)
            fake = self.seen(fake_key, fake, train=train)
            on_real, changed = self.judge(params, model_state, real, *cond, train=train)
            model_state = {**model_state, **changed}
            on_fake, changed = self.judge(params, model_state, fake, *cond, train=train)
            total = loss_fn(on_real, on_fake)
            metrics = {"real": on_real.mean(), "fake": on_fake.mean()}
            if penalty_fn is not None:

                def values_fn(x):
                    return self.judge(params, model_state, x, *cond, train=train)[0]

                penalty = penalty_fn(values_fn, real, fake, penalty_key)
                total, metrics["penalty"] = total + penalty, penalty.mean()
            return total.mean(), (changed, metrics)

        return loss

    def generator_loss(self, loss_fn: Callable) -> LossFn:
        """The generator's loss in the contract's form; loss_fn: values [B] -> [B]."""

        def loss(params, model_state, batch, key, *, step, train):
            z_key, fake_key = jax.random.split(key)
            cond = self.cond_of(batch)
            z = self.latents(z_key, len(floats(batch)))
            fake, changed = self.generate(params, model_state, z, *cond, train=train)
            fake = self.seen(fake_key, fake, train=train)
            on_fake, _ = self.judge(params, model_state, fake, *cond, train=train)
            return loss_fn(on_fake).mean(), (changed, {"fake": on_fake.mean()})

        return loss

    def method(
        self,
        config: ConfigDict,
        discriminator_loss: LossFn,
        generator_loss: LossFn,
        *,
        discriminator_steps: int = 1,
        says_log_ratio: bool = False,
    ) -> Method:
        """The method: `discriminator_steps` of one player, then one of the other.

        Args:
            config: Resolved; `config.sampler` holds the fields of `Chain`.
            discriminator_loss: Of the discriminator.
            generator_loss: Of the generator.
            discriminator_steps: Updates of the one for one of the other.
            says_log_ratio: Whether the best discriminator says log(p / q) of the data
                and the samples, as under the minimax loss.
        """
        check_count(f"config.model.{self.opponent}_steps", discriminator_steps)
        chain = call(make_chain, config.sampler, says_log_ratio, where="config.sampler")
        players = (
            Player(
                self.opponent, (self.opponent,), discriminator_loss, discriminator_steps
            ),
            Player("generator", ("generator",), generator_loss),
        )

        def propose(keys):
            return jax.vmap(lambda key: self.latents(key, 1)[0])(keys)

        def prior(params, model_state, keys, cond):
            if chain.num_proposals == 1:
                return propose(keys)
            weights, inputs = (params, model_state), self.cond_of(cond)

            def log_ratio(z):
                x, _ = self.generate(*weights, z, *inputs, train=False)
                logits, _ = self.judge(*weights, x, *inputs, train=False)
                return chain.logit_scale * logits

            return independence_chain(
                propose, log_ratio, keys, num_proposals=chain.num_proposals
            )

        def decode(params, model_state, latents, cond):
            inputs = self.cond_of(cond)
            return self.generate(params, model_state, latents, *inputs, train=False)[0]

        def sample(params, model_state, keys, cond):
            latents = prior(params, model_state, keys, cond)
            return decode(params, model_state, latents, cond)

        return Method(
            init=self.init,
            players=players,
            sample=sample,
            decode=decode,
            prior=prior,
            cond=self.cond,
        )


@dataclass(frozen=True)
class Chain:
    """config.sampler: latents chosen by the discriminator, as in arXiv:1811.11357.

    Attributes:
        num_proposals: Latents that are drawn for a sample; 1 takes the first.
        logit_scale: What the discriminator's logits are multiplied by. Where a logistic
            regression that tells real examples from samples by them has this slope,
            they are calibrated (Sec. 3.2).
    """

    num_proposals: int = 1
    logit_scale: float = 1.0


def make_chain(
    says_log_ratio: bool, *, num_proposals: int = 1, logit_scale: float = 1.0
) -> Chain:
    """Checks config.sampler; see `Chain`."""
    check_count("config.sampler.num_proposals", num_proposals)
    if num_proposals > 1 and not says_log_ratio:
        raise ConfigError(
            "config.sampler.num_proposals must be 1: this method's discriminator does "
            f"not say how likely examples are to be real, got {num_proposals}"
        )
    if not logit_scale > 0:
        raise ConfigError(
            f"config.sampler.logit_scale must be above 0, got {logit_scale!r}"
        )
    return Chain(num_proposals, logit_scale)


def make_game(
    config: ConfigDict,
    *,
    generator: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    latent_features: int,
    prior: str = "normal",
    opponent: str = "discriminator",
) -> Game:
    """Builds and checks the two networks that a config describes.

    Args:
        config: Resolved; its data and dtype are read.
        generator: name, a key of `GENERATORS`, and the module's own fields.
        discriminator: name, a key of `DISCRIMINATORS`, and the module's own fields.
        latent_features: Width D of the latents.
        prior: Of the latents: a key of `PRIORS`.
        opponent: See `Game`; also the name of the field in config.model that
            `discriminator` comes from. Only a "discriminator" has an output bias.

    Raises:
        ConfigError: For unknown names, or data that the networks do not fit.
    """
    shape = tuple(config.data.shape)
    choose(PRIORS, prior, "config.model.prior")
    check_count("config.model.latent_features", latent_features)
    g = make_network(GENERATORS, config, generator, "generator", shape=shape)
    out_bias = opponent == "discriminator"
    fixed = dict(out_bias=out_bias, num_outputs=1)
    d = make_network(DISCRIMINATORS, config, discriminator, opponent, **fixed)
    return Game(g, d, shape, latent_features, prior, opponent).checked()


def make_network(
    networks: Mapping[str, type[nn.Module]],
    config: ConfigDict,
    fields: Mapping[str, Any],
    which: str,
    **fixed: Any,
) -> nn.Module:
    """The network of config.model.<which>, with what other fields decide.

    Args:
        networks: Modules to choose from by fields["name"].
        config: Resolved; its data and dtype are read.
        fields: name and the module's own fields.
        which: Where in config.model they come from.
        **fixed: Fields that other parts of the config decide.

    Raises:
        ConfigError: For unknown or missing names, or fields of `fixed`.
    """
    where = f"config.model.{which}"
    fields, fixed = dict(fields), {**fixed, "dtype": jnp.dtype(compute_dtype(config))}
    module = choose(networks, fields.pop("name", None), f"{where}.name")
    if taken := sorted(set(fields) & set(fixed)):
        raise ConfigError(
            f"{where} must leave {taken} out: they follow from the data, the method "
            "and config.dtype"
        )
    return call(module, {**fields, **fixed}, where=where)
