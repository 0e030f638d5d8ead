"""Where arrays live: one mesh, rules for the state, batches split by example."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr
from ml_collections import ConfigDict

from genjax.config import ConfigError

BATCH_AXES = ("data", "fsdp")  # Both split the examples; fsdp splits the state too.


def make_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with axes ("data", "fsdp") of the devices, by default all there are.

    Raises:
        ConfigError: If config.mesh does not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    data, fsdp = config.mesh.data, config.mesh.fsdp
    if data == -1:
        data = len(devices) // fsdp
    if data * fsdp != len(devices):
        raise ConfigError(
            f"config.mesh has data={config.mesh.data}, fsdp={fsdp}, but there are "
            f"{len(devices)} devices; data * fsdp must equal that (data=-1 adapts)"
        )
    return Mesh(np.array(devices).reshape(data, fsdp), BATCH_AXES)


def all_devices() -> Mesh:
    """Every device with a copy of its own, whatever mesh a run was trained on."""
    return Mesh(np.array(jax.devices()).reshape(-1, 1), BATCH_AXES)


def check_batch(config: ConfigDict, mesh: Mesh) -> None:
    """Holds the batch size to the devices and the accumulation.

    Raises:
        ConfigError: With the nearest batch sizes that work.
    """
    size, unit = config.data.batch_size, config.accumulate * mesh.size
    if size % unit:
        below, above = size // unit * unit, -(-size // unit) * unit
        raise ConfigError(
            f"config.data.batch_size={size} is not divisible by {mesh.size} devices x "
            f"config.accumulate={config.accumulate}; the nearest that work: "
            f"{' and '.join(str(b) for b in (below, above) if b)}"
        )


def check_rules(rules: tuple, mesh: Mesh) -> None:
    """Holds config.sharding_rules to their form.

    Raises:
        ConfigError: Unless each is a regex and "largest" or a tuple of axes and None.
    """
    axes = {None, *mesh.shape}
    try:
        for pattern, spec in rules:
            re.compile(pattern)
            if spec != "largest" and (
                isinstance(spec, str) or not axes.issuperset(spec)
            ):
                raise ValueError(f"{spec!r} is neither 'largest' nor a tuple of {axes}")
    except (re.error, TypeError, ValueError) as error:
        raise ConfigError(
            f"config.sharding_rules must hold pairs (regex, spec), got {rules}: {error}"
        ) from None


def state_shardings(state: Any, mesh: Mesh, rules: tuple) -> Any:
    """The sharding of each leaf of a state, by the first rule that matches its path.

    Args:
        state: A tree of arrays or shapes.
        mesh: Where it will live.
        rules: (regex, spec) pairs, as in config.sharding_rules. The path reads like
            ".params['denoiser']['conv_in']['kernel']".

    Raises:
        ConfigError: If a spec asks for a split that the leaf's shape does not allow.
    """

    def place(path: tuple, leaf: Any) -> NamedSharding:
        name = keystr(path)
        for pattern, spec in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, partition(spec, leaf.shape, name))
        return NamedSharding(mesh, PartitionSpec())

    def partition(spec: Any, shape: tuple, name: str) -> PartitionSpec:
        if spec == "largest":
            ways = mesh.shape["fsdp"]
            fits = [d for d in range(len(shape)) if shape[d] % ways == 0 and shape[d]]
            if ways == 1 or not fits:
                return PartitionSpec()
            axis = max(fits, key=lambda d: shape[d])
            return PartitionSpec(*[None] * axis, "fsdp")
        ways = [mesh.shape[axis] if axis else 1 for axis in spec]
        split = dict(zip(range(len(shape)), ways, strict=False))
        if len(spec) > len(shape) or any(shape[d] % w for d, w in split.items()):
            raise ConfigError(
                f"config.sharding_rules: {spec} does not fit {name} of shape {shape} "
                f"on the mesh {dict(mesh.shape)}"
            )
        return PartitionSpec(*spec)

    return jax.tree_util.tree_map_with_path(place, state)


def from_whole(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays over all processes, each of which has the whole of them at hand."""
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda i: x[i]), tree
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, axis: int) -> NamedSharding:
    """Examples spread over all devices, along the given axis."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, BATCH_AXES))


def to_global(batch: Any, sharding: NamedSharding) -> Any:
    """Arrays over all processes from each process's own rows."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x), batch
    )
