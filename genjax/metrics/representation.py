"""What a latent is good for: units in use, and features for a linear classifier."""

import numpy as np


def active_units(means: np.ndarray, threshold: float = 0.01) -> int:
    """Latent dimensions whose posterior mean depends on the data.

    Args:
        means: E[z | x] of many x, float [N, ...]; all axes but the first are units.
        threshold: Variance over the data above which a unit is active.

    Reference: Burda et al., arXiv:1509.00519, Sec. 5.
    """
    return int((np.var(means.reshape(len(means), -1), axis=0) > threshold).sum())


def linear_probe(
    train_features: np.ndarray,
    train_label: np.ndarray,
    test_features: np.ndarray,
    test_label: np.ndarray,
) -> float:
    """Accuracy in [0, 1] of logistic regression on frozen features.

    Features are standardised by the training set; the regression has scikit-learn's
    default penalty (C = 1).

    Args:
        train_features: Float [N, ...], flattened.
        train_label: int [N].
        test_features: Float [M, ...].
        test_label: int [M].
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(train_features.reshape(len(train_features), -1), train_label)
    return float(probe.score(test_features.reshape(len(test_features), -1), test_label))


def outlier_auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that a datum from inside has the higher likelihood, ties by half.

    1 tells the two sets apart perfectly, 0.5 is chance, and below it the model finds
    the foreign data more likely than its own.

    Args:
        inside: Log-likelihoods of the model's own test data, [N].
        outside: Those of another data set, [M].
    """
    from sklearn.metrics import roc_auc_score

    is_inside = np.repeat([1, 0], [len(inside), len(outside)])
    return float(roc_auc_score(is_inside, np.concatenate([inside, outside])))
