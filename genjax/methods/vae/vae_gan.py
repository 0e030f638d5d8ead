"""VAE/GAN: a variational autoencoder that compares images in a discriminator's eyes.

Larsen et al., Autoencoding beyond pixels using a learned similarity metric,
arXiv:1512.09300.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax import images
from genjax.config import ConfigError, call, check_count, compute_dtype
from genjax.losses.adversarial import (
    minimax_discriminator,
    minimax_generator,
    non_saturating_generator,
)
from genjax.losses.reconstruction import squared_error
from genjax.losses.variational import gaussian_kl
from genjax.methods._inputs import image_shape
from genjax.networks.dcgan import Generator
from genjax.networks.layers import num_halvings
from genjax.networks.vae import ConvEncoder
from genjax.networks.vae_gan import Discriminator
from genjax.types import Batch, Method, ModelState, Params, Player


class Turn(NamedTuple):
    """What Alg. 1 computes of a batch, one value per example; nats but for `mse`."""

    kl: Array  # L_prior.
    feature_nll: Array  # L_llike on Dis_l, without the Gaussian's constant.
    mse: Array  # Of pixels in [-1, 1]; nothing minimises it.
    real: Array  # Logits of data, of reconstructions and of samples.
    reconstructed: Array
    sampled: Array
    changed: ModelState  # Batch statistics of "decoder" and "discriminator".


def make(config: ConfigDict) -> Method:
    """Three players; config.model holds the arguments of `vae_gan`."""
    return call(vae_gan, config.model, config, where="config.model")


def vae_gan(
    config: ConfigDict,
    *,
    encoder: Mapping[str, Any],
    decoder: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    latent_features: int = 128,
    gamma: float = 1e-2,
    feature_variance: float = 1.0,
) -> Method:
    """VAE/GAN on images; players "encoder", "decoder", "discriminator" (Alg. 1).

    The decoder's game is the non-saturating one, where the algorithm has the minimax.
    In training, real images, reconstructions and samples pass the discriminator as one
    batch: normalised apart, an image and its reconstruction could not be compared.

    Args:
        config: Resolved.
        encoder: Arguments of `networks.vae.ConvEncoder`.
        decoder: Arguments of `networks.dcgan.Generator`.
        discriminator: Arguments of `networks.vae_gan.Discriminator`.
        latent_features: D.
        gamma: Weight of the reconstruction against the game, for the decoder. Errors
            are summed over features, so a larger map needs a smaller weight.
        feature_variance: Of the Gaussian on the discriminator's features, 1 in the
            paper. Where they are many for the size of the image, more of it keeps the
            encoder from leaving the prior for the sake of reconstruction.
    """
    shape, dtype = image_shape(config), jnp.dtype(compute_dtype(config))
    check(shape, latent_features, gamma, feature_variance)

    def network(cls: type[nn.Module], which: str, fields: Mapping, *args: Any):
        fields = {**fields, "dtype": dtype}
        return call(cls, fields, *args, where=f"config.model.{which}")

    model = Model(
        network(ConvEncoder, "encoder", encoder, (2, latent_features)),
        network(Generator, "decoder", decoder, shape),
        network(Discriminator, "discriminator", discriminator),
        latent_features,
        feature_variance,
    )
    return Method(
        init=model.init,
        players=(
            model.player("encoder", encoder_loss),
            model.player("decoder", lambda turn: decoder_loss(turn, gamma)),
            model.player("discriminator", discriminator_loss),
        ),
        sample=model.sample,
        encode=model.encode,
        decode=model.decode,
        prior=model.prior,
    )


Values = tuple[Array, dict[str, Array]]  # A loss [B], and metrics [B].


def encoder_loss(turn: Turn) -> Values:
    """L_prior + L_llike."""
    parts = {"kl": turn.kl, "feature_nll": turn.feature_nll, "mse": turn.mse}
    return turn.kl + turn.feature_nll, parts


def decoder_loss(turn: Turn, gamma: float) -> Values:
    """gamma L_llike and the game, in which reconstructions and samples play alike."""
    game = non_saturating_generator(turn.reconstructed)
    game += non_saturating_generator(turn.sampled)
    return gamma * turn.feature_nll + game, {"game": game}


def discriminator_loss(turn: Turn) -> Values:
    """-L_GAN: -log D(x) - log(1 - D(x~)) - log(1 - D(x_p))."""
    values = minimax_discriminator(turn.real, turn.reconstructed)
    values -= minimax_generator(turn.sampled)
    names = ("real", "reconstructed", "sampled")
    return values, {name: getattr(turn, name) for name in names}


@dataclass(frozen=True)
class Model:
    """The three networks, and what they say of a batch.

    Attributes:
        encoder: x -> [B, 2, D], mean and log-variance of the posterior.
        decoder: (z [B, D], train=) -> images.
        discriminator: (x, train=) -> (logits [B], features [B, h, w, C]).
        latent_features: D.
        feature_variance: See `vae_gan`.
    """

    encoder: nn.Module
    decoder: nn.Module
    discriminator: nn.Module
    latent_features: int
    feature_variance: float = 1.0

    def init(self, key: Array, batch: Batch) -> tuple[Params, ModelState]:
        """Fresh weights, and the batch statistics of the networks that have some."""
        keys = jax.random.split(key, 3)
        x, z = images.to_float(batch["image"][:2]), jnp.zeros((2, self.latent_features))
        made = {
            "encoder": self.encoder.init(keys[0], x),
            "decoder": self.decoder.init(keys[1], z, train=False),
            "discriminator": self.discriminator.init(keys[2], x, train=False),
        }
        params = {name: v["params"] for name, v in made.items()}
        stats = {k: v["batch_stats"] for k, v in made.items() if "batch_stats" in v}
        return params, stats

    def player(self, name: str, values_fn: Callable[[Turn], Values]) -> Player:
        """The owner of one network, with a loss of what `turn` computes."""

        def loss(params, model_state, batch, key, *, step, train):
            turn = self.turn(params, model_state, batch, key, train=train)
            values, parts = values_fn(turn)
            changed = {k: v for k, v in turn.changed.items() if k == name}
            return values.mean(), (changed, {k: v.mean() for k, v in parts.items()})

        return Player(name, (name,), loss)

    def turn(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        key: Array,
        *,
        train: bool,
    ) -> Turn:
        """Alg. 1 up to its updates, of which each player uses what it needs."""
        eps_key, prior_key = jax.random.split(key)
        x = images.to_float(batch["image"])
        mean, log_var = self.posterior(params, batch)
        z = mean + jnp.exp(log_var / 2) * jax.random.normal(eps_key, mean.shape)
        z = jnp.concatenate([z, jax.random.normal(prior_key, mean.shape)])
        made, of_decoder = self.apply("decoder", params, model_state, z, train=train)
        (logits, features), of_discriminator = self.apply(
            "discriminator",
            params,
            model_state,
            jnp.concatenate([x, made]),
            train=train,
        )
        of_x, of_reconstruction, _ = jnp.split(features, 3)
        distance = jnp.square(of_x - of_reconstruction).sum((1, 2, 3))
        return Turn(
            gaussian_kl(mean, log_var, 0, 0).sum(-1),
            distance / (2 * self.feature_variance),
            squared_error(made[: len(x)], x),
            *jnp.split(logits, 3),
            {**of_decoder, **of_discriminator},
        )

    def posterior(self, params: Params, batch: Batch) -> tuple[Array, Array]:
        """Mean and log-variance of q(z | x), [B, D] each."""
        x = images.to_float(batch["image"])
        both = self.encoder.apply({"params": params["encoder"]}, x)
        return both[:, 0], both[:, 1]

    def apply(
        self,
        name: str,
        params: Params,
        model_state: ModelState,
        x: Array,
        *,
        train: bool,
    ) -> tuple[Any, ModelState]:
        """A network's output, and its entry of model_state if that changed."""
        variables = {"params": params[name]}
        if name in model_state:
            variables["batch_stats"] = model_state[name]
        network = getattr(self, name)
        if not train or name not in model_state:
            return network.apply(variables, x, train=train), {}
        output, changed = network.apply(
            variables, x, train=True, mutable=["batch_stats"]
        )
        return output, {name: changed["batch_stats"]}

    def encode(
        self, params: Params, model_state: ModelState, key: Array, batch: Batch
    ) -> Array:
        """The posterior's mean [B, D]."""
        return self.posterior(params, batch)[0]

    def prior(
        self, params: Params, model_state: ModelState, keys: Array, cond: Batch
    ) -> Array:
        """Standard normal latents [N, D]."""
        return jax.vmap(lambda k: jax.random.normal(k, (self.latent_features,)))(keys)

    def decode(
        self, params: Params, model_state: ModelState, latents: Array, cond: Batch
    ) -> Array:
        """Images [N, H, W, C] of latents [N, D]."""
        return self.apply("decoder", params, model_state, latents, train=False)[0]

    def sample(
        self, params: Params, model_state: ModelState, keys: Array, cond: Batch
    ) -> Array:
        """Decoded draws of the prior."""
        latents = self.prior(params, model_state, keys, cond)
        return self.decode(params, model_state, latents, cond)


def check(
    shape: tuple[int, ...],
    latent_features: int,
    gamma: float,
    feature_variance: float,
) -> None:
    """Raises ConfigError for images or numbers that the method cannot work with."""
    try:
        num_halvings(*shape[:2])
    except ValueError as error:
        raise ConfigError(f"config.data: {error}") from None
    check_count("config.model.latent_features", latent_features)
    if gamma < 0 or feature_variance <= 0:
        raise ConfigError(
            "config.model needs gamma of at least 0 and feature_variance above 0, got "
            f"{gamma} and {feature_variance}"
        )
