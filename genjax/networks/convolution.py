"""Convolutions whose gradients are fast on CPUs too.

`direct_conv` is the ordinary one, with gradients that stay fast inside a loop. `conv`
and `upsample_conv` also save multiplications: XLA's CPU convolutions run near the peak
of the cores going forward, but at half of it for the gradient of the kernel, and
Winograd's minimal filtering beats both. A 3 x 3 kernel makes 4 x 4 outputs from 6 x 6
inputs with 36 multiplications instead of 144, and of an image that nearest neighbour
has just doubled 2 x 2 with 9 instead of 36, because rows that are equal cancel. What
remains are matrix products, which run equally well in both directions. On GPUs and TPUs
the same names lower to the ordinary convolution.

Reference:
    Lavin & Gray, Fast Algorithms for Convolutional Neural Networks, arXiv:1509.09308.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# Numbers at a time: their tiles take two to nine times as much memory, twice.
CHUNK = 2**22


def bilinear(
    name: str,
    plain: Callable,
    fast: tuple[Callable, Callable, Callable],
    divides: bool = True,
) -> Callable[[Array, Array], Array]:
    """Makes a bilinear map (x, kernel) -> y with code of its own for CPUs.

    A custom_vjp would forbid jvp, which consistency models and score matching need. So
    the map and its two transposes become primitives, each of which differentiates into
    the two others, as often as one likes and in either mode.

    Args:
        name: Of the primitive.
        plain: The map, with images [B, H, W, C] in and out.
        fast: On CPUs: (x, kernel) -> y and its transposes (y, kernel, shape) -> x and
            (x, y, shape) -> kernel, where `shape` is that of the result.
        divides: Whether XLA can divide these among devices by example. If not, they
            are for one device.

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
        lower_fast = mlir.lower_fun(cpu, multiple_results=False)

        def lower_on_cpu(context, *args, **params):
            # Within shard_map no number is given, and arrays are one device's.
            devices = getattr(context.module_context.axis_context, "num_devices", 1)
            chosen = lower_fast if divides or devices == 1 else lower
            return chosen(context, *args, **params)

        mlir.register_lowering(primitive, lower)
        mlir.register_lowering(primitive, lower_on_cpu, platform="cpu")

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


def _toom_cook(points: Sequence[float], taps: int) -> list[np.ndarray]:
    """Winograd's three matrices for a correlation in the plane.

    With n = len(points) + 1 the outputs are gather @ ((kernel @ g) * (spread @ d)), of
    n x n pixels d and taps x taps numbers g, both flattened. Polynomials multiply by
    their values at the points and at infinity, and this is the transpose of that (Lavin
    & Gray, Sec. 5.1). Each row of `spread` is scaled to a largest entry of 1.
    """

    def values(count: int) -> np.ndarray:
        return np.vstack([np.vander(points, count, increasing=True), np.eye(count)[-1]])

    spread = np.linalg.inv(values(len(points) + 1)).T
    scale = np.abs(spread).max(axis=1, keepdims=True)
    gather = values(len(points) + 2 - taps).T
    return [_plane(a) for a in (spread / scale, values(taps) * scale, gather)]


def _plane(line: np.ndarray) -> np.ndarray:
    """The matrix that does along rows and columns what this one does along a line."""
    return np.kron(line, line)


# 4 x 4 outputs of 6 x 6 pixels. Of the points that were tried these lose fewest digits.
SPREAD, KERNEL, GATHER = _toom_cook((0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)), 3)
TILE, WINDOW = 4, 6  # Pixels along a side.
# 2 x 2 outputs of 3 x 3 pixels, each of which stands for four: only 9 products.
KERNEL_DOUBLED = _plane(np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0, 0, 1]]))


def _combine(matrix: np.ndarray, x: Array) -> Array:
    """The matrix times leading axes of x: [..., C] -> [len(matrix), N, C]."""
    y = matrix.astype(x.dtype) @ x.reshape(matrix.shape[1], -1)
    return y.reshape(len(matrix), -1, x.shape[-1])


def _chunks(x: Array) -> Array:
    """Splits the batch of [B, H, W, C]: [N, B / N, H, W, C]."""
    b, h, w, c = x.shape
    images = max(1, min(b, CHUNK // (h * w * c)))
    while b % images:
        images -= 1
    return x.reshape(b // images, images, *x.shape[1:])


def _join(f: Callable[[Array], Array], x: Array) -> Array:
    """f(x), chunk by chunk of the batch."""
    chunks = _chunks(x)
    y = f(chunks[0])[None] if len(chunks) == 1 else lax.map(f, chunks)
    return y.reshape(x.shape[0], *y.shape[2:])


def _add(f: Callable[[Array, Array], Array], x: Array, y: Array) -> Array:
    """f(x, y), a sum over the batch, chunk by chunk."""
    x = _chunks(x)
    y = y.reshape(*x.shape[:2], *y.shape[1:])
    if len(x) == 1:
        return f(x[0], y[0])
    out = jax.eval_shape(f, x[0], y[0])
    total = jnp.zeros(out.shape, out.dtype)
    return lax.scan(lambda total, chunk: (total + f(*chunk), None), total, (x, y))[0]


def num_tiles(x: Array) -> int:
    """Tiles of a batch [B, H, W, C], each of which `conv` takes at once."""
    return x.shape[0] * math.prod(_counts(x))


def _counts(x: Array) -> tuple[int, int]:
    """Tiles along height and width."""
    return -(-x.shape[1] // TILE), -(-x.shape[2] // TILE)


def _apart(f: Callable, x: Array, *static: int) -> Array:
    """f(x, *static), which XLA then leaves as it is, whatever stands around it."""
    f = jax.jit(f, static_argnums=tuple(range(1, 1 + len(static))))
    with set_xla_metadata(inlineable="false"):
        return f(x, *static)


def _squares(x: Array, side: int) -> Array:
    """The pixels of and around each tile: [B, H, W, C] -> [side, side, h, w, B, C].

    Merged with what follows, this would fill one long row number by number.
    """
    counts, margin = _counts(x), (side - TILE) // 2
    sizes = zip(counts, x.shape[1:3], strict=True)
    around = [(margin, TILE * count - size + margin, 0) for count, size in sizes]
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *around, (0, 0, 0)))
    i, j = (TILE * np.arange(n) + np.arange(side)[:, None] for n in counts)
    return x.transpose(1, 2, 0, 3)[i[:, None, :, None], j[None, :, None, :]]


def _transposed(x: Array) -> Array:
    """Each matrix's transpose: [N, n, C] -> [N, C, n]."""
    return x.swapaxes(1, 2)


def _convolve(x: Array, kernel: Array) -> Array:
    """Convolves [B, H, W, C] with [3, 3, C, D]: [B, H, W, D]."""
    kernels = _combine(KERNEL, kernel)

    def convolve(x: Array) -> Array:
        (rows, columns), (b, h, w, _) = _counts(x), x.shape
        y = _combine(GATHER, _combine(SPREAD, _apart(_squares, x, WINDOW)) @ kernels)
        y = y.reshape(TILE, TILE, rows, columns, b, -1).transpose(4, 2, 0, 3, 1, 5)
        return y.reshape(b, TILE * rows, TILE * columns, -1)[:, :h, :w]

    return _join(convolve, x)


def _image_gradient(y: Array, kernel: Array, shape: tuple[int, ...]) -> Array:
    return _convolve(y, kernel[::-1, ::-1].swapaxes(2, 3))


def _kernel_gradient(x: Array, y: Array, shape: tuple[int, ...]) -> Array:
    *taps, channels, features = shape
    swap = features < channels

    def gradient(x: Array, y: Array) -> Array:
        x = _combine(SPREAD, _apart(_squares, x, WINDOW))
        y = _combine(GATHER.T, _apart(_squares, y, TILE))
        a, b = (y, x) if swap else (x, y)
        # To sum over the rows of both takes Eigen longer than to transpose the less.
        return _combine(KERNEL.T, _apart(_transposed, a) @ b)

    kernel = _add(gradient, x, y)
    if swap:
        return kernel.reshape(*taps, features, channels).swapaxes(2, 3)
    return kernel.reshape(shape)


def _doubled_tiles(x: Array) -> list[Array]:
    """[B, H, W, C] to nine of that shape."""

    def spread(x: Array, axis: int) -> list[Array]:
        n = x.shape[axis] - 2
        before, here, after = (lax.slice_in_dim(x, i, i + n, 1, axis) for i in range(3))
        return [before - here, 2 * here, here - after]

    # A chunk is padded here, not all at once: that brings it into cache.
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [tile for row in spread(x, 1) for tile in spread(row, 2)]


def _convolve_doubled(x: Array, kernel: Array) -> Array:
    """Doubles [B, H, W, C] and convolves it with [3, 3, C, D]: [B, 2H, 2W, D]."""
    kernels = _combine(KERNEL_DOUBLED, kernel)

    def gather(m: Sequence[Array]) -> list[Array]:
        return [m[0] + m[1], m[1] - m[2]]

    def convolve(x: Array) -> Array:
        b, h, w, _ = x.shape
        tiles = _doubled_tiles(x)
        m = [tile @ kernel for tile, kernel in zip(tiles, kernels, strict=True)]
        rows = [gather(m[i::3]) for i in range(3)]
        y = [jnp.stack(gather(column), 3) for column in zip(*rows, strict=True)]
        return jnp.stack(y, 2).reshape(b, 2 * h, 2 * w, -1)

    return _join(convolve, x)


def _doubled_image_gradient(y: Array, kernel: Array, shape: tuple[int, ...]) -> Array:
    x = jax.ShapeDtypeStruct(shape, y.dtype)
    return jax.linear_transpose(lambda x: _convolve_doubled(x, kernel), x)(y)[0]


def _doubled_kernel_gradient(x: Array, y: Array, shape: tuple[int, ...]) -> Array:
    def spread(y: Array, axis: int) -> list[Array]:
        n = y.shape[axis]
        a, b = (lax.slice_in_dim(y, i, n - 1 + i, 2, axis) for i in range(2))
        return [a, a + b, -b]

    def gradient(x: Array, y: Array) -> Array:
        outputs = [part for row in spread(y, 1) for part in spread(row, 2)]
        pairs = zip(_doubled_tiles(x), outputs, strict=True)
        return jnp.stack([_flat(v).T @ _flat(m) for v, m in pairs])

    return _combine(KERNEL_DOUBLED.T, _add(gradient, x, y)).reshape(shape)


def _flat(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])


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
    (_convolve, _image_gradient, _kernel_gradient),
    divides=False,
)
upsample_conv = bilinear(
    "upsample_conv3x3",
    lambda x, kernel: plain_conv(upsample_nearest(x), kernel),
    (_convolve_doubled, _doubled_image_gradient, _doubled_kernel_gradient),
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
