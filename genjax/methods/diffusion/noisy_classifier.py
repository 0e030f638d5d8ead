"""A classifier of noisy images, to guide a diffusion model with.

Dhariwal & Nichol, Diffusion Models Beat GANs, arXiv:2105.05233, Sec. 4 and App. I.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from genjax import images, processes
from genjax.config import call
from genjax.methods.diffusion._gaussian import make_alphas_cumprod, make_classifier
from genjax.types import Batch, Method, ModelState, Params, Player


def make(config: ConfigDict) -> Method:
    """One player, "classifier"; config.model holds the arguments of `classifier`."""
    return call(classifier, config.model, config, where="config.model")


def classifier(
    config: ConfigDict, *, schedule: Mapping[str, Any], network: Mapping[str, Any]
) -> Method:
    """Cross-entropy at a uniformly random step of the schedule; it draws nothing.

    Args:
        config: Resolved.
        schedule: Arguments of `schedules.make`, those of the model to guide.
        network: Arguments of `networks.classifier.NoisyClassifier`.
    """
    a = make_alphas_cumprod(schedule)
    logits_module = make_classifier(config, network, len(a))

    def init(key: Array, batch: Batch) -> tuple[Params, ModelState]:
        x = images.to_float(batch["image"][:1])
        t = jnp.zeros(1, jnp.int32)
        return {"classifier": logits_module.init(key, x, t, train=False)["params"]}, {}

    def loss(
        params: Params,
        model_state: ModelState,
        batch: Batch,
        key: Array,
        *,
        step: Array,
        train: bool,
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        t_key, eps_key, dropout_key = jax.random.split(key, 3)
        x0 = images.to_float(batch["image"])
        t = jax.random.randint(t_key, x0.shape[:1], 0, len(a))
        eps = jax.random.normal(eps_key, x0.shape)
        logits = logits_module.apply(
            {"params": params["classifier"]},
            processes.q_sample(x0, t, eps, alphas_cumprod=a),
            t,
            train=train,
            rngs={"dropout": dropout_key},
        )
        label = batch["label"][:, None]
        nll = -jnp.take_along_axis(jax.nn.log_softmax(logits), label, axis=1)
        right = jnp.mean(logits.argmax(-1, keepdims=True) == label)
        return nll.mean(), ({}, {"accuracy": right})

    return Method(init=init, players=(Player("classifier", ("classifier",), loss),))
