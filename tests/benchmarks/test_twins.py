"""The twins in torch against ours, with our parameters copied over."""

import importlib

import jax
import numpy as np
import pytest
import scipy.linalg

from benchmarks import twins
from genjax import methods
from genjax.losses import dequantization
from genjax.train import phases

torch = pytest.importorskip("torch")
SIZE = 28


def recipe(name, **model):
    """A small form of the recipe, its method, parameters that are not zero, images."""
    config = importlib.import_module(f"configs.{name}_mnist").get_config("tiny")
    config.data.name = "digits"  # Needs no files.
    config.model.update(**model)
    config, _ = phases.resolve(config)
    config.data.shape = (SIZE, SIZE, 1)
    method = methods.load(config)
    random = np.random.default_rng(0)
    batch = {"image": random.integers(256, size=(3, SIZE, SIZE, 1), dtype=np.uint8)}
    params, state = method.init(jax.random.key(0), batch)
    params = jax.tree.map(lambda p: p + 0.1 * random.standard_normal(p.shape), params)
    return (
        config,
        method,
        jax.tree.map(np.float32, params),
        jax.device_get(state),
        batch,
    )


def conv(layer):
    """Weights of a layer of torch from those of one of ours."""
    kernel = layer["kernel"]
    kernel = kernel if kernel.ndim == 4 else kernel[None, None]
    weights = {"weight": kernel.transpose(3, 2, 0, 1), "bias": layer["bias"]}
    return {name: torch.tensor(value) for name, value in weights.items()}


def test_pixelcnn_has_our_likelihood():
    """Images of black and white leave nothing to the draw of the pixels."""
    config, method, params, state, batch = recipe("pixelcnn")
    batch["image"] = 255 * (batch["image"] > 127).astype(np.uint8)
    net = twins.pixelcnn_net(config.model)
    layers = dict(net.named_modules())
    for name, layer in params["pixelcnn"].items():
        if name.startswith("blocks_"):
            block = name.replace("_", ".")
            for part, inner in layer.items():
                layers[f"{block}.{part}"].load_state_dict(conv(inner))
        else:
            layers[name].load_state_dict(conv(layer))
    x = torch.tensor(batch["image"] // 255, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        theirs = -twins.bernoulli_nll(net(2 * x - 1), x)
    ours, _ = method.log_likelihood(params, state, jax.random.key(1), batch)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert twins._num_parameters(net) == sum(p.size for p in jax.tree.leaves(params))


def load_actnorm(layer, params):
    """Theirs goes from the latents to the data."""
    s, t = (
        torch.tensor(-params[name]).view(1, -1, 1, 1) for name in ("log_scale", "bias")
    )
    layer.load_state_dict({"s": s, "t": t, "data_dep_init_done": torch.tensor(1.0)})


def load_step(block, params, constants, order):
    """Copies one step of flow, whose channels stand in another order in theirs.

    A coupling of ours is s x + t, one of normflows' (x - t) s: t is zero here.
    """
    norm, mix, coupling = (params[f"parts_{i}"] for i in range(3))
    affine, rotation, actnorm = block.flows
    load_actnorm(actnorm, jax.tree.map(lambda x: x[order], norm))
    fixed = constants["parts_1"]
    lower = np.tril(mix["lower"], -1) + np.eye(len(order))
    upper = np.triu(mix["upper"], 1) + np.diag(fixed["sign"] * np.exp(mix["log_s"]))
    p, lower, upper = scipy.linalg.lu((fixed["permutation"] @ lower @ upper)[:, order])
    s = np.diag(upper)
    factors = dict(P=p, L=lower, U=upper, log_S=np.log(abs(s)), sign_S=np.sign(s))
    factors["eye"] = np.eye(len(order))
    rotation.load_state_dict(
        {name: torch.tensor(np.float32(value)) for name, value in factors.items()}
    )
    net = affine.flows[1].param_map.net
    for i, name in zip((0, 2, 4), ("conv_in", "conv_hidden", "out"), strict=True):
        net[i].load_state_dict(conv(coupling["net"][name]))
    for value in (net[4].weight, net[4].bias):  # Scales and shifts take turns.
        scale, shift = value.data.chunk(2)
        value.data = torch.stack([shift, scale], dim=1).flatten(0, 1)


def test_glow_has_our_likelihood():
    """With two levels of two steps each, and shifts of zero; see `load_step`.

    normflows squeezes channel by channel, ours pixel by pixel: at the second level, of
    two channels, the first step sees ours in another order.
    """
    pytest.importorskip("normflows")
    config, method, params, state, batch = recipe("glow", num_steps=2, alpha=0.05)
    net = twins.glow_net(config.model)
    flow, constants = params["flow"]["inner"], state["flow"]["constants"]["inner"]
    for level, order in ((1, np.arange(4)), (0, np.r_[0:8:2, 1:8:2])):
        steps, fixed = (tree["parts_0"]["part"] for tree in (flow, constants))
        out = steps["parts_2"]["net"]["out"]
        for name, value in out.items():
            out[name] = value * (np.arange(value.shape[-1]) < value.shape[-1] // 2)
        blocks = [f for f in net.flows[level] if hasattr(f, "flows")]
        for i, block in enumerate(reversed(blocks)):
            step, mine = (jax.tree.map(lambda x: x[i], tree) for tree in (steps, fixed))
            load_step(block, step, mine, np.arange(len(order)) if i else order)
        if level:
            prior = flow["parts_1"]["net"]
            net.merges[0].conv.load_state_dict(conv(prior["conv"]))
            log_scale = torch.tensor(prior["log_scale"]).view(-1, 1, 1)
            net.merges[0].log_scale.data = log_scale
            flow = flow["parts_1"]["inner"]["inner"]
            constants = constants["parts_1"]["inner"]["inner"]
    load_actnorm(net.flows[0][0], flow["parts_1"])
    key = jax.random.key(1)
    x, cost = dequantization.uniform(batch["image"], jax.random.split(key)[0])
    with torch.no_grad():
        x = torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)
        theirs = net.log_prob(x, None).numpy() - cost
    ours, _ = method.log_likelihood(params, state, key, batch)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert twins._num_parameters(net) == sum(p.size for p in jax.tree.leaves(params))
