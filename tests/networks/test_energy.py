"""Energy networks: what they are told, and how steep they can be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks.energy import ConvEnergy, MLPEnergy, StridedEnergy

KEY = jax.random.key(0)
MODULES = [
    ConvEnergy(features=(3,), num_classes=4),
    StridedEnergy(features=(3, 5), dense_features=6, num_classes=4),
    MLPEnergy(features=(6,), num_classes=4),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_energies_are_of_one_image_and_its_label(module):
    """Each by itself in a batch; a change of any pixel or of the label changes it."""
    x = jax.random.normal(KEY, (4, 6, 10, 2))
    label = jnp.arange(4)
    variables = module.init(KEY, x, label, train=False)
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [  # Scales by label start at zero.
        v + 0.3 * jax.random.normal(k, v.shape)
        for k, v in zip(keys, leaves, strict=True)
    ]
    variables = jax.tree.unflatten(structure, moved)

    @jax.jit
    def energy(x, label):
        return module.apply(variables, x, label, train=False)

    whole = energy(x, label)
    assert whole.shape == (4,) and whole.dtype == jnp.float32
    rows = np.array([2, 0, 1, 3])
    np.testing.assert_allclose(energy(x[rows], label[rows]), whole[rows], rtol=1e-4)
    assert (np.abs(energy(x, (label + 1) % 4) - whole) > 1e-4).all()
    slopes = jax.jit(jax.grad(lambda x: energy(x, label).sum()))(x)
    assert (slopes != 0).all()


def test_a_spectral_norm_bounds_how_steep_an_energy_is():
    """|E(x) - E(y)| <= |x - y| for layers of norm 1 and slopes of at most 1 between.

    Without the norm, weights of three times the usual size make it larger.
    """
    x, y = jax.random.normal(KEY, (2, 64, 5))
    steepness = []
    for norm in ("spectral", "none"):
        module = MLPEnergy((16, 16), norm=norm, activation="relu")
        variables = module.init(KEY, x, train=False)
        params = jax.tree.map(lambda w: 3 * w, variables["params"])
        variables = {**variables, "params": params}
        for _ in range(30 if norm == "spectral" else 0):
            _, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
            variables = {**variables, **new}
        gap = module.apply(variables, x, train=False)
        gap = np.abs(gap - module.apply(variables, y, train=False))
        steepness.append((gap / np.linalg.norm(x - y, axis=1)).max())
    assert 0.02 < steepness[0] <= 1.0001 < steepness[1]
