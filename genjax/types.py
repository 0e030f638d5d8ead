"""The contract between methods and everything else: a method is a game of players."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from jax import Array

Params = Mapping[str, Any]  # {network: tree of float arrays}
ModelState = Mapping[str, Any]  # {name: tree of arrays}, changed without a gradient
Batch = Mapping[str, Array]  # "image" uint8 [B, H, W, C] or "point" float32 [B, D], ...
Metrics = Mapping[str, Array]  # {name: scalar}


class LossFn(Protocol):
    """What one player minimises."""

    def __call__(
        self,
        params: Params,
        model_state: ModelState,
        batch: Batch,
        key: Array,
        *,
        step: Array,
        train: bool,
    ) -> tuple[Array, tuple[ModelState, Metrics]]:
        """Returns a scalar, and (the entries of model_state that changed, metrics)."""
        ...


@dataclass(frozen=True)
class Player:
    """Some networks and the loss that trains them; the other networks are constants.

    Attributes:
        name: Key into `config.optimizers` and prefix of the player's metrics.
        networks: Top-level keys of params. No network has two owners.
        loss: Its loss.
        steps: Updates per train step, each on a batch of its own.
    """

    name: str
    networks: tuple[str, ...]
    loss: LossFn
    steps: int = 1


@dataclass(frozen=True)
class Method:
    """A generative model as the trainer, `sample.py` and `evaluate.py` see it.

    Attributes:
        init: (key, batch) -> (params, model_state). The batch is a real one, so that
            data-dependent initialisation works.
        players: In playing order. A network that no player owns is frozen; without
            players the method can only sample.
        sample: (params, model_state, keys [N], cond) -> float images [N, H, W, C] in
            [-1, 1], or float points [N, D] where the data are points. Image i depends
            on keys[i] and the i-th entries of cond alone.
        log_likelihood: (params, model_state, key, batch, **config.likelihood) ->
            (nats [B], parts), where parts {name: nats [B]} sum to minus the first (the
            terms of a bound). Keyword arguments say how it is estimated.
        bound: log_likelihood is a lower bound, not exact.
        encode: (params, model_state, key, batch) -> latents [B, ...]; where there is
            a distribution of them its mean, so that the latents serve as features.
        decode: (params, model_state, latents, cond) -> images as from `sample`.
        prior: (params, model_state, keys [N], cond) -> latents [N, ...] such as
            `sample` decodes.
        energy: (params, model_state, batch) -> [B], where the density is proportional
            to exp(-energy): what a method without a `log_likelihood` can say of one.
        complete: (params, model_state, keys [N], images float [N, H, W, C] in [-1, 1],
            known bool [N, H, W], cond) -> images as from `sample`, whose known pixels
            are those given and the others drawn to go with them.
        denoise: (params, model_state, keys [N], images float [N, H, W, C], cond) ->
            likelier images near those given.
        cond: Batch entries that `sample`, `decode` and the like need, such as "label".
        frozen: Entries of model_state that belong to frozen networks: like those, an
            earlier phase or config.init_from must bring them.
    """

    init: Callable[[Array, Batch], tuple[Params, ModelState]]
    players: tuple[Player, ...] = ()
    sample: Callable[..., Array] | None = None
    log_likelihood: Callable[..., tuple[Array, Mapping[str, Array]]] | None = None
    bound: bool = False
    encode: Callable[..., Array] | None = None
    decode: Callable[..., Array] | None = None
    prior: Callable[..., Array] | None = None
    energy: Callable[..., Array] | None = None
    complete: Callable[..., Array] | None = None
    denoise: Callable[..., Array] | None = None
    cond: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
