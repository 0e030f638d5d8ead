"""Judges samples of MNIST: how surely does a small CNN read them, and as which digits?

python sample.py --workdir=runs/dcgan_mnist --num=1000 --step=best --out=out/
python -m benchmarks.digits_confidence --samples=out/samples.npz [--data=tfds:mnist]

Fits a CNN of two convolutions to the training split, six times over it, and prints
its accuracy on the test split, the share of test images and of samples that it reads
with a probability of at least 0.9, and the share of each class among the samples. The
samples need no labels.
"""

import argparse
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from genjax import data, images
from genjax.config import base_config
from genjax.networks.layers import Conv
from genjax.train.runtime import use_all_cores

BATCH, EPOCHS, CONFIDENT = 128, 6, 0.9


class Judge(nn.Module):
    """Two convolutions with pooling and a hidden layer: images to logits [B, K]."""

    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i, features in enumerate((32, 64)):
            x = nn.relu(Conv(features, (5, 5), name=f"conv_{i}")(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        h = nn.relu(nn.Dense(128, name="hidden")(x.reshape(len(x), -1)))
        h = nn.Dropout(0.3)(h, deterministic=not train)
        return nn.Dense(self.num_classes, name="out")(h)


def fit(judge: Judge, train: dict[str, np.ndarray]) -> dict:
    """The judge's weights, fitted to uint8 images and their labels."""
    num_steps = EPOCHS * len(train["image"]) // BATCH
    tx = optax.adam(optax.linear_schedule(1e-3, 2e-5, num_steps))
    variables = judge.init(jax.random.key(0), to_float(train["image"][:1]), train=False)

    @jax.jit
    def step(params, opt_state, x, label, key):
        def loss(params):
            logits = judge.apply(params, x, train=True, rngs={"dropout": key})
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            return losses.mean()

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state)
        return optax.apply_updates(params, updates), opt_state

    opt_state, random = tx.init(variables), np.random.RandomState(0)
    keys = jax.random.split(jax.random.key(1), num_steps)
    for key in keys:
        rows = random.randint(len(train["image"]), size=BATCH)
        x, label = to_float(train["image"][rows]), train["label"][rows]
        variables, opt_state = step(variables, opt_state, x, label, key)
    return variables


def to_float(x: np.ndarray) -> jax.Array:
    return images.to_float(jnp.asarray(x))


def main() -> None:
    use_all_cores()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", nargs="+", default=["out/samples.npz"])
    parser.add_argument("--data", default="tfds:mnist", help="config.data.name")
    args = parser.parse_args()
    options = base_config().data
    options.name = args.data
    dataset = data.load(options)
    train, test = dataset.train.columns, dataset.test.columns
    judge = Judge(int(train["label"].max()) + 1)
    variables = fit(judge, train)
    apply = jax.jit(lambda x: jax.nn.softmax(judge.apply(variables, x, train=False)))

    def read(pixels: np.ndarray) -> np.ndarray:
        parts = [pixels[i : i + 1000] for i in range(0, len(pixels), 1000)]
        return np.concatenate([np.asarray(apply(to_float(part))) for part in parts])

    real = read(test["image"])
    report = {
        "accuracy_on_test": float((real.argmax(1) == test["label"]).mean()),
        "confident_on_test": float((real.max(1) >= CONFIDENT).mean()),
    }
    for path in args.samples:
        with np.load(path) as file:
            probabilities = read(file["images"])
        counts = np.bincount(probabilities.argmax(1), minlength=judge.num_classes)
        report[path] = {
            "samples": len(probabilities),
            "confident": float((probabilities.max(1) >= CONFIDENT).mean()),
            "share_of_each_class": (counts / len(probabilities)).round(3).tolist(),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
