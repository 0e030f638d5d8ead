"""VAEs whose evidence is known: linear ones, enumerable ones and ones on a line."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special, stats

from genjax import methods
from genjax.config import ConfigError, base_config
from genjax.methods.vae import _latent

LINEAR = dict(
    latent_features=2,
    network=dict(name="mlp", features=()),
    decoder="gaussian",
    shared_scale=True,
)
MLP = dict(name="mlp", features=(8,))


def made(method, batch, num_classes=None, **model):
    """(method, params) on data shaped as the batch's."""
    config = base_config()
    config.method = f"vae.{method}"
    config.data.shape = next(iter(batch.values())).shape[1:]
    config.data.num_classes = num_classes
    config.model = model
    loaded = methods.load(config)
    compiled = {
        name: fn and jax.jit(fn)
        for name in ("sample", "encode", "decode", "prior")
        for fn in [getattr(loaded, name)]
    }
    loaded = replace(loaded, **compiled)
    return loaded, jax.jit(loaded.init)(jax.random.key(0), batch)[0]


def moved(params, scale=0.3):
    """Params with noise, so that nothing is at its initial value."""
    random = np.random.RandomState(0)
    return jax.tree.map(
        lambda x: x + scale * jnp.asarray(random.standard_normal(x.shape), x.dtype),
        params,
    )


def likelihood(method, params, batch, num_samples, key=0, **options):
    """(nats, parts) as float64."""
    fn = functools.partial(method.log_likelihood, num_samples=num_samples, **options)
    nats, parts = jax.jit(fn)(params, {}, jax.random.key(key), batch)
    return np.float64(nats), {k: np.float64(v) for k, v in parts.items()}


def loss_of(method, params, batch, key=0, step=0, train=True):
    """(loss, metrics)."""
    (player,) = method.players
    loss, (changed, metrics) = jax.jit(functools.partial(player.loss, train=train))(
        params, {}, batch, jax.random.key(key), step=step
    )
    assert not changed
    return loss, metrics


def train(method, params, batch, num_steps, learning_rate):
    """Adam on the whole batch, its rate falling to 0."""
    (player,) = method.players
    tx = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def step(carry, key):
        params, state = carry
        grads = jax.grad(
            lambda p: player.loss(p, {}, batch, key, step=0, train=True)[0]
        )(params)
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), num_steps)
    run = jax.jit(lambda start: jax.lax.scan(step, start, keys)[0][0])
    return run((params, tx.init(params)))


def points(num=200):
    """Correlated Gaussian points [num, 5] with two strong directions."""
    random = np.random.RandomState(0)
    factors = np.array([[2, 1, 0, 1, -1], [0, 1, -1.5, 0.5, 1]])
    x = random.randn(num, 2) @ factors + 0.5 * random.randn(num, 5) + [1, 0, 0, -2, 0]
    return {"point": jnp.asarray(x, jnp.float32)}


def digits(num=6):
    random = np.random.RandomState(0)
    image = jnp.asarray(random.randint(256, size=(num, 8, 8, 1)), jnp.uint8)
    return {"image": image, "label": jnp.arange(num) % 3}


@pytest.fixture(scope="module")
def linear():
    """(method, params, batch) of a linear VAE, trained to its optimum."""
    batch = points()
    method, params = made("vae", batch, **LINEAR)
    return method, train(method, params, batch, 6000, 2e-2), batch


def dense(params, name):
    """Kernel [inputs, *outputs] and bias of a coder without hidden layers, float64."""
    tree = params[name]
    tree = tree.get("decoder", tree)["mlp"]["out"]
    return np.float64(tree["kernel"]), np.float64(tree["bias"])


def evidence(params, x):
    """Exact log-density of x [B, d] under a linear decoder with a shared variance."""
    weights, mean = dense(params, "decoder")
    raw = params["decoder"]["log_scale"]
    variance = np.exp(float(_latent.smooth_maximum(raw, _latent.MIN_LOG_VAR)))
    covariance = weights.T @ weights + variance * np.eye(len(mean))
    return stats.multivariate_normal(mean, covariance).logpdf(x)


def test_linear_vae_reaches_the_evidence_of_probabilistic_pca(linear):
    """Tipping & Bishop (1999), Eq. 3.7-3.8: at the maximum C has the data's first q
    eigenvalues, the others are their mean, and the log-likelihood per point is
    -(d log 2 pi + log |C| + d) / 2. The posterior is then Gaussian with a diagonal
    covariance (up to a rotation of z), so that the ELBO is equal to it.
    """
    method, params, batch = linear
    x = np.float64(batch["point"])
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    log_det = np.log(eigenvalues[:2]).sum() + 3 * np.log(eigenvalues[2:].mean())
    best = -0.5 * (5 * np.log(2 * np.pi) + log_det + 5)
    # 200 points of 2,000 draws each: the mean's standard error is below 0.003.
    _, parts = likelihood(method, params, batch, 2000)
    elbo = -(parts["reconstruction"] + parts["kl"]).mean()
    assert abs(elbo - best) < 1e-2
    assert abs(evidence(params, x).mean() - best) < 1e-2


def wrong_posterior(params):
    """Means moved by 0.3 and variances multiplied by e^0.7."""
    bias = params["encoder"]["mlp"]["out"]["bias"]
    bias = bias + jnp.array([0.3, 0.3, 0.7, 0.7])
    encoder = {"mlp": {"out": {**params["encoder"]["mlp"]["out"], "bias": bias}}}
    return {**params, "encoder": encoder}


def test_bound_rises_with_k_to_the_exact_evidence(linear):
    method, params, batch = linear
    params = wrong_posterior(params)
    exact = evidence(params, np.float64(batch["point"]))
    means = []
    for k in (1, 5, 50, 2000):
        nats, parts = likelihood(method, params, batch, k)
        np.testing.assert_allclose(sum(parts.values()), -nats, rtol=1e-5, atol=1e-5)
        assert ("gap" in parts) == (k > 1) and np.all(parts.get("gap", -1) < 0)
        means.append(nats.mean())
    assert np.all(np.diff(means) > 0)
    assert means[0] < exact.mean() - 0.2
    # Of each point too, within what 2,000 weights of variance about 1 leave.
    np.testing.assert_allclose(nats, exact, atol=0.2)
    assert abs(means[-1] - exact.mean()) < 0.01


def test_closed_form_of_the_kl_is_the_mean_of_the_draws(linear):
    """200 points of 2,000 draws: the standard error of the mean is about 0.003."""
    method, params, batch = linear
    params = wrong_posterior(params)
    _, one = likelihood(method, params, batch, 1)
    _, many = likelihood(method, params, batch, 2000)
    assert set(one) == {"reconstruction", "kl"}
    np.testing.assert_allclose(one["kl"].mean(), many["kl"].mean(), atol=0.01)


def test_iwae_minimises_minus_the_bound(linear):
    """With 2,000 samples the loss is minus the evidence, however wrong q is."""
    _, params, batch = linear
    params = wrong_posterior(params)
    method, _ = made("iwae", batch, num_importance_samples=2000, **LINEAR)
    loss, metrics = loss_of(method, params, batch)
    exact = evidence(params, np.float64(batch["point"])).mean()
    assert abs(loss + exact) < 0.02
    assert metrics["elbo"] < exact - 0.2
    sum_of_parts = metrics["reconstruction"] + metrics["kl"]
    np.testing.assert_allclose(metrics["elbo"], -sum_of_parts, rtol=1e-6)


def test_streaming_changes_neither_the_bound_nor_its_parts(linear):
    """5,000 draws at once, by vmap and scipy, against chunks of 50 and of 300."""
    method, params, batch = linear
    batch = {"point": batch["point"][:3]}

    def draw_fn(key):
        z = jax.random.normal(key, (3, 2))
        terms = {"a": z[:, 0], "b": z[:, 1] ** 2}
        return terms, 3 * z[:, 0] - z[:, 1]

    key = jax.random.key(0)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(5000))
    terms, log_weights = jax.vmap(draw_fn)(keys)
    expected = special.logsumexp(np.float64(log_weights), axis=0) - np.log(5000)
    for chunk in (50, 300):
        bound, means = _latent.streamed_bound(draw_fn, key, 5000, chunk)
        np.testing.assert_allclose(bound, expected, rtol=1e-5)
        for name, values in terms.items():
            np.testing.assert_allclose(means[name], values.mean(0), atol=1e-5)
    a, b = (likelihood(method, params, batch, 40, chunk=c) for c in (40, 7))
    np.testing.assert_allclose(a[0], b[0], rtol=1e-5)
    for name in a[1]:
        np.testing.assert_allclose(a[1][name], b[1][name], rtol=1e-4, atol=1e-5)


def test_memory_does_not_grow_with_the_number_of_samples():
    method, params = made("vae", digits(), latent_features=2, network=MLP)

    def bytes_at(num_samples):
        fn = functools.partial(method.log_likelihood, num_samples=num_samples)
        compiled = jax.jit(fn).lower(params, {}, jax.random.key(0), digits()).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = bytes_at(100), bytes_at(5000)
    assert 0 < many <= few + 1000


def wide_posterior(params):
    """Means that hardly move and variances above 1: weights without heavy tails."""
    result = {}
    for name, tree in params.items():
        if name.startswith("encoder"):
            tree = jax.tree.map(lambda x: 0.3 * x, tree)
            bias = tree["mlp"]["out"]["bias"]
            tree["mlp"]["out"]["bias"] = bias.at[1::2].add(1.0)
        result[name] = tree
    return result


def linear_hierarchy():
    """(method, params, batch) with z_1 in R^3 and z_2 in R^2, every map linear."""
    batch = {"point": points(20)["point"] / 3}
    settings = LINEAR | dict(latent_features=(3, 2), upper_network=dict(features=()))
    method, params = made("hierarchical_vae", batch, **settings)
    params = wide_posterior(moved(params, 0.2))
    out = params["decoder_2"]["mlp"]["out"]
    # The variance of p(z_1 | z_2) must not depend on z_2.
    out["kernel"] = out["kernel"].reshape(2, 3, 2).at[..., 1].set(0).reshape(2, 6)
    return method, params, batch


def test_hierarchy_of_linear_gaussians_has_the_exact_evidence():
    """p(x) is Gaussian: z_2 standard normal, each level below linear in the one above.

    With p(z_1 | z_2) = N(A z_2 + a, S) and p(x | z_1) = N(B z_1 + b, s), the mean is
    B a + b and the covariance B (A A' + S) B' + s.
    """
    method, params, batch = linear_hierarchy()
    (A, a), (B, b) = dense(params, "decoder_2"), dense(params, "decoder_1")
    A, a, log_var = A.reshape(2, 3, 2)[..., 0], a[::2], a[1::2]
    raw = params["decoder_1"]["log_scale"]
    noise = np.exp(float(_latent.smooth_maximum(raw, _latent.MIN_LOG_VAR))) * np.eye(5)
    covariance = B.T @ (A.T @ A + np.diag(np.exp(log_var))) @ B + noise
    exact = stats.multivariate_normal(a @ B + b, covariance).logpdf(batch["point"])
    nats, parts = likelihood(method, params, batch, 20_000, chunk=2000)
    assert set(parts) == {"reconstruction", "kl_1", "kl_2", "gap"}
    assert parts["gap"].max() < -0.5  # The bound at k = 1 is far from the evidence.
    np.testing.assert_allclose(nats, exact, atol=0.1)


@pytest.mark.parametrize("levels", [(3,), (4, 3, 2)])
def test_any_depth_has_a_kl_term_for_each_level(levels):
    batch = digits()
    method, params = made(
        "hierarchical_vae",
        batch,
        latent_features=levels,
        network=MLP,
        upper_network=dict(features=(5,)),
        binarize="threshold",
    )
    names = {f"kl_{i + 1}" for i in range(len(levels))} | {"reconstruction"}
    nats, parts = likelihood(method, params, batch, 1)
    assert set(parts) == names
    np.testing.assert_allclose(sum(parts.values()), -nats, rtol=1e-5)
    _, metrics = loss_of(method, params, batch)
    assert set(metrics) == names | {"elbo"}
    keys = jax.random.split(jax.random.key(0), 4)
    z = method.prior(params, {}, keys, {})
    assert z.shape == (4, levels[0])
    images = method.decode(params, {}, z, {})
    np.testing.assert_allclose(images, method.sample(params, {}, keys, {}), atol=1e-6)


def test_top_kl_in_closed_form_is_the_mean_of_the_draws():
    """5,000 keys of one draw (closed form) and of two (none): equal means.

    At five standard errors of the difference, for 60 comparisons.
    """
    method, params, batch = linear_hierarchy()

    def parts(key, num_samples):
        return method.log_likelihood(params, {}, key, batch, num_samples=num_samples)[1]

    keys = jax.random.split(jax.random.key(1), 5000)
    one, two = (jax.jit(jax.vmap(lambda k, n=n: parts(k, n)))(keys) for n in (1, 2))
    assert set(two) == {*one, "gap"}
    for name in one:
        variance = (one[name].var(0) + two[name].var(0)) / 5000
        difference = one[name].mean(0) - two[name].mean(0)
        assert np.all(np.abs(difference) < 5 * np.sqrt(variance))
    # Two draws halve the variance, and the closed form does better than that.
    assert np.all(one["kl_2"].var(0) < two["kl_2"].var(0))


def test_categorical_vae_by_enumeration():
    """Two latents of three classes: sums over nine states give log p(x) and the ELBO.

    The weights' spread here lets 20,000 samples come within 0.1 of log p(x); the mean
    reconstruction of as many draws has a standard error of about 0.02.
    """
    batch = digits()
    settings = dict(num_latents=2, num_categories=3, network=MLP, binarize="threshold")
    method, params = made("categorical_vae", batch, **settings)
    params = moved(params)
    states = np.stack(np.meshgrid(range(3), range(3)), -1).reshape(-1, 2)
    mean = method.decode(params, {}, jax.nn.one_hot(states, 3), {})
    p = (np.float64(mean) + 1) / 2
    x = np.asarray(batch["image"])[:, None] > 127
    log_px = np.log(np.where(x, p, 1 - p)).sum((2, 3, 4))  # [B, 9]
    exact = special.logsumexp(log_px - np.log(9), axis=1)
    q = np.float64(method.encode(params, {}, jax.random.key(0), batch))
    q = np.prod(q[:, [0, 1], states], axis=-1)
    reconstruction, kl = -(q * log_px).sum(1), (q * np.log(9 * q)).sum(1)
    nats, parts = likelihood(method, params, batch, 20_000, chunk=1000)
    np.testing.assert_allclose(nats, exact, atol=0.1)
    np.testing.assert_allclose(parts["reconstruction"], reconstruction, atol=0.1)
    np.testing.assert_allclose(parts["kl"], kl, atol=0.02)
    _, one = likelihood(method, params, batch, 1)
    np.testing.assert_allclose(one["kl"], kl, rtol=1e-4)


def test_categorical_vae_anneals_in_training_and_draws_classes_in_evaluation():
    batch = digits()
    settings = dict(num_latents=2, num_categories=3, network=MLP, binarize="threshold")
    method, params = made("categorical_vae", batch, anneal_rate=0.1, **settings)
    params = moved(params, 1.0)
    first, second, late, later = (
        float(loss_of(method, params, batch, step=s)[0]) for s in (0, 3, 100, 200)
    )
    assert len({first, second, late}) == 3 and late == later  # exp(-10) < 0.5.
    cold, _ = made("categorical_vae", batch, min_temperature=1e-4, **settings)
    hard = [loss_of(method, params, batch, step=s, train=False)[0] for s in (0, 100)]
    assert hard[0] == hard[1]
    through, _ = made("categorical_vae", batch, straight_through=True, **settings)
    _, metrics = loss_of(through, params, batch)
    nearly, _ = loss_of(cold, params, batch, step=10**6)
    # Relaxed draws at temperature 1e-4 are classes, up to ties.
    np.testing.assert_allclose(-metrics["elbo"], nearly, rtol=1e-3)


def on_a_line(params, method, x):
    """log p(x, z) - and log p(z) - on a grid of the one latent, with its spacing."""
    z = np.linspace(-40, 40, 40_001)
    outputs = np.float64(method.decode(params, {}, jnp.asarray(z)[:, None], {}))
    raw = params["decoder"]["log_scale"]
    sigma = np.exp(0.5 * float(_latent.smooth_maximum(raw, _latent.MIN_LOG_VAR)))
    log_px = stats.norm(outputs[:, None], sigma).logpdf(x).sum(-1)  # [Z, B]
    p = {k: np.float64(v) for k, v in params["prior"].items()}
    sigma = np.exp(0.5 * p["log_var"][:, 0])
    components = stats.norm(p["mean"][:, 0], sigma).logpdf(z[:, None])
    log_prior = special.logsumexp(components + special.log_softmax(p["logits"]), axis=1)
    return z, log_px, log_prior


def mixtures_on_a_line(num_posterior):
    """(method, params, batch): one latent, a prior of two components, four points."""
    batch = {"point": points(4)["point"][:, :2] / 2}
    method, params = made(
        "vae",
        batch,
        latent_features=1,
        network=MLP,
        decoder="gaussian",
        shared_scale=True,
        num_prior_components=2,
        num_posterior_components=num_posterior,
    )
    params = moved(params)
    # Posteriors wider than the truth: weights without heavy tails.
    out = params["encoder"]["mlp"]["out"]
    out["bias"] = out["bias"].reshape(num_posterior, -1).at[:, 1].add(1.5).ravel()
    return method, params, batch


def integrals(method, params, batch):
    """log p(x), both terms of -ELBO and the mean of q, [B] each, summed on a grid."""
    z, log_px, log_prior = on_a_line(params, method, np.float64(batch["point"]))
    weight = z[1] - z[0]
    exact = special.logsumexp(log_px + log_prior[:, None], axis=0) + np.log(weight)
    p = jax.tree.map(np.float64, params["encoder"]["mlp"])
    h = np.tanh(batch["point"] @ p["dense_0"]["kernel"] + p["dense_0"]["bias"])
    outputs = h @ p["out"]["kernel"] + p["out"]["bias"]
    outputs = outputs.reshape(4, -1, 3 if outputs.shape[1] > 2 else 2)
    sigma = np.exp(0.5 * outputs[..., 1])
    components = stats.norm(outputs[..., 0], sigma).pdf(z[:, None, None])
    logits = outputs[..., 2] if outputs.shape[2] > 2 else np.zeros((4, 1))
    q = (components * special.softmax(logits, axis=-1)).sum(-1)  # [Z, B]
    reconstruction = -(q * log_px).sum(0) * weight
    kl = (q * (np.log(np.maximum(q, 1e-300)) - log_prior[:, None])).sum(0) * weight
    return exact, reconstruction, kl, (q * z[:, None]).sum(0) * weight


@pytest.mark.parametrize("num_posterior", [1, 3])
def test_mixtures_by_quadrature(num_posterior):
    """With one latent, log p(x) and both terms of -ELBO are integrals over a line.

    A draw's terms scatter by up to 5 nats, the mean of 20,000 by 0.035.
    """
    method, params, batch = mixtures_on_a_line(num_posterior)
    exact, reconstruction, kl, mean = integrals(method, params, batch)
    nats, parts = likelihood(method, params, batch, 20_000, chunk=2000)
    np.testing.assert_allclose(nats, exact, atol=0.05)
    np.testing.assert_allclose(parts["reconstruction"], reconstruction, atol=0.15)
    np.testing.assert_allclose(parts["kl"], kl, atol=0.15)
    encoded = method.encode(params, {}, jax.random.key(0), batch)
    np.testing.assert_allclose(encoded[:, 0], mean, atol=1e-4)


def test_gradient_of_a_mixture_posterior_is_that_of_the_integral():
    """Of the loss by mean, log-variance and logit of each component, against finite
    differences of the integrals; the logits' too, which no draw depends on.
    """
    method, params, batch = mixtures_on_a_line(3)
    (player,) = method.players

    def with_bias(bias):
        out = {**params["encoder"]["mlp"]["out"], "bias": bias}
        return {**params, "encoder": {"mlp": {**params["encoder"]["mlp"], "out": out}}}

    def loss(bias, key):
        new = with_bias(bias)
        return player.loss(new, {}, batch, key, step=0, train=True)[0]

    bias = params["encoder"]["mlp"]["out"]["bias"]
    keys = jax.random.split(jax.random.key(0), 20_000)
    grads = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(bias, keys)
    h, expected = 1e-3, []
    for step in h * np.eye(len(bias)):
        up, down = (
            np.add(*integrals(method, with_bias(np.float64(bias) + s), batch)[1:3])
            for s in (step, -step)
        )
        expected.append((up - down).mean() / (2 * h))
    standard_error = grads.std(0) / len(keys) ** 0.5
    assert np.abs(expected).min() > 0 and np.abs(expected).max() > 0.1
    difference = np.abs(grads.mean(0) - np.asarray(expected))
    assert np.all(difference < 4 * standard_error + 1e-3)
    assert standard_error.max() < 0.05


def test_prior_draws_are_distributed_as_the_mixture():
    """Kolmogorov-Smirnov on 10,000 draws: D is above 0.02 once in a thousand times."""
    batch = points(4)
    settings = LINEAR | dict(latent_features=1, num_prior_components=3)
    method, params = made("vae", batch, **settings)
    mean, sigma = np.array([-2.0, 1.0, 3.0]), np.array([0.3, 2.0, 0.5])
    logits = np.array([0.0, 1.0, -1.0])
    p = {
        "logits": jnp.asarray(logits),
        "mean": jnp.asarray(mean)[:, None],
        "log_var": 2 * jnp.log(sigma)[:, None],
    }
    keys = jax.random.split(jax.random.key(0), 10_000)
    z = np.asarray(method.prior({**params, "prior": p}, {}, keys, {}))[:, 0]
    components = stats.norm(mean, sigma)

    def cdf(x):
        return components.cdf(x[:, None]) @ special.softmax(logits)

    assert stats.kstest(z, cdf).statistic < 0.02


def test_hierarchical_prior_draws_have_the_covariance_of_the_levels():
    """z_1 = A z_2 + a + S^(1/2) eps; entries of 20,000 draws err by about 0.02."""
    method, params, _ = linear_hierarchy()
    A, a = dense(params, "decoder_2")
    A, a, log_var = A.reshape(2, 3, 2)[..., 0], a[::2], a[1::2]
    keys = jax.random.split(jax.random.key(0), 20_000)
    z = np.float64(method.prior(params, {}, keys, {}))
    np.testing.assert_allclose(z.mean(0), a, atol=0.06)
    covariance = A.T @ A + np.diag(np.exp(log_var))
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.1)


def test_beta_and_free_bits_change_the_loss_alone():
    """Draws depend on the key, so the reconstruction stays the same."""
    batch = digits()
    settings = dict(latent_features=3, network=MLP, binarize="threshold")
    plain, params = made("vae", batch, **settings)
    loss, metrics = loss_of(plain, params, batch)
    np.testing.assert_allclose(loss, -metrics["elbo"], rtol=1e-6)
    beta, _ = made("vae", batch, beta=4.0, **settings)
    value, changed = loss_of(beta, params, batch)
    np.testing.assert_allclose(value, loss + 3 * metrics["kl"], rtol=1e-5)
    free, _ = made("vae", batch, free_bits=100.0, **settings)
    value, also = loss_of(free, params, batch)
    expected = metrics["reconstruction"] + 300
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], changed[name], rtol=1e-6)
        np.testing.assert_allclose(metrics[name], also[name], rtol=1e-6)
    a, b, c = (likelihood(m, params, batch, 1)[0] for m in (plain, beta, free))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a, c)


@pytest.mark.parametrize(
    "binarize, values", [("dynamic", 2), ("threshold", 2), ("none", 10)]
)
def test_binarisation(binarize, values):
    """Frequencies of 4,096 pixels at one grey level have a standard error of 0.008."""
    grey = jnp.full((64, 8, 8, 1), 51, jnp.uint8)
    pixels = _latent.Pixels("bernoulli", (8, 8, 1), binarize)
    x = pixels.inputs({"image": grey}, jax.random.key(0))
    expected = {"dynamic": 0.2, "threshold": 0.0, "none": 0.2}[binarize]
    assert abs(x.mean() - expected) < 0.03
    ramp = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    x = pixels.inputs({"image": ramp}, jax.random.key(0))
    assert len(np.unique(x)) == values or (values > 2 and len(np.unique(x)) == 256)
    if binarize == "threshold":
        np.testing.assert_array_equal(x.ravel(), np.arange(256) > 127)
    again = pixels.inputs({"image": ramp}, jax.random.key(1))
    assert bool((x != again).any()) == (binarize == "dynamic")
    mean = pixels.inputs({"image": ramp}, None)
    if binarize != "threshold":
        np.testing.assert_allclose(mean.ravel(), np.arange(256) / 255, rtol=1e-6)


@pytest.mark.parametrize("decoder", ["bernoulli", "gaussian", "discretized_logistic"])
@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_decoders_give_images_and_finite_losses(decoder, name):
    """Images are means, in [-1, 1]; a scale of exp(-50) is held above its minimum."""
    batch = digits()
    network = dict(name=name, features=(8,) if name == "mlp" else 4)
    method, params = made(
        "vae", batch, latent_features=3, network=network, decoder=decoder
    )
    keys = jax.random.split(jax.random.key(0), 5)
    images = method.sample(params, {}, keys, {})
    assert images.shape == (5, 8, 8, 1) and np.abs(images).max() <= 1
    assert np.isfinite(loss_of(method, params, batch)[0])
    pixels = _latent.Pixels(decoder, (8, 8, 1), "threshold")
    outputs = jnp.full((6, *pixels.out_shape), -50.0)
    x = pixels.inputs(batch, None)
    value, grad = jax.value_and_grad(lambda o: pixels.nll(o, x).sum())(outputs)
    assert np.isfinite(value) and np.isfinite(grad).all()


def test_variance_of_a_gaussian_pixel_has_a_floor_of_half_a_grey_level():
    """At the mean itself the density is at most that of sigma = 1 / 255."""
    pixels = _latent.Pixels("gaussian", (4,), "none")
    x = jnp.zeros((1, 4))
    nll = pixels.nll(jnp.stack([x, x - 1e4], -1), x)
    expected = -4 * stats.norm(0, 1 / 255).logpdf(0)
    np.testing.assert_allclose(nll, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_the_label_enters_encoder_and_decoder(name):
    batch = digits()
    network = dict(name=name, features=(8,) if name == "mlp" else 4)
    settings = dict(latent_features=3, network=network)
    method, params = made("conditional_vae", batch, num_classes=3, **settings)
    assert method.cond == ("label",)
    other = {**batch, "label": (batch["label"] + 1) % 3}
    key = jax.random.key(0)
    z, z_other = (method.encode(params, {}, key, b) for b in (batch, other))
    assert np.abs(z - z_other).min(axis=-1).max() > 1e-3
    a, b = (method.decode(params, {}, z, c) for c in (batch, other))
    assert np.abs(a - b).max() > 1e-3
    keys = jax.random.split(key, 6)
    drawn = method.sample(params, {}, keys, {"label": batch["label"]})
    z = method.prior(params, {}, keys, {"label": batch["label"]})
    np.testing.assert_allclose(drawn, method.decode(params, {}, z, batch), atol=1e-6)


def test_linear_autoencoder_reaches_the_error_of_pca():
    """The best rank-2 affine map leaves the sum of the smallest three eigenvalues."""
    batch = points()
    method, params = made(
        "autoencoder", batch, latent_features=2, network=dict(features=())
    )
    params = train(method, params, batch, 2000, 2e-2)
    eigenvalues = np.linalg.eigvalsh(np.cov(np.float64(batch["point"]).T, bias=True))
    loss, metrics = loss_of(method, params, batch)
    np.testing.assert_allclose(loss, eigenvalues[:3].sum() / 5, rtol=1e-3)
    assert method.sample is None and metrics["reconstruction"] == loss
    code = method.encode(params, {}, jax.random.key(0), batch)
    assert code.shape == (200, 2)
    error = method.decode(params, {}, code, {}) - batch["point"]
    np.testing.assert_allclose(loss, np.square(error).mean(), rtol=1e-5)


VAE = dict(latent_features=2, network=MLP)


@pytest.mark.parametrize(
    "method, batch, model, match",
    [
        ("vae", digits(), VAE | dict(decoder="gausian"), "did you mean 'gaussian'"),
        ("vae", digits(), VAE | dict(binarize="yes"), "binarize must be one of"),
        ("vae", digits(), VAE | dict(latent_features=0), "latent_features must be"),
        ("vae", digits(), VAE | dict(beta=-1.0), "beta must be at least 0"),
        ("vae", digits(), VAE | dict(shared_scale=True), "needs a decoder that has"),
        ("vae", digits(), VAE | dict(network=dict(name="cnn")), "network.name must"),
        ("vae", digits(), VAE | dict(network=dict(width=3)), "no field 'width'"),
        ("vae", digits(), VAE | dict(network=dict(activation="elu")), "activation"),
        ("vae", digits(), VAE | dict(network=dict(out_shape=(3,))), "must leave"),
        (
            "vae",
            {"image": jnp.zeros((1, 7, 7, 1), jnp.uint8)},
            VAE | dict(network=dict(name="conv")),
            "even sides",
        ),
        ("vae", points(3), VAE, "needs images"),
        ("vae", points(3), LINEAR | dict(network=dict(name="conv")), "needs images"),
        (
            "vae",
            digits(),
            VAE | dict(free_bits=0.5, num_posterior_components=2),
            "free_bits needs",
        ),
        ("conditional_vae", digits(), VAE, "lacks"),
        ("iwae", digits(), VAE | dict(num_importance_samples=0), "num_importance"),
        (
            "hierarchical_vae",
            digits(),
            VAE | dict(latent_features=(), upper_network={}),
            "dimensions of each level",
        ),
        (
            "hierarchical_vae",
            digits(),
            VAE | dict(latent_features=(3, 2), upper_network=dict(name="conv")),
            "must be 'mlp'",
        ),
        (
            "categorical_vae",
            digits(),
            dict(num_latents=2, num_categories=2, network=MLP, temperature=0.0),
            "above 0",
        ),
        ("autoencoder", digits(), VAE | dict(latent_features=-1), "latent_features"),
    ],
)
def test_bad_values_are_refused_before_anything_compiles(method, batch, model, match):
    with pytest.raises(ConfigError, match=match):
        made(method, batch, **model)


@pytest.mark.parametrize("options", [dict(num_samples=0), dict(num_samples=3, chunk=0)])
def test_bad_numbers_of_samples_are_refused(options):
    method, params = made("vae", digits(), **VAE)
    with pytest.raises(ConfigError, match="whole number from 1 on"):
        method.log_likelihood(params, {}, jax.random.key(0), digits(), **options)
