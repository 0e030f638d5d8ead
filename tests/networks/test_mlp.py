"""The fully connected network against its layers written out in numpy."""

import jax
import numpy as np

from genjax.networks.mlp import MLP


def test_mlp_is_its_matrix_products():
    x = np.random.default_rng(0).standard_normal((3, 2, 2)).astype(np.float32)
    module = MLP((5, 4), (2, 3), activation="tanh")
    variables = module.init(jax.random.key(0), x)
    p = jax.tree.map(np.float64, variables["params"])
    h = x.reshape(3, 4)
    for name in ("dense_0", "dense_1"):
        h = np.tanh(h @ p[name]["kernel"] + p[name]["bias"])
    expected = (h @ p["out"]["kernel"] + p["out"]["bias"]).reshape(3, 2, 3)
    np.testing.assert_allclose(module.apply(variables, x), expected, atol=1e-5)
