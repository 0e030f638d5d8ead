"""The generic configuration: every field that is not a method's own, with its default.

A recipe in `configs/` starts from `base_config()` and overrides; `check` refuses a
misspelt field with the nearest name. `model`, `sampler`, `likelihood` and the entries
of `optimizers` are passed on as keyword arguments, which `call` checks in the same way.
"""

import ast
import contextlib
import difflib
import functools
import inspect
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


class ConfigError(ValueError):
    """A request that cannot be met; the message says what to change, and where."""


def base_config(variant: str = "") -> ConfigDict:
    """Every generic field and its default; the recipe's starting point.

    Args:
        variant: What the user wrote after the colon of --config=configs/x.py:tiny.

    Raises:
        ConfigError: If that is neither "tiny" nor empty.
    """
    choose({"": None, "tiny": None}, variant, "the variant after the recipe's colon")
    config = ConfigDict()
    config.method = ""  # Module below genjax.methods, such as "diffusion.ddpm".
    config.seed = 0  # Of everything: weights, data order, noise.
    config.num_steps = 0  # Train steps; a method without players takes none.
    config.dtype = "float32"  # Of the computation, or "bfloat16"; weights are float32.

    config.data = ConfigDict()
    config.data.name = "digits"  # digits, tfds:<name>, folder:<path>, synthetic:<name>.
    config.data.data_dir = placeholder(str)  # Of TFDS; None reads TFDS_DATA_DIR.
    config.data.batch_size = 128  # Examples per update, over all devices.
    config.data.random_flip = False  # Mirrors images left to right, half the time.
    config.data.image_size = placeholder(
        tuple
    )  # (H, W) to resize a folder's images to.
    config.data.on_bad_file = "skip"  # Or "fail": what an unreadable file does.
    config.data.test_fraction = 0.1  # Held out where a folder has no test split.
    # Batches prepared at a time, per process; -1: one a core, or 1 from memory.
    config.data.num_threads = -1
    config.data.shape = placeholder(tuple)  # Found in the data: (H, W, C).
    config.data.num_classes = placeholder(int)  # Found in the data.

    config.model = ConfigDict()  # The method's keyword arguments.
    config.optimizers = ConfigDict()  # {player: arguments of train.optimizers.make}.
    config.sampler = ConfigDict()  # The sampler's keyword arguments.
    config.likelihood = ConfigDict()  # Those of the likelihood's estimate, if any.
    config.accumulate = 1  # Micro-batches that one update averages over.
    config.remat = False  # Keep blocks' inputs alone, and compute the rest again.
    config.ema = ConfigDict()
    config.ema.networks = ()  # Networks to keep an average of; it is what samples.
    config.ema.decay = 0.9999
    config.ema.warmup = True  # Decay min(decay, (1 + step) / (10 + step)).

    # Overrides, one dict a phase: ({"num_steps": 10}, {"data.image_size": (8, 8)}).
    config.phases = ()
    config.init_from = ()  # Trained runs to start from: dict(workdir, step, rename).

    config.log_every = 100  # Steps between lines in metrics.jsonl.
    config.sample_every = 1000  # Steps between sample grids; 0 draws none.
    config.num_samples = 64  # Images in such a grid.
    config.eval_every = 0  # Steps between evaluations on the test split; 0 makes none.
    config.eval_examples = 1024  # Test examples that one such evaluation reads.
    config.eval_samples = 0  # Samples drawn at each evaluation to measure; 0: none.
    config.eval_features = ""  # Also by these features: "cnn" or "inception".
    config.max_bad_steps = 10  # Non-finite steps in a row that end the run.
    config.checkpoint = ConfigDict()
    config.checkpoint.every = 1000  # Steps between checkpoints.
    config.checkpoint.keep = 2  # Newest ones kept.
    config.checkpoint.keep_period = (
        0  # Steps whose multiples are kept for ever; 0: none.
    )
    config.checkpoint.best_metric = (
        ""  # Such as "test/denoiser/loss"; "" keeps no best.
    )
    config.checkpoint.best_mode = "min"  # Or "max".

    config.mesh = ConfigDict()
    config.mesh.data = -1  # Devices that hold a copy; -1: all that fsdp leaves.
    config.mesh.fsdp = 1  # Devices that parameters and optimiser state are split over.
    # (path regex, spec): the first rule that matches a leaf places it. "largest" splits
    # the largest dimension that fsdp divides; a tuple names a mesh axis per dimension.
    config.sharding_rules = ((".*", "largest"),)
    return config


# Of the generic fields that are numbers, the least and the largest. A step is an int32.
RANGES = {
    "seed": (0, 2**31 - 1),
    "num_steps": (0, 2**31 - 1),
    "data.batch_size": (1, 2**24),
    "data.num_threads": (-1, 1024),
    "data.test_fraction": (0, 1),
    "accumulate": (1, 2**24),
    "ema.decay": (0, 1),
    "log_every": (1, 2**31 - 1),
    "sample_every": (0, 2**31 - 1),
    "num_samples": (1, 2**24),
    "eval_every": (0, 2**31 - 1),
    "eval_examples": (1, 2**31 - 1),
    "eval_samples": (0, 2**24),
    "max_bad_steps": (1, 2**31 - 1),
    "checkpoint.every": (1, 2**31 - 1),
    "checkpoint.keep": (1, 2**31 - 1),
    "checkpoint.keep_period": (0, 2**31 - 1),
    "mesh.data": (-1, 2**24),
    "mesh.fsdp": (1, 2**24),
}
# Fields that may be None, and what else they are.
NONE = {
    "data.data_dir": str,
    "data.shape": tuple,
    "data.num_classes": int,
}
MAX_EXAMPLE = 2**28  # Numbers in one example: an image of 8192 x 8192 in colour fits.
# Whole numbers of the method, by the last words of their names; the first that fits
# holds. What is repeated is traced so many times, what steps makes tables so long.
LARGEST = (
    (("blocks", "layers", "levels", "couplings", "scales", "down", "iterations"), 1000),
    (("masks", "exact", "exact_eval"), 1000),
    (("steps", "temperatures"), 100_000),
    (("",), 2**24),
)
# Sections whose fields others check.
OPEN = ("model", "optimizers", "sampler", "likelihood")


def check(config: ConfigDict) -> None:
    """Holds the generic fields to their names and ranges.

    Raises:
        ConfigError: For a field that there is not, or a number out of range.
    """
    base = base_config()
    for name in config:
        known, found = list(base), [name]
        section = isinstance(base.get(name), ConfigDict)
        if section and not isinstance(config[name], ConfigDict):
            raise ConfigError(
                f"config.{name} must be a dict of fields, got {shown(config[name])}"
            )
        if section and name not in OPEN:
            known = [f"{name}.{field}" for field in base[name]]
            found = [f"{name}.{field}" for field in config[name]]
            if missing := [field for field in known if field not in found]:
                raise ConfigError(
                    f"config.{missing[0]} is not there: change single fields, as with "
                    f"config.{name}.update(...), and leave the others"
                )
        if unknown := [field for field in found if field not in known]:
            raise ConfigError(
                f"config has no field {shown(unknown[0])}{nearest(unknown[0], known)} "
                f"There are: {', '.join(known)}"
            )
    if missing := [name for name in base if name not in config]:
        raise ConfigError(f"config.{missing[0]} is not there: start from base_config()")
    for path, default in flatten(base.to_dict()).items():
        if path.split(".")[0] not in OPEN and path != "data.image_size":
            check_field(path, get(config, path), default)
    size = config.data.image_size  # The command line makes tuples of one.
    sizes = size if isinstance(size, (tuple, list)) else (size,)
    if tuple(sizes) != (None,):
        check_counts("config.data.image_size", sizes)
    for section in ("model", "sampler", "likelihood"):
        check_sizes(config[section].to_dict(), f"config.{section}")
    modes = {"min": None, "max": None}
    choose(modes, config.checkpoint.best_mode, "config.checkpoint.best_mode")


def check_sizes(value: Any, where: str) -> None:
    """Holds what a method's fields contain to sizes that can be traced and allocated.

    Raises:
        ConfigError: For a number, a text or a sequence that is too large.
    """
    if isinstance(value, Mapping):
        for name, entry in value.items():
            check_sizes(entry, f"{where}.{shown(name).strip(chr(39))}")
    elif isinstance(value, (str, bytes, tuple, list)):
        if len(value) > 10_000:
            raise ConfigError(f"{where} must have at most 10000 entries or letters")
        for entry in value if isinstance(value, (tuple, list)) else ():
            check_sizes(entry, where)
    elif isinstance(value, int):
        name = where.split(".")[-1]
        most = next(most for ends, most in LARGEST if name.endswith(ends))
        if abs(value) > most:
            raise ConfigError(f"{where} must be at most {most}, got {shown(value)}")


def check_field(path: str, value: Any, default: Any) -> None:
    """Holds a generic field to the type of its default, and to its range.

    Raises:
        ConfigError: With what is expected and what was found.
    """
    if value is None and path in NONE:
        return
    kind = NONE.get(path, type(default))
    expected, good = {
        int: ("a whole number", isinstance(value, int) and not isinstance(value, bool)),
        float: ("a number", is_number(value)),
        bool: ("True or False", isinstance(value, bool)),
        str: ("a text", isinstance(value, str)),
        tuple: ("a tuple", isinstance(value, (tuple, list))),
    }[kind]
    if not good:
        raise ConfigError(f"config.{path} must be {expected}, got {shown(value)}")
    least, most = RANGES.get(path, (None, None))
    if least is not None and not least <= value <= most:
        side = f"at least {least}" if value < least else f"at most {most}"
        raise ConfigError(f"config.{path} must be {side}, got {shown(value)}")
    if path == "data.shape":
        check_counts(f"config.{path}", value)
    if path == "ema.networks" and not all(isinstance(name, str) for name in value):
        raise ConfigError(f"config.{path} must hold names, got {shown(value)}")
    if path == "init_from" and not all(isinstance(x, Mapping) for x in value):
        raise ConfigError(f"config.{path} must hold dicts, got {shown(value)}")


def check_counts(what: str, value: Sequence[Any]) -> None:
    """Raises ConfigError unless these are whole numbers from 1 on, of small product."""
    for size in value:
        check_count(f"each number of {what}", size)
    if math.prod(value) > MAX_EXAMPLE:
        raise ConfigError(
            f"{what} must describe at most {MAX_EXAMPLE} numbers, got {shown(value)}"
        )


def is_number(value: Any) -> bool:
    """Whether it is an int or a finite float, and no bool."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and abs(value) < math.inf
    )


def shown(value: Any) -> str:
    """A value in a message, in one line of bounded length."""
    try:
        text = repr(value)
    except Exception:  # An int of more than 4,300 digits, for one.
        text = f"a {type(value).__name__}"
    return text if len(text) < 200 else f"{text[:200]}..."


@contextlib.contextmanager
def explained(where: str) -> Iterator[None]:
    """Whatever fails within, because a config asks for it, becomes a ConfigError.

    Args:
        where: The place in the config, such as "config.model".

    Raises:
        ConfigError: For any other error, with what it says and the innermost line of
            ours that led to it; the error is its cause.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        lines = (str(error).strip() or "no more is known").splitlines()
        raise ConfigError(
            f"{where} cannot work: {type(error).__name__}: {lines[0][:500]}"
            + origin(error)
        ) from error


def origin(error: BaseException) -> str:
    """ " (networks/mlp.py, line 33)": the innermost line of this package, if any."""
    root = Path(__file__).parent
    lines = [
        f" ({path.relative_to(root).as_posix()}, line {frame.lineno})"
        for frame in traceback.extract_tb(error.__traceback__)
        if (path := Path(frame.filename)).is_relative_to(root) and path.parent != root
    ]
    return lines[-1] if lines else ""


def get(config: ConfigDict, path: str) -> Any:
    """The value at a path such as "data.batch_size"."""
    return functools.reduce(getattr, path.split("."), config)


def nearest(name: str, known: list[str]) -> str:
    """How a sentence ends: "; did you mean 'x'?" if a known name is near, or "."."""
    close = difflib.get_close_matches(str(name)[:200], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def call(
    fn: Callable,
    arguments: Mapping[str, Any],
    *args: Any,
    where: str,
    beside: Sequence[str] = (),
) -> Any:
    """Calls fn(*args, **arguments), refusing what `check_arguments` refuses.

    Args:
        fn: A function or a linen module whose keyword arguments a config sets.
        arguments: What the config says.
        *args: Positional arguments that are not the config's business.
        where: The place in the config, such as "config.model", for the message.
        beside: Further fields of that place, which the caller has taken out already.

    Raises:
        ConfigError: See `check_arguments`.
    """
    check_arguments(fn, arguments, *args, where=where, beside=beside)
    return fn(*args, **arguments)


def check_arguments(
    fn: Callable,
    arguments: Mapping[str, Any],
    *args: Any,
    where: str,
    beside: Sequence[str] = (),
) -> None:
    """Holds the keyword arguments that a config gives to fn's signature; see `call`.

    Raises:
        ConfigError: If an argument is unknown, a needed one is missing, or one that is
            True or False is something else.
    """
    signature = inspect.signature(fn)
    parameters = list(signature.parameters.values())[len(args) :]
    open_ended = any(p.kind == p.VAR_KEYWORD for p in parameters)
    linen = ("parent", "name") if inspect.isclass(fn) else ()
    known = [p.name for p in parameters if p.name not in linen]
    for name in arguments:
        if name not in known and not open_ended:
            raise ConfigError(
                f"{where} has no field {shown(name)}{nearest(name, [*known, *beside])} "
                f"Its fields: {', '.join([*known, *beside]) or 'none'}"
            )
    for p in parameters:
        value = arguments.get(p.name, p.default)
        if isinstance(p.default, bool) and not isinstance(value, bool):
            raise ConfigError(
                f"{where}.{p.name} must be True or False, got {shown(value)}"
            )
    try:
        signature.bind(*args, **arguments)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None


def overrides(words: Sequence[str], *sections: str) -> dict[str, dict[str, Any]]:
    """{"sampler": {"num_steps": 50}} from ["--sampler.num_steps=50"].

    Values are Python literals, true, false or none; anything else is a word.

    Args:
        words: What a command was given.
        *sections: Of the config, such as "sampler"; each is in the result.

    Raises:
        ConfigError: For an argument that is not of a section.
    """
    values: dict[str, dict[str, Any]] = {section: {} for section in sections}
    for word in words:
        path, found, value = word.removeprefix("--").partition("=")
        section, dot, name = path.partition(".")
        if not (word.startswith("--") and found and dot and section in values):
            known = " or ".join(f"--{section}.name=value" for section in sections)
            raise ConfigError(
                f"unknown argument {word!r}; beside those of --help there is {known}, "
                "for fields of the config"
            )
        constants = {"true": "True", "false": "False", "none": "None"}
        try:
            values[section][name] = ast.literal_eval(
                constants.get(value.lower(), value)
            )
        except (SyntaxError, ValueError):
            values[section][name] = value
    return values


def check_count(what: str, value: Any) -> None:
    """Raises ConfigError unless the value is a whole number from 1 on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(
            f"{what} must be a whole number from 1 on, got {shown(value)}"
        )


def choose(options: Mapping[str, Any], name: str, where: str) -> Any:
    """options[name], or a ConfigError that lists what there is."""
    if not isinstance(name, str) or name not in options:
        raise ConfigError(
            f"{where} must be one of {sorted(options)}, got {shown(name)}"
            f"{nearest(str(name), list(options))}"
        )
    return options[name]


def compute_dtype(config: ConfigDict) -> str:
    """The name of the dtype that networks compute in, config.dtype, checked."""
    choose({"float32": None, "bfloat16": None}, config.dtype, "config.dtype")
    return config.dtype


def plain(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON values: what is saved, compared and read back."""
    import json

    return json.loads(config.to_json())


def from_plain(values: Mapping[str, Any]) -> ConfigDict:
    """The locked config that `plain` came from, with lists turned to tuples."""

    def restore(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: restore(v) for k, v in value.items()}
        return tuple(map(restore, value)) if isinstance(value, list) else value

    return ConfigDict(restore(values)).lock()


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, for showing and comparing configs."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def phases(config: ConfigDict) -> list[ConfigDict]:
    """One complete config for each phase of training, in order.

    A path names a field, as "data.batch_size" does, or a section: a dict changes the
    fields it names, but takes the place of all of "model", "sampler", an optimiser and
    what lies in them.

    Raises:
        ConfigError: If an override names a field that the config lacks, or is none.
    """
    check(config)
    result = []
    for overrides in config.phases or ({},):
        if not isinstance(overrides, Mapping):
            raise ConfigError(
                "config.phases must hold one dict of overrides for each phase, such as "
                f"{{'num_steps': 10}}, got {shown(overrides)}"
            )
        phase = config.copy_and_resolve_references()
        for path, value in overrides.items():
            if not isinstance(path, str):
                raise ConfigError(f"config.phases: {shown(path)} must name a field")
            if isinstance(value, Mapping) and path.split(".")[0] not in OPEN:
                value = flatten(value, f"{path}.")
            else:
                value = {path: value}
            try:
                phase.update_from_flattened_dict(value)
            except (KeyError, AttributeError, TypeError, ValueError) as error:
                raise ConfigError(f"config.phases: {path!r}: {error}") from None
        result.append(phase)
    return result
