"""Likelihoods in the units of tables."""

from collections.abc import Mapping

from genjax.losses.likelihood import bits_per_dim


def in_bits_per_dim(
    results: Mapping[str, Mapping[str, float]], num_dims: int
) -> dict[str, dict[str, float]]:
    """Adds a "bits_per_dim/x" beside each "nats/x" of an evaluation.

    Args:
        results: {name: {"value", "standard_error" if it has one, ...}}.
        num_dims: Numbers in one example.
    """
    added = {}
    for name, entry in results.items():
        added[name] = dict(entry)
        kind, _, rest = name.partition("/")
        if kind == "nats":
            units = {"value", "standard_error"} & set(entry)
            bits = {k: bits_per_dim(entry[k], num_dims) for k in units}
            added[f"bits_per_dim/{rest}"] = {**entry, **bits}
    return added
