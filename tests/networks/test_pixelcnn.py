"""What each part of a pixel sees, and the known blind spot of plain masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.networks.gated_pixelcnn import GatedPixelCNN
from genjax.networks.pixelcnn import PixelCNN
from genjax.networks.pixelcnn_pp import PixelCNNPP


def influences(module, shape, groups=1, scale=0.5):
    """bool [S, S]: whether part i's outputs have a gradient in part j, raster order.

    Weights are normal with the standard deviation `scale`.
    """
    random, sites = np.random.RandomState(0), shape[0] * shape[1] * groups
    x = jnp.asarray(random.standard_normal((40, 1, *shape)), jnp.float32)
    shapes = jax.eval_shape(
        lambda x: module.init(jax.random.key(0), x, None, train=False), x[0]
    )
    params = jax.tree.map(
        lambda s: jnp.asarray(scale * random.standard_normal(s.shape), s.dtype), shapes
    )

    def outputs(x):
        out = module.apply(params, x, None, train=False)
        return out.reshape(sites, -1).sum(1)

    # Several images: in one of them, rectified units on a path may all be off.
    jacobian = jax.jit(jax.vmap(jax.jacrev(outputs)))(x)
    return (jacobian.reshape(len(x), sites, sites, -1) != 0).any(axis=(0, 3))


def networks(kind, channels, groups, **fields):
    return kind(channels, 2 * groups, groups, features=12, out_features=12, **fields)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 3), (3, 1)])
def test_gated_layers_see_all_that_comes_before_and_no_more(channels, groups):
    """On 4 x 5 pixels, far more than one kernel reaches."""
    module = networks(
        GatedPixelCNN, channels, groups, num_layers=4, first_kernel_size=3
    )
    seen = influences(module, (4, 5, channels), groups)
    np.testing.assert_array_equal(seen, np.tri(len(seen), k=-1, dtype=bool))


@pytest.mark.parametrize("num_levels", [1, 3])
def test_streams_see_all_that_comes_before_and_no_more(num_levels):
    """PixelCNN++ on 5 x 6 pixels: at one resolution, and with odd sides at others.

    Halving an image of six columns twice, and doubling it again, puts what is seen
    at the wrong place if any shift is off by one.
    """
    module = PixelCNNPP(2, 3, features=4, num_blocks=2, num_levels=num_levels)
    seen = influences(module, (5, 6, 2), scale=0.2)
    np.testing.assert_array_equal(seen, np.tri(len(seen), k=-1, dtype=bool))


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (3, 3)])
def test_plain_masks_leave_a_blind_spot(channels, groups):
    """A 3 x 3 kernel climbs one row and moves one column right at most in each block,
    so that from row r the pixels above seen reach right by the rows climbed, and by
    three more columns through the first kernel, of 7 x 7.

    Seen is so what lies dy rows up and at most dx = dy right where all blocks climb:
    the first kernel gives (0..3, up to 3) with its own row only on the left, each of
    two blocks (0, 0), (0, -1) or (1, up to 1).
    """
    height, width = 5, 8
    module = networks(PixelCNN, channels, groups, num_blocks=2)
    seen = influences(module, (height, width, channels), groups)
    first = {(y, x) for y in range(4) for x in range(-3, 4) if y or x < 0}
    first |= {(0, 0)} if groups > 1 else set()
    block = {(0, 0), (0, -1), (1, -1), (1, 0), (1, 1)}
    reach = {
        (a + b + c, d + e + f) for a, d in first for b, e in block for c, f in block
    }
    pixels = [(r, c) for r in range(height) for c in range(width)]
    expected = np.array(
        [[(r - s, t - c) in reach for s, t in pixels] for r, c in pixels]
    )
    expected = np.kron(expected, np.ones((groups, groups), bool))
    expected &= np.tri(len(expected), k=-1, dtype=bool)
    np.testing.assert_array_equal(seen, expected)
    blind = np.tri(len(seen), k=-1, dtype=bool) & ~seen
    assert blind.any()  # Such as the right end of the row above the first column.
    assert blind[width * groups, width * groups - 1]


@pytest.mark.parametrize(
    "module",
    [
        networks(GatedPixelCNN, 1, 1, num_layers=2),
        PixelCNNPP(1, 2, features=4, num_blocks=1, num_levels=1),
    ],
    ids=["gated", "pp"],
)
def test_a_label_reaches_every_pixel(module):
    x, label = jnp.ones((1, 3, 3, 1)), jnp.eye(4)[:1]
    params = jax.jit(lambda: module.init(jax.random.key(0), x, label, train=False))()
    jacobian = jax.jit(
        jax.jacrev(lambda label: module.apply(params, x, label, train=False).sum(-1))
    )(label)
    assert (np.abs(jacobian).sum(-1) > 0).all()
