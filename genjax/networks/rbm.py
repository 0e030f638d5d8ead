"""The restricted Boltzmann machine."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from genjax.networks.layers import zeros


class RBM(nn.Module):
    """Binary visible and hidden units, p(v, h) = exp(a.v + b.h + v W h) / Z.

    At an inverse temperature beta below 1 the machine has b and W times beta, and the
    rest of `a` up to 1 is that of `base`: at 0 the visible units are independent.

    Attributes:
        num_visible: D.
        num_hidden: H.

    References:
        Hinton, A Practical Guide to Training Restricted Boltzmann Machines, 2010.
        Salakhutdinov & Murray, On the Quantitative Analysis of Deep Belief Networks,
        ICML 2008, Sec. 4.1, for beta.
    """

    num_visible: int
    num_hidden: int

    def setup(self):
        """Weights small and random, biases zero."""
        shape = (self.num_visible, self.num_hidden)
        self.weights = self.param("weights", nn.initializers.normal(0.01), shape)
        self.visible = self.param("visible", zeros, shape[:1])
        self.hidden = self.param("hidden", zeros, shape[1:])

    def __call__(self, v: Array, base: Array | float = 0.0, beta: float = 1.0) -> Array:
        """Free energies -log sum_h exp(a.v + b.h + v W h): [B, D] -> [B]."""
        gain = jnp.logaddexp(0, self.hidden_logits(v, beta)).sum(axis=-1)
        return -v @ (beta * self.visible + (1 - beta) * base) - gain

    def hidden_logits(self, v: Array, beta: float = 1.0) -> Array:
        """Those of p(h | v): [B, D] -> [B, H]."""
        return beta * (self.hidden + v @ self.weights)

    def visible_logits(
        self, h: Array, base: Array | float = 0.0, beta: float = 1.0
    ) -> Array:
        """Those of p(v | h): [B, H] -> [B, D]."""
        return beta * (self.visible + h @ self.weights.T) + (1 - beta) * base
