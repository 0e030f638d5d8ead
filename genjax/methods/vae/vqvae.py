"""Vector-quantised autoencoder: images as a few integers.

van den Oord et al., Neural Discrete Representation Learning, arXiv:1711.00937.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax import images
from genjax.config import ConfigError, call, check_count, choose, compute_dtype
from genjax.losses import quantization
from genjax.losses.reconstruction import discretized_logistic_nll, squared_error
from genjax.methods._inputs import image_shape
from genjax.networks.vqvae import Decoder, Encoder
from genjax.types import Batch, Method, ModelState, Params, Player


def make(config: ConfigDict) -> Method:
    """One player, "vqvae"; config.model holds the arguments of `make_model`.

    Latents are indices, int32 [B, h, w], which have no prior here: the bound of the
    likelihood takes all for equally probable.
    """
    where = "config.model"
    model = call(make_model, config.model, config, where, where=where)
    own = ("encoder", "decoder") + ("codebook",) * model.by_gradient
    player = Player("vqvae", own, model.loss)

    def log_likelihood(
        params: Params, model_state: ModelState, key: Array, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """log P(x | codes) + log P(codes), nats [B], and minus these two."""
        codes = model.encode(params, model_state, key, batch)
        return model.bound(
            params,
            model_state,
            batch,
            codes,
            jnp.full(len(codes), -codes[0].size * math.log(model.num_codes)),
        )

    return Method(
        init=model.init,
        players=(player,),
        log_likelihood=log_likelihood,
        bound=True,
        encode=model.encode,
        decode=model.decode,
    )


def make_model(
    config: ConfigDict,
    where: str,
    *,
    network: Mapping[str, Any],
    num_codes: int = 512,
    latent_features: int = 64,
    codebook: str = "ema",
    commitment: float = 0.25,
    decay: float = 0.99,
    restart: float = 0.03,
) -> "Model":
    """VQ-VAE on images.

    The reconstruction's loss is the squared error of the pixels over the variance of
    all of them, averaged where a Gaussian's likelihood takes half the sum, as the
    codebook's losses are. So neither range nor contrast of the data moves the balance
    that `commitment` strikes. The variance is the first batch's, kept in the model
    state, as is the running average of the squared error: the bound of the likelihood
    needs to know how far pixels lie from what the decoder draws.

    Args:
        config: Resolved.
        where: The place of the other arguments in the config, for messages.
        network: features, num_levels and num_res_blocks of `networks.vqvae.Encoder`
            and `Decoder`.
        num_codes: K.
        latent_features: D, the width of a code.
        codebook: "ema" moves codes as averages (App. A.1), "gradient" by Eq. 3.
        commitment: Weight beta of the commitment loss.
        decay: Of the averages, the paper's gamma.
        restart: Codes chosen less often than this share of the mean are replaced by
            encoder outputs; 0 replaces none; "ema" only.
    """
    choose({"ema": None, "gradient": None}, codebook, f"{where}.codebook")
    shape = image_shape(config)
    fields = {**network, "dtype": jnp.dtype(compute_dtype(config))}
    network_at = f"{where}.network"
    model = Model(
        call(Encoder, fields, latent_features, where=network_at),
        call(Decoder, fields, shape[-1], where=network_at),
        num_codes=num_codes,
        by_gradient=codebook == "gradient",
        commitment=commitment,
        decay=decay,
        restart=restart,
    )
    check_count(f"{network_at}.features", model.encoder.features)
    check_count(f"{where}.num_codes", num_codes)
    check_count(f"{where}.latent_features", latent_features)
    check_numbers(
        where,
        **{"network.num_res_blocks": (model.encoder.num_res_blocks, 0, math.inf)},
        commitment=(commitment, 0, math.inf),
        decay=(decay, 0, 1),
        restart=(restart, 0, 1),
    )
    check_sides(shape, model.encoder.num_levels, network_at)
    return model


@dataclass(frozen=True)
class Model:
    """The networks, the codebook and their loss; fields as arguments of `make_model`.

    Attributes:
        encoder: Images to vectors [B, h, w, D].
        decoder: Codes [B, h, w, D] to images.
        by_gradient: The codebook is a network, and not an entry of the model state.
    """

    encoder: Encoder
    decoder: Decoder
    num_codes: int
    by_gradient: bool
    commitment: float
    decay: float
    restart: float

    def init(self, key: Array, batch: Batch) -> tuple[Params, ModelState]:
        """Fresh networks, and codes that are encoder outputs of the batch."""
        encoder_key, decoder_key, codes_key = jax.random.split(key, 3)
        x = images.to_float(batch["image"])
        z, encoder = self.encoder.init_with_output(encoder_key, x)
        params = {
            "encoder": encoder["params"],
            "decoder": self.decoder.init(decoder_key, z)["params"],
        }
        variance = jnp.maximum(x.var(), 1e-4)
        model_state = {"variance": variance, "error": variance}
        codes = quantization.initial_codebook(codes_key, z, self.num_codes)
        if self.by_gradient:
            return {**params, "codebook": {"codes": codes}}, model_state
        count = quantization.even_count(z, self.num_codes)
        return params, {**model_state, "codebook": quantization.ema_start(codes, count)}

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
        """Eq. 3, whose second term the averages take the place of."""
        z, codes = self.vectors(params, batch), self.codes(params, model_state)
        z_q, indices = quantization.quantize(z, codes)
        mse = squared_error(self.draw(params, z_q), images.to_float(batch["image"]))
        commitment = quantization.commitment_loss(z, codes, indices)
        values = mse / model_state["variance"] + self.commitment * commitment
        changed = {}
        if self.by_gradient:
            values += quantization.codebook_loss(z, codes, indices)
        if train:
            new = jax.lax.stop_gradient(mse.mean())
            changed["error"] = (
                self.decay * model_state["error"] + (1 - self.decay) * new
            )
            if not self.by_gradient:
                changed["codebook"] = self.follow(
                    model_state["codebook"], z, indices, key
                )
        metrics = {
            "reconstruction": mse.mean(),
            "commitment": commitment.mean(),
            "perplexity": quantization.perplexity(indices, self.num_codes),
            "usage": quantization.usage(indices, self.num_codes),
        }
        return values.mean(), (changed, metrics)

    def follow(
        self, state: Mapping[str, Array], z: Array, indices: Array, key: Array
    ) -> dict[str, Array]:
        """The averages after this batch."""
        state = quantization.ema_update(state, z, indices, decay=self.decay)
        threshold = self.restart * quantization.even_count(z, self.num_codes)
        return quantization.restart_dead_codes(state, z, key, threshold=threshold)

    def vectors(self, params: Params, batch: Batch) -> Array:
        """What the encoder says: float32 [B, h, w, D]."""
        x = images.to_float(batch["image"])
        z = self.encoder.apply({"params": params["encoder"]}, x)
        return z.astype(jnp.float32)

    def draw(self, params: Params, z_q: Array) -> Array:
        """The decoder's images, float32 [B, H, W, C]."""
        x = self.decoder.apply({"params": params["decoder"]}, z_q)
        return x.astype(jnp.float32)

    def codes(self, params: Params, model_state: ModelState) -> Array:
        """The codebook, float32 [K, D]."""
        if self.by_gradient:
            return params["codebook"]["codes"]
        return quantization.ema_codebook(model_state["codebook"])

    def bound(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        indices: Array,
        log_prior: Array,
    ) -> tuple[Array, dict[str, Array]]:
        """A lower bound of log P(x) on 256 levels: one of the terms that it sums.

        Sec. 3.3: log P(x) >= log P(x | codes) + log P(codes). Pixels are logistic, cut
        into bins, about what the decoder draws; their variance is the error that
        training saw, under which a Gaussian's likelihood is largest.

        Args:
            params: Of all networks.
            model_state: With the codebook and the error.
            batch: With "image".
            indices: Of the codes that x is drawn from, int32 [B, h, w].
            log_prior: log P(codes), nats [B].

        Returns:
            Nats [B], and {"reconstruction", "codes"}, which sum to minus these.
        """
        mean = self.decode(params, model_state, indices, {})
        scale = jnp.sqrt(3 * model_state["error"]) / jnp.pi
        log_scale = jnp.full_like(mean, jnp.log(scale))
        nll = discretized_logistic_nll(mean, log_scale, batch["image"])
        return log_prior - nll, {"reconstruction": nll, "codes": -log_prior}

    def encode(
        self, params: Params, model_state: ModelState, key: Array, batch: Batch
    ) -> Array:
        """Indices of the nearest codes, int32 [B, h, w]."""
        z = self.vectors(params, batch)
        return quantization.nearest(z, self.codes(params, model_state))

    def decode(
        self, params: Params, model_state: ModelState, latents: Array, cond: Batch
    ) -> Array:
        """Images of indices, int32 [B, h, w]."""
        return self.draw(params, self.codes(params, model_state)[latents])


def check_numbers(where: str, **ranges: tuple[float, float, float]) -> None:
    """Raises ConfigError unless each (number, low, high) lies in its range."""
    for name, (number, low, high) in ranges.items():
        if not low <= number <= high:
            raise ConfigError(f"{where}.{name} must lie in {low}..{high}, got {number}")


def check_sides(shape: tuple[int, ...], num_levels: int, where: str) -> None:
    """Raises ConfigError unless height and width can be halved that often."""
    factor = 2**num_levels
    if num_levels < 1 or shape[0] % factor or shape[1] % factor:
        near = tuple(factor * max(1, round(side / factor)) for side in shape[:2])
        raise ConfigError(
            f"{where}.num_levels={num_levels} must be at least 1 and needs "
            f"sides that are multiples of {factor}, got {shape[:2]}; the nearest "
            f"size is {near} (config.data.image_size, for a folder)"
        )
