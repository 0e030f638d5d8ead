"""The fast convolutions against XLA's own, which shares no code with them."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from genjax.networks import convolution


def slow_conv(x, kernel):
    """Sums nine shifted products, in float64."""
    x, kernel = np.float64(x), np.float64(kernel)
    h, w = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + h, j : j + w] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )


def slow_upsample_conv(x, kernel):
    return slow_conv(np.repeat(np.repeat(x, 2, axis=1), 2, axis=2), kernel)


FAST_AND_SLOW = [
    (convolution.conv, slow_conv),
    (convolution.upsample_conv, slow_upsample_conv),
]


# Sums of 27 to 45 products of size 1, and their transforms.
ATOL = 5e-5


def arrays(*shapes):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.standard_normal(s), jnp.float32) for s in shapes]


@pytest.mark.parametrize(("fast", "slow"), FAST_AND_SLOW, ids=["conv", "upsample"])
@pytest.mark.parametrize("size", [(4, 4), (5, 6), (1, 1), (7, 3)])
def test_output_equals_nine_shifted_products(fast, slow, size):
    x, kernel = arrays((3, *size, 5), (3, 3, 5, 4))
    np.testing.assert_allclose(fast(x, kernel), slow(x, kernel), atol=ATOL)


@pytest.mark.parametrize(("fast", "slow"), FAST_AND_SLOW, ids=["conv", "upsample"])
def test_few_digits_are_lost(fast, slow):
    """Of a sum of 9 * 64 products in float32, whose own rounding is about 5e-7."""
    x, kernel = arrays((4, 8, 8, 64), (3, 3, 64, 32))
    expected = slow(x, kernel)
    error = np.abs(fast(x, kernel) - expected)
    assert error.max() < 4e-6 * np.abs(expected).max()
    assert np.sqrt(np.mean(error**2)) < 2e-6 * expected.std()


@pytest.mark.parametrize("fast", [convolution.conv, convolution.upsample_conv])
def test_the_dtype_stays(fast):
    x, kernel = (a.astype(jnp.bfloat16) for a in arrays((2, 4, 6, 5), (3, 3, 5, 4)))
    y, vjp = jax.vjp(fast, x, kernel)
    assert {a.dtype for a in (y, *vjp(y))} == {jnp.dtype(jnp.bfloat16)}


def test_a_batch_on_many_devices_stays_where_it_is():
    """Each device convolves its own images, and gradients are added up once."""
    program = r"""
import jax, re, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from genjax.networks.convolution import conv, upsample_conv

mesh = jax.make_mesh((4,), ("data",))
split, whole = (NamedSharding(mesh, PartitionSpec(*x)) for x in (["data"], []))
args = jnp.ones((3, 3, 16, 16)), jnp.ones((8, 8, 8, 16))
for f in conv, upsample_conv:
    loss = jax.value_and_grad(lambda k, x: jnp.sin(f(x, k)).sum(), (0, 1))
    out = whole, (whole, split)
    step = jax.jit(loss, in_shardings=(whole, split), out_shardings=out)
    text = step.lower(*args).compile().as_text()
    found = re.findall(r" (all-\S+|collective-\S+|reduce-scatter\S*)\(", text)
    assert found == ["all-reduce"], found
"""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("fast", "slow"), FAST_AND_SLOW, ids=["conv", "upsample"])
def test_batches_that_are_split_into_chunks(fast, slow, monkeypatch):
    """Six images in chunks of two (two is the largest divisor of 6 up to 2.x)."""
    monkeypatch.setattr(convolution, "CHUNK", 2 * 4 * 6 * 5 + 1)
    x, kernel = arrays((6, 4, 6, 5), (3, 3, 5, 4))
    np.testing.assert_allclose(fast(x, kernel), slow(x, kernel), atol=ATOL)
    check_grads(jax.jit(fast), (x, kernel), order=1, modes=("rev",), atol=1e-2)


@pytest.mark.parametrize("fast", [convolution.conv, convolution.upsample_conv])
@pytest.mark.parametrize("size", [(2, 4), (3, 5)])
def test_derivatives_in_both_modes_up_to_second_order(fast, size):
    """Against differences; the map is bilinear, so they are exact up to rounding."""
    x, kernel = arrays((2, *size, 3), (3, 3, 3, 2))
    check_grads(fast, (x, kernel), order=2, modes=("fwd", "rev"), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("fast", [convolution.conv, convolution.upsample_conv])
def test_each_transpose_is_the_adjoint(fast):
    """<y, f(x, k)> = <x, f^T(y, k)> = <k, f^T(x, y)>, to float precision."""
    x, kernel = arrays((3, 4, 6, 5), (3, 3, 5, 4))
    y, vjp = jax.vjp(fast, x, kernel)
    (ct,) = arrays(y.shape)
    x_bar, kernel_bar = vjp(ct)
    scale = jnp.linalg.norm(ct) * jnp.linalg.norm(y)
    assert abs(jnp.vdot(ct, y) - jnp.vdot(x, x_bar)) < 1e-5 * scale
    assert abs(jnp.vdot(ct, y) - jnp.vdot(kernel, kernel_bar)) < 1e-5 * scale


@pytest.mark.parametrize(("fast", "slow"), FAST_AND_SLOW, ids=["conv", "upsample"])
def test_vmap_over_images_kernels_and_gradients(fast, slow):
    x, kernel = arrays((2, 3, 4, 4, 3), (2, 3, 3, 3, 2))
    for dims in [(0, None), (None, 0), (0, 0)]:
        a, b = (v if d == 0 else v[0] for v, d in zip((x, kernel), dims, strict=True))
        expected = [
            slow(x[i * (dims[0] == 0)], kernel[i * (dims[1] == 0)]) for i in (0, 1)
        ]
        np.testing.assert_allclose(jax.vmap(fast, dims)(a, b), expected, atol=ATOL)
    grad = jax.grad(lambda kernel, x: jnp.sum(jnp.sin(fast(x, kernel))))
    each = jax.vmap(grad, (None, 0))(kernel[0], x)
    for i in range(2):
        np.testing.assert_allclose(each[i], grad(kernel[0], x[i]), atol=1e-4)
    inner = jax.vmap(lambda k, x: jax.grad(lambda x: fast(x, k).sum())(x), (None, 0))
    ones = jax.grad(lambda x: fast(x, kernel[0]).sum())(x[0])
    np.testing.assert_allclose(inner(kernel[0], x)[1], ones, atol=1e-4)


CASES = [  # Strides, pads, kernel size, image size, channels in and out.
    ((1, 1), ((1, 1), (1, 1)), 3, (8, 8), (3, 4)),
    ((2, 2), ((0, 1), (0, 1)), 3, (8, 6), (3, 4)),
    ((2, 2), ((1, 1), (1, 1)), 4, (9, 7), (3, 4)),
    ((2, 1), ((2, 3), (0, 0)), 5, (11, 6), (3, 4)),
    ((2, 2), ((1, 1), (1, 2)), 4, (4, 5), (3, 4)),
    ((1, 2), ((0, 0), (1, 0)), 3, (4, 4), (3, 4)),
    ((1, 1), ((1, 1), (1, 1)), 3, (4, 5), (16, 2)),
    ((1, 1), ((3, 0), (0, 1)), 3, (5, 6), (16, 2)),
    ((1, 1), ((0, 3), (2, 1)), 3, (5, 6), (2, 16)),
]


@pytest.mark.parametrize(("strides", "pads", "k", "size", "channels"), CASES)
def test_direct_convolution_has_flax_values_and_jax_gradients(
    strides, pads, k, size, channels
):
    """Against `lax.conv_general_dilated` and the transposes that JAX derives for it."""
    x, kernel = arrays((2, *size, channels[0]), (k, k, *channels))

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    direct = convolution.direct_conv(strides, pads)
    y, pull_back = jax.vjp(reference, x, kernel)
    own, own_pull_back = jax.vjp(direct, x, kernel)
    np.testing.assert_allclose(own, y, atol=1e-5)
    for a, b in zip(own_pull_back(y), pull_back(y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)
    check_grads(direct, (x, kernel), order=2, modes=("fwd", "rev"), rtol=0.02)


def test_gradients_in_a_loop_stay_convolutions_that_xla_runs_fast():
    """XLA's CPU code for a convolution inside a loop must keep its plain layout.

    A reversed kernel or permuted dimensions in the operation are what its fast code
    refuses there; "b01f_01io->b01f" is the layout that it takes.
    """
    x, kernel = arrays((4, 8, 8, 16), (3, 3, 16, 16))
    conv = convolution.direct_conv((1, 1), ((1, 1), (1, 1)))

    def loop(x, kernel):
        def step(kernel, _):
            grads = jax.grad(lambda x, k: jnp.sum(conv(x, k) ** 2), (0, 1))(x, kernel)
            return kernel - 1e-3 * grads[1], grads[0].sum()

        return jax.lax.scan(step, kernel, None, length=3)

    text = jax.jit(loop).lower(x, kernel).compile().as_text()
    layouts = [
        line.split("dim_labels=")[1]
        for line in text.splitlines()
        if "dim_labels" in line and "convolution(" in line
    ]
    assert len(layouts) >= 3
    assert all(layout.startswith("b01f_01io->b01f") for layout in layouts)


def test_pointwise_is_a_product_with_gradients_in_both_modes():
    """Of images and of pixels, also where kernels differ: numpy's product."""
    x, kernel = arrays((2, 3, 4, 5), (2, 5, 3))
    expected = np.einsum("bhwc,cd->bhwd", x, kernel[0])
    np.testing.assert_allclose(convolution.pointwise(x, kernel[0]), expected, atol=2e-5)
    each = jax.vmap(convolution.pointwise, (0, None))(x[0, 0], kernel[0])
    np.testing.assert_allclose(each, expected[0, 0], atol=2e-5)
    each = jax.vmap(convolution.pointwise)(x, kernel)
    expected = np.einsum("bhwc,bcd->bhwd", x, kernel)
    np.testing.assert_allclose(each, expected, atol=2e-5)
    ways = {"order": 2, "modes": ("fwd", "rev"), "atol": 2e-2, "rtol": 2e-2}
    for images in (x, x[0, 0]):
        check_grads(convolution.pointwise, (images, kernel[0]), **ways)
