"""Improved DDPM: a learned variance, trained on the hybrid loss or the bound itself.

Nichol & Dhariwal, Improved Denoising Diffusion Probabilistic Models, arXiv:2102.09672.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax import images
from genjax.config import ConfigError, call
from genjax.losses import diffusion as losses
from genjax.methods.diffusion._gaussian import as_method, make_denoiser
from genjax.types import Batch, Method, ModelState, Params, Player


def make(config: ConfigDict) -> Method:
    """One player, "denoiser"; config.model holds the arguments of `improved_ddpm`."""
    return call(improved_ddpm, config.model, config, where="config.model")


def improved_ddpm(
    config: ConfigDict,
    *,
    schedule: Mapping[str, Any],
    network: Mapping[str, Any],
    objective: str = "hybrid",
    vlb_weight: float = 0.001,
    conditional: bool = False,
    label_dropout: float = 0.0,
) -> Method:
    """DDPM whose network interpolates between the two variances of the first paper.

    Args:
        config: Resolved.
        schedule: Arguments of `schedules.make`; the paper's is "cosine".
        network: Arguments of `networks.unet.UNet`.
        objective: "hybrid" (Eq. 16), or "vlb", the bound alone with importance-sampled
            steps (Eq. 18), whose memory is the model state "importance".
        vlb_weight: The paper's lambda in the hybrid loss.
        conditional: Whether the network takes the label.
        label_dropout: Share of training labels replaced by "no class", so that the
            network can guide itself.
    """
    if objective not in ("hybrid", "vlb"):
        raise ConfigError(
            f"config.model.objective must be 'hybrid' or 'vlb', got {objective!r}"
        )
    denoiser = make_denoiser(
        config,
        schedule=schedule,
        network=network,
        variance="learned",
        conditional=conditional,
        label_dropout=label_dropout,
    )
    a = denoiser.alphas_cumprod

    def hybrid(eps_fn, x0, key, model_state):
        values = losses.hybrid_loss(
            eps_fn, x0, key, alphas_cumprod=a, vlb_weight=vlb_weight
        )
        return values, {}

    def vlb(eps_fn, x0, key, model_state):
        t_key, eps_key = jax.random.split(key)
        state = losses.ImportanceState(**model_state["importance"])
        t, weights = losses.importance_sample(state, t_key, len(x0))
        terms = losses.vlb_term(eps_fn, x0, t, eps_key, alphas_cumprod=a)
        terms = terms * (len(a) / x0[0].size)  # Nats per dimension of the whole bound.
        state = losses.importance_update(state, t, terms)
        return weights * terms, {"importance": state._asdict()}

    values_fn = {"hybrid": hybrid, "vlb": vlb}[objective]

    def init(key: Array, batch: Batch) -> tuple[Params, ModelState]:
        params, model_state = denoiser.init(key, batch)
        if objective == "vlb":
            memory = losses.importance_init(len(a))
            model_state = {**model_state, "importance": memory._asdict()}
        return params, model_state

    def loss(
        params: Params,
        model_state: ModelState,
        batch: Batch,
        key: Array,
        *,
        step: Array,
        train: bool,
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        loss_key, dropout_key, label_key = jax.random.split(key, 3)
        label = denoiser.training_label(batch, label_key, train=train)
        eps_fn = denoiser.eps_fn(params, label, train=train, dropout_key=dropout_key)
        x0 = images.to_float(batch["image"])
        values, changed = values_fn(eps_fn, x0, loss_key, model_state)
        return jnp.mean(values), (changed, {})

    player = Player("denoiser", ("denoiser",), loss)
    return as_method(denoiser, config, init=init, players=(player,))
