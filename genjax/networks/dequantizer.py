"""Noise between the grey levels of an image that is learned.

Ho et al., Flow++, arXiv:1902.00275.
"""

from typing import Any

import flax.linen as nn
from jax import Array

from genjax.losses.dequantization import squash
from genjax.losses.variational import gaussian_log_prob
from genjax.networks.flow import Coupling, sum_dims
from genjax.networks.flow_nets import ResNet


class Dequantizer(nn.Module):
    """Noise in [0, 1] that suits an image: a flow of couplings that see the image.

    Attributes:
        features: Channels of the couplings' networks.
        num_blocks: Residual blocks of each.
        num_couplings: By checkerboard, each moving the other half.

    Reference: Ho et al., Flow++, arXiv:1902.00275, Sec. 3.1; here couplings are affine.
    """

    features: int = 32
    num_blocks: int = 1
    num_couplings: int = 4
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, eps: Array) -> tuple[Array, Array]:
        """Maps an image [B, H, W, C] in [-1, 1] and normal eps of its shape to noise.

        Returns:
            u in [0, 1], of the same shape, and its log-density given the image, [B].
        """
        h, log_q = eps, sum_dims(gaussian_log_prob(eps, 0.0, 0.0))
        for i in range(self.num_couplings):
            net = ResNet(self.features, self.num_blocks, dtype=self.dtype)
            coupling = Coupling(net, "checkerboard", bool(i % 2), name=f"coupling_{i}")
            h, log_det = coupling.forward(h, image)
            log_q -= log_det
        u, log_det = squash(h)
        return u, log_q - log_det
