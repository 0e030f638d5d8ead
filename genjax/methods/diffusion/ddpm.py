"""Denoising diffusion probabilistic models.

Ho et al., arXiv:2006.11239. Class labels with dropout, for classifier-free guidance,
are Ho & Salimans, arXiv:2207.12598; DDIM sampling is Song et al., arXiv:2010.02502.
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax import Array
from ml_collections import ConfigDict

from genjax import images
from genjax.config import ConfigError, call, choose
from genjax.losses import diffusion as losses
from genjax.methods.diffusion._gaussian import as_method, make_denoiser
from genjax.types import Batch, Method, ModelState, Params, Player

WEIGHTS = {
    "none": None,  # Of the prediction's own squared error.
    "constant": losses.constant_weights,
    "snr": losses.snr_weights,
    "truncated_snr": losses.truncated_snr_weights,
    "min_snr": losses.min_snr_weights,
    "p2": losses.p2_weights,
}


def make(config: ConfigDict) -> Method:
    """One player, "denoiser"; config.model holds the arguments of `ddpm`."""
    return call(ddpm, config.model, config, where="config.model")


def ddpm(
    config: ConfigDict,
    *,
    schedule: Mapping[str, Any],
    network: Mapping[str, Any],
    prediction: str = "eps",
    weighting: str = "none",
    variance: str = "small",
    conditional: bool = False,
    label_dropout: float = 0.0,
) -> Method:
    """DDPM on images.

    Args:
        config: Resolved.
        schedule: Arguments of `schedules.make`: name, num_steps and its own.
        network: Arguments of `networks.unet.UNet`.
        prediction: What the network says: "eps", "x0" or "v".
        weighting: Of the squared error over steps; a key of `WEIGHTS`. "none" with
            "eps" is the paper's simple loss.
        variance: Of p(x_{t-1} | x_t): "small" or "large", the paper's two choices.
        conditional: Whether the network takes the label.
        label_dropout: Share of training labels replaced by "no class", so that the
            network can guide itself.
    """
    denoiser = make_denoiser(
        config,
        schedule=schedule,
        network=network,
        prediction=prediction,
        variance=variance,
        conditional=conditional,
        label_dropout=label_dropout,
    )
    weights_fn = choose(WEIGHTS, weighting, "config.model.weighting")
    if variance == "learned":
        raise ConfigError(
            "config.model.variance='learned' is method 'diffusion.improved_ddpm'"
        )
    a = denoiser.alphas_cumprod
    weights = None if weights_fn is None else weights_fn(a, prediction)

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
        values = losses.denoising_loss(
            denoiser.predict_fn(params, label, train=train, dropout_key=dropout_key),
            images.to_float(batch["image"]),
            loss_key,
            alphas_cumprod=a,
            prediction=prediction,
            weights=weights,
        )
        return values.mean(), ({}, {})

    player = Player("denoiser", ("denoiser",), loss)
    return as_method(denoiser, config, players=(player,))
