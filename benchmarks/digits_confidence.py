"""Judges samples of MNIST: how surely does a small CNN read them, and as which digits?

python sample.py --workdir=runs/dcgan_mnist --num=10000 --step=best --out=out/
python -m benchmarks.digits_confidence --samples=out/samples.npz [--data=tfds:mnist]

The CNN is `metrics.features.Classifier`, fitted to the training split or taken from the
cache. Prints its accuracy on the test split, the share of test images and of samples
that it reads with a probability of at least 0.9, and the share of each class among the
samples. The samples need no labels.
"""

import argparse
import json

import numpy as np

from genjax import data
from genjax.config import base_config
from genjax.train import quality
from genjax.train.runtime import use_all_cores

CONFIDENT = 0.9


def main() -> None:
    use_all_cores()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", nargs="+", default=["out/samples.npz"])
    parser.add_argument("--data", default="tfds:mnist", help="config.data.name")
    args = parser.parse_args()
    options = base_config().data
    options.name = args.data
    dataset = data.load(options)
    network = quality.make_network("cnn", dataset, args.data)
    real = network(dataset.test.columns["image"])[1]
    report = {
        "network_hash": network.hash,
        "accuracy_on_test": network.accuracy,
        "confident_on_test": float((real.max(1) >= CONFIDENT).mean()),
    }
    for path in args.samples:
        with np.load(path) as file:
            probabilities = network(file["images"])[1]
        counts = np.bincount(probabilities.argmax(1), minlength=real.shape[1])
        report[path] = {
            "samples": len(probabilities),
            "confident": float((probabilities.max(1) >= CONFIDENT).mean()),
            "share_of_each_class": (counts / len(probabilities)).round(3).tolist(),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
