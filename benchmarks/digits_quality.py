"""Judges samples of the digits: does an SVM read the asked label, are they as spread?

python sample.py --workdir=runs/ddpm_digits --num=1000 --out=out/
python -m benchmarks.digits_quality --samples=out/samples.npz

Prints the label agreement of an RBF SVM fitted to the real training digits, and the
Frechet distance in pixels (0..16, as in scikit-learn) between samples and held-out
digits, over that between training and held-out digits.
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
    path = parser.parse_args().samples
    options = base_config().data
    digits = data.load(options)
    train, test = (split.columns for split in (digits.train, digits.test))
    with np.load(path) as file:
        if "label" not in file:
            sys.exit(f"error: {path} has no labels: expected a class-conditional model")
        images, label = file["images"], file["label"]

    def flat(x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), -1) * (16 / 255)

    svm = SVC(gamma=0.001).fit(flat(train["image"]), train["label"])
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
