"""Classifier guidance: a trained denoiser, steered by a trained classifier.

Dhariwal & Nichol, arXiv:2105.05233: Algorithm 1 with sampler.name="ddpm", Algorithm 2
with "ddim". The method has no player; config.init_from brings both networks.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax import images
from genjax.config import ConfigError, call
from genjax.methods.diffusion._gaussian import (
    as_method,
    make_classifier,
    make_denoiser,
    make_sampler,
)
from genjax.samplers import guidance
from genjax.types import Batch, Method, ModelState, Params


def make(config: ConfigDict) -> Method:
    """No players; config.model holds the arguments of `classifier_guidance`."""
    return call(classifier_guidance, config.model, config, where="config.model")


def classifier_guidance(
    config: ConfigDict,
    *,
    denoiser: Mapping[str, Any],
    classifier: Mapping[str, Any],
    label_to_denoiser: bool = False,
) -> Method:
    """Draws from p(x) p(label | x)^s, s being sampler.guidance_scale.

    Args:
        config: Resolved.
        denoiser: Arguments of `make_denoiser`, those it was trained with.
        classifier: Arguments of `NoisyClassifier`, those it was trained with.
        label_to_denoiser: Give a conditional denoiser the label as well, instead of
            "no class".
    """
    model = call(make_denoiser, denoiser, config, where="config.model.denoiser")
    if label_to_denoiser and model.num_classes is None:
        raise ConfigError(
            "config.model.label_to_denoiser=True needs denoiser.conditional=True"
        )
    if not label_to_denoiser and model.num_classes and not model.label_dropout:
        raise ConfigError(
            "config.model.label_to_denoiser=False tells the denoiser 'no class', which "
            "it knows only from training with denoiser.label_dropout above 0"
        )
    logits_module = make_classifier(config, classifier, len(model.alphas_cumprod))
    sampler = call(make_sampler, config.sampler, model, where="config.sampler")

    def init(key: Array, batch: Batch) -> tuple[Params, ModelState]:
        params, model_state = model.init(key, batch)
        x, t = images.to_float(batch["image"][:1]), jnp.zeros(1, jnp.int32)
        own = logits_module.init(jax.random.fold_in(key, 1), x, t, train=False)
        return {**params, "classifier": own["params"]}, model_state

    def sample(
        params: Params, model_state: ModelState, keys: Array, cond: Mapping[str, Array]
    ) -> Array:
        def logits_fn(x_t: Array, t: Array) -> Array:
            return logits_module.apply(
                {"params": params["classifier"]}, x_t, t, train=False
            )

        label = cond["label"] if label_to_denoiser else model.null_label(len(keys))
        grad_fn = guidance.classifier_grad(
            logits_fn, cond["label"], sampler.guidance_scale
        )
        return sampler.sample(model.eps_fn(params, label), keys, grad_fn)

    return as_method(model, config, init=init, sample=sample, cond=("label",))
