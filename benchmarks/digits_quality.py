"""Judges samples of the digits: does an SVM read the asked label, are they as spread?

python sample.py --workdir=runs/ddpm_digits --num=1000 --out=out/
python -m benchmarks.digits_quality --samples=out/samples.npz [--data=tfds:mnist]

Prints the label agreement of an RBF SVM fitted to the real training digits, 10,000 at
most, and the Frechet distance in pixels (0..16, as in scikit-learn) between samples and
held-out digits, over that between training and held-out digits. With 784 pixels the
ratio needs many more samples than a thousand to mean something.
"""

import argparse
import json
import sys

import numpy as np
from sklearn.svm import SVC

from genjax import data
from genjax.config import base_config
from genjax.metrics.frechet import distance_of_samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", default="out/samples.npz")
    parser.add_argument("--data", default="digits", help="config.data.name")
    args = parser.parse_args()
    path, options = args.samples, base_config().data
    options.name = args.data
    real_digits = data.load(options)
    train, test = (
        {name: column[:10_000] for name, column in split.columns.items()}
        for split in (real_digits.train, real_digits.test)
    )
    with np.load(path) as file:
        if "label" not in file:
            sys.exit(f"error: {path} has no labels: expected a class-conditional model")
        images, label = file["images"], file["label"]

    def flat(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1) * (16 / 255)

    svm = SVC(gamma=0.001 if args.data == "digits" else "scale")
    svm.fit(flat(train["image"]), train["label"])
    real = svm.score(flat(test["image"]), test["label"])
    agreement = svm.score(flat(images), label)
    distance = distance_of_samples(flat(images), flat(test["image"]))
    floor = distance_of_samples(flat(train["image"]), flat(test["image"]))
    report = {
        "samples": len(images),
        "label_agreement": agreement,
        "label_agreement_of_real_test_digits": real,
        "frechet_samples_to_test": distance,
        "frechet_train_to_test": floor,
        "ratio": distance / floor,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
