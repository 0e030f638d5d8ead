"""Convolutions whose gradients are fast on CPUs too.

`direct_conv` is the ordinary one, with gradients that stay fast inside a loop. `conv`
and `upsample_conv` also save multiplications: XLA's CPU convolutions run near the peak
of the cores going forward, but at half of it for the gradient of the kernel, and
Winograd's minimal filtering beats both. A 3 x 3 kernel makes 2 x 2 outputs from 4 x 4
inputs with 16 multiplications instead of 36, and on an image that nearest neighbour has
just doubled with 9, because rows that are equal cancel. What remains are matrix
products, which run equally well in both directions. On GPUs and TPUs the same names
lower to the ordinary convolution.

Reference:
    Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# Numbers at a time: the transformed tiles, four times as many, should stay in cache.
CHUNK = 2**20


def bilinear(name: str, plain: Callable, fast: tuple[Callable, Callable, Callable]):
    """Makes a bilinear map (x, kernel) -> y with code of its own for CPUs.

    A custom_vjp would forbid jvp, which consistency models and score matching need. So
    the map and its two transposes become primitives, each of which differentiates into
    the two others, as often as one likes and in either mode.

    Args:
        name: Of the primitive.
        plain: The map, with images [B, H, W, C] in and out.
        fast: On CPUs: (x, kernel) -> y and its transposes (y, kernel, shape) -> x and
            (x, y, shape) -> kernel, where `shape` is that of the result.

    Returns:
        The map.
    """

    def x_from(y, kernel, shape):
        x = jax.ShapeDtypeStruct(shape, y.dtype)
        return jax.linear_transpose(lambda x: plain(x, kernel), x)(y)[0]

    def kernel_from(x, y, shape):
        kernel = jax.ShapeDtypeStruct(shape, x.dtype)
        return jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(y)[0]

    y_p, x_p, kernel_p = (Primitive(f"{name}{s}") for s in ("", "_image", "_kernel"))

    def define(primitive, default, cpu, fold):
        def batch(args, dims, **params):
            a, b = args
            # A vector, which pointwise takes too, has no examples to join.
            if fold and dims[1] is None and a.ndim > 2:
                a = jnp.moveaxis(a, dims[0], 0)
                n = a.shape[:2]
                if "shape" in params:
                    params["shape"] = (n[0] * n[1], *params["shape"][1:])
                out = primitive.bind(a.reshape(-1, *a.shape[2:]), b, **params)
                return out.reshape(*n, *out.shape[1:]), 0
            return jax.vmap(lambda a, b: default(a, b, **params), dims)(a, b), 0

        def abstract(a, b, **params):
            out = jax.eval_shape(functools.partial(default, **params), a, b)
            return a.update(shape=out.shape)

        primitive.plain = default  # What it does where there is no code of its own.
        primitive.def_impl(jax.jit(primitive.bind, static_argnames="shape"))
        primitive.def_abstract_eval(abstract)
        batching.primitive_batchers[primitive] = batch
        lower = mlir.lower_fun(default, multiple_results=False)
        mlir.register_lowering(primitive, lower)
        lower = mlir.lower_fun(cpu, multiple_results=False)
        mlir.register_lowering(primitive, lower, platform="cpu")

    define(y_p, plain, fast[0], True)
    define(x_p, x_from, fast[1], True)
    define(kernel_p, kernel_from, fast[2], False)
    ad.defbilinear(
        y_p,
        lambda ct, x, kernel: x_p.bind(ct, kernel, shape=x.aval.shape),
        lambda ct, x, kernel: kernel_p.bind(x, ct, shape=kernel.aval.shape),
    )
    ad.defbilinear(
        x_p,
        lambda ct, y, kernel, shape: y_p.bind(ct, kernel),
        lambda ct, y, kernel, shape: kernel_p.bind(ct, y, shape=kernel.aval.shape),
    )
    ad.defbilinear(
        kernel_p,
        lambda ct, x, y, shape: x_p.bind(y, ct, shape=x.aval.shape),
        lambda ct, x, y, shape: y_p.bind(x, ct),
    )
    return y_p.bind


def plain_conv(x: Array, kernel: Array) -> Array:
    """Convolves [B, H, W, C] with [3, 3, C, D], zeros around: [B, H, W, D]."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def upsample_nearest(x: Array) -> Array:
    """Repeats each pixel 2 x 2: [B, H, W, C] -> [B, 2H, 2W, C]."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(
        b, 2 * h, 2 * w, c
    )


def _spread_image(x: Array, axis: int) -> list[Array]:
    """B^T d: overlapping fours along an axis of 2n + 2 to four of n."""
    n = x.shape[axis] // 2 - 1
    d = [lax.slice_in_dim(x, i, i + 2 * n - 1, 2, axis) for i in range(4)]
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _spread_doubled(x: Array, axis: int) -> list[Array]:
    """The same for each pixel of n + 2 standing twice; the third of four is zero."""
    n = x.shape[axis] - 2
    before, here, after = (lax.slice_in_dim(x, i, i + n, 1, axis) for i in range(3))
    return [before - here, 2 * here, here - after]


def _spread_kernel(g: Array) -> list[Array]:
    """G g: three taps on the first axis to four."""
    return [g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]]


def _spread_kernel_transpose(u: Array) -> Array:
    """G^T u: four (of three, the missing third is zero) on the first axis to three."""
    if len(u) == 3:
        return jnp.stack([u[0] + u[1] / 2, u[1] / 2, u[1] / 2 + u[2]])
    half = (u[1] + u[2]) / 2
    return jnp.stack([u[0] + half, (u[1] - u[2]) / 2, half + u[3]])


def _gather(m: list[Array]) -> list[Array]:
    """A^T m: four products (of three, the missing third is zero) to two outputs."""
    if len(m) == 3:
        return [m[0] + m[1], m[1] - m[2]]
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _gather_transpose(y: Array, axis: int, size: int) -> list[Array]:
    """A y: pairs along an axis of 2n to four (or three) of n."""
    n = y.shape[axis]
    a, b = (lax.slice_in_dim(y, i, n - 1 + i, 2, axis) for i in range(2))
    return [a, a + b, -b] if size == 3 else [a, a + b, a - b, -b]


def _tiles(x: Array, spread: Callable) -> list[list[Array]]:
    return [spread(row, 2) for row in spread(x, 1)]


def _filter(x: Array, kernel: Array, spread: Callable, channels: int) -> Array:
    """Convolves [B, H + 2, W + 2, C]; `channels` is the kernel's axis to sum over."""
    tiles = _tiles(x, spread)
    chosen = range(4) if len(tiles) == 4 else (0, 1, 3)
    kernels = [_spread_kernel(row) for row in _spread_kernel(kernel)]
    products = [
        [
            jnp.tensordot(v, kernels[i][j], (3, channels))
            for v, j in zip(row, chosen, strict=True)
        ]
        for row, i in zip(tiles, chosen, strict=True)
    ]
    rows = [_gather(list(column)) for column in zip(*products, strict=True)]
    y = [jnp.stack(_gather(list(column)), 3) for column in zip(*rows, strict=True)]
    return jnp.stack(y, 2).reshape(x.shape[0], *_doubled(tiles), -1)


def _flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


def _doubled(tiles: list[list[Array]]) -> tuple[int, int]:
    return 2 * tiles[0][0].shape[1], 2 * tiles[0][0].shape[2]


def _chunks(x: Array) -> Array:
    """Splits the batch of [B, H, W, C]: [N, B / N, H, W, C]."""
    b, h, w, c = x.shape
    images = max(1, min(b, CHUNK // (h * w * c)))
    while b % images:
        images -= 1
    return x.reshape(b // images, images, *x.shape[1:])


def _pad(x: Array, spread: Callable) -> Array:
    """Puts zeros around, and makes odd sizes even.

    Of a chunk, not of all: padding brings the chunk into cache, where the tiles would
    each read it from the whole, and take a fifth longer.
    """
    h, w = x.shape[1:3] if spread is _spread_image else (0, 0)
    return jnp.pad(x, ((0, 0), (1, 1 + h % 2), (1, 1 + w % 2), (0, 0)))


def _convolve(x: Array, kernel: Array, spread: Callable, channels: int = 0) -> Array:
    b, h, w, _ = x.shape
    scale = 2 if spread is _spread_doubled else 1
    y = _map(lambda x: _filter(_pad(x, spread), kernel, spread, channels), _chunks(x))
    return y.reshape(b, *y.shape[2:])[:, : scale * h, : scale * w]


def _map(f: Callable, chunks: Array) -> Array:
    return f(chunks[0])[None] if len(chunks) == 1 else lax.map(f, chunks)


def _kernel_gradient(x: Array, y: Array, spread: Callable) -> Array:
    """The transpose of `_convolve` with respect to the kernel: [3, 3, C, D]."""
    size = 3 if spread is _spread_doubled else 4

    def add(total, chunk):
        x, y = chunk
        tiles = _tiles(_pad(x, spread), spread)
        h, w = _doubled(tiles)
        y = jnp.pad(y, ((0, 0), (0, h - y.shape[1]), (0, w - y.shape[2]), (0, 0)))
        products = [
            _flat(v).T @ _flat(m)
            for v_row, y_row in zip(tiles, _gather_transpose(y, 1, size), strict=True)
            for v, m in zip(v_row, _gather_transpose(y_row, 2, size), strict=True)
        ]
        return total + jnp.stack(products), None

    chunks = _chunks(x)
    y = y.reshape(*chunks.shape[:2], *y.shape[1:])
    total = jnp.zeros((size * size, x.shape[-1], y.shape[-1]), x.dtype)
    if len(chunks) == 1:
        total, _ = add(total, (chunks[0], y[0]))
    else:
        total, _ = lax.scan(add, total, (chunks, y))
    kernel = _spread_kernel_transpose(total.reshape(size, size, *total.shape[1:]))
    return _spread_kernel_transpose(kernel.swapaxes(0, 1)).swapaxes(0, 1)


def _upsample_conv_image(y: Array, kernel: Array, shape: tuple[int, ...]) -> Array:
    x = jax.ShapeDtypeStruct(shape, y.dtype)
    transpose = jax.linear_transpose(lambda x: _convolve(x, kernel, _spread_doubled), x)
    return transpose(y)[0]


def _forward(x: Array, kernel: Array, pads, **dilation) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        padding=pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **{"window_strides": (1, 1), **dilation},
    )


def _forward_to_few(x: Array, kernel: Array, pads) -> Array:
    """The convolution for a kernel of few outputs, which XLA's CPU code is slow at.

    A product of matrices gives each pixel's multiples of all taps; each tap's are then
    moved to where they belong, and added up.
    """
    height, width, channels, features = kernel.shape
    taps = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
    y = (_flat(x) @ taps).reshape(*x.shape[:3], height, width, features)
    around = [(0, 0, 0), *((lo, hi, 0) for lo, hi in pads), *[(0, 0, 0)] * 3]
    y = lax.pad(y, jnp.zeros((), y.dtype), around)
    rows, columns = y.shape[1] - height + 1, y.shape[2] - width + 1
    return sum(
        y[:, i : i + rows, j : j + columns, i, j] for i, j in np.ndindex(height, width)
    )


def _image_by_tiles(y: Array, kernel: Array, shape, strides, pads) -> Array:
    """The transpose of a convolution with respect to its image, for a small y.

    Each pixel of y adds its multiple of the kernel. XLA's CPU convolutions take ten
    times as long where y is smaller than the kernel.
    """
    (height, width), x = kernel.shape[:2], jnp.zeros(shape, y.dtype)
    tiles = jnp.einsum("bpqd,hwcd->pqbhwc", y, kernel)
    for p, q in np.ndindex(y.shape[1:3]):
        top, left = p * strides[0] - pads[0][0], q * strides[1] - pads[1][0]
        below, right = shape[1] - top - height, shape[2] - left - width
        around = [(0, 0, 0), (top, below, 0), (left, right, 0), (0, 0, 0)]
        x += lax.pad(tiles[p, q], jnp.zeros((), y.dtype), around)
    return x


def _kernel_by_shifts(x: Array, y: Array, shape, pads) -> Array:
    """The transpose of a convolution with respect to its kernel, for thin y.

    A product of matrices: x, and y moved to where each of the kernel's taps saw x. A
    convolution needs x with its channels first, and to transpose it takes longer.
    """
    height, width, channels, features = shape
    (top, bottom), (left, right) = pads
    around = [(height - 1 - top, height - 1 - bottom, 0)]
    around += [(width - 1 - left, width - 1 - right, 0)]
    y = lax.pad(y, jnp.zeros((), y.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    taps = [
        y[:, i : i + x.shape[1], j : j + x.shape[2]]
        for i, j in np.ndindex(height, width)
    ]
    kernel = _flat(jnp.concatenate(taps[::-1], axis=-1)).T @ _flat(x)
    return kernel.reshape(height, width, features, channels).swapaxes(2, 3)


@functools.cache
def direct_conv(strides: tuple[int, int], pads: tuple[tuple[int, int], ...]):
    """The ordinary convolution, with gradients that are ordinary convolutions too.

    XLA's own gradients reverse the kernel and permute dimensions inside the operation.
    Its CPU backend undoes that in straight-line code, but in a loop (over critic steps
    or micro-batches, or the samplers' with classifier guidance) it falls back to code
    that is a hundred times slower. Here arrays are reversed and transposed first.

    Args:
        strides: Along height and width.
        pads: Zeros before and after, along height and width.

    Returns:
        (x [B, H, W, C], kernel [h, w, C, D]) -> [B, H', W', D].
    """

    def plain(x: Array, kernel: Array) -> Array:
        return _forward(x, kernel, pads, window_strides=strides)

    def is_few(outputs: int, inputs: int) -> bool:
        return strides == (1, 1) and 8 * outputs <= inputs

    def forward(x: Array, kernel: Array) -> Array:
        if is_few(kernel.shape[3], kernel.shape[2]):
            return _forward_to_few(x, kernel, pads)
        return plain(x, kernel)

    def reach(y: Array) -> list[int]:
        """Sizes of y with strides - 1 zeros between its pixels."""
        return [(n - 1) * s + 1 for n, s in zip(y.shape[1:3], strides, strict=True)]

    def image(y: Array, kernel: Array, shape: tuple[int, ...]) -> Array:
        if y.shape[1] < kernel.shape[0] and y.shape[2] < kernel.shape[1]:
            return _image_by_tiles(y, kernel, shape, strides, pads)
        sizes = zip(shape[1:3], kernel.shape[:2], reach(y), pads, strict=True)
        around = [(k - 1 - lo, n - length + lo) for n, k, length, (lo, _) in sizes]
        kernel = kernel[::-1, ::-1].swapaxes(2, 3)
        if is_few(shape[3], y.shape[3]):
            return _forward_to_few(y, kernel, around)
        return _forward(y, kernel, around, lhs_dilation=strides)

    def kernel(x: Array, y: Array, shape: tuple[int, ...]) -> Array:
        if is_few(shape[3], shape[2]):
            return _kernel_by_shifts(x, y, shape, pads)
        sizes = zip(x.shape[1:3], shape[:2], reach(y), pads, strict=True)
        around = [(lo, k - 1 + length - n - lo) for n, k, length, (lo, _) in sizes]
        x, y = x.transpose(3, 1, 2, 0), y.transpose(1, 2, 0, 3)
        return _forward(x, y, around, rhs_dilation=strides).transpose(1, 2, 0, 3)

    return bilinear(f"conv_{strides}_{pads}", plain, (forward, image, kernel))


conv = bilinear(
    "conv3x3",
    plain_conv,
    (
        lambda x, kernel: _convolve(x, kernel, _spread_image),
        lambda y, kernel, shape: _convolve(y, kernel[::-1, ::-1], _spread_image, 1),
        lambda x, y, shape: _kernel_gradient(x, y, _spread_image),
    ),
)
upsample_conv = bilinear(
    "upsample_conv3x3",
    lambda x, kernel: plain_conv(upsample_nearest(x), kernel),
    (
        lambda x, kernel: _convolve(x, kernel, _spread_doubled),
        _upsample_conv_image,
        lambda x, y, shape: _kernel_gradient(x, y, _spread_doubled),
    ),
)
pointwise = bilinear(
    "conv1x1",
    lambda x, kernel: x @ kernel,
    (
        lambda x, kernel: x @ kernel,
        lambda y, kernel, shape: y @ kernel.T,
        # Over one axis: to sum over several at once, XLA transposes y first.
        lambda x, y, shape: _flat(x).T @ _flat(y),
    ),
)
