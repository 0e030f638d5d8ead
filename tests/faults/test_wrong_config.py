"""Configs that cannot work are refused before the run's folder is made.

That comes before all compilation. tests/train/test_loop.py has misspelt names.
"""

import importlib

import pytest
import runs

from genjax import config as configs
from genjax.config import ConfigError
from genjax.train import checkpoints, loop, memory, phases


def changed(recipe: str, **fields: object):
    """The tiny recipe with fields such as data__batch_size=9, of any type."""
    config = importlib.import_module(f"configs.{recipe}").get_config("tiny")
    for path, value in fields.items():
        *parents, name = path.split("__")
        section = config
        for parent in parents:
            section = section[parent]
        with section.unlocked(), section.ignore_type():
            section[name] = value
    return config


GENERIC = sorted(
    path
    for path in configs.flatten(configs.base_config().to_dict())
    if path.split(".")[0] not in configs.OPEN
)


@pytest.mark.parametrize("path", GENERIC)
def test_every_generic_field_has_a_type(path, tmp_path):
    """Neither an object of another type nor a number that is none gets through."""
    for value in ({"a": 1}, b"x", float("nan"), object()):
        field = {path.replace(".", "__"): value}
        with pytest.raises(ConfigError, match=path.replace(".", r"\.")):
            loop.train(changed("vae_digits", **field), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("path", sorted(configs.RANGES))
def test_every_number_has_a_range(path, tmp_path):
    least, most = configs.RANGES[path]
    wrong = [(least - 1, "at least"), (most + 1, "at most")]
    if most > 1:  # Where numbers may have a fraction a ConfigDict makes 1.0 of True.
        wrong += [(True, "number"), (2.5, "number")]
    for value, words in wrong:
        field = {path.replace(".", "__"): value}
        with pytest.raises(ConfigError, match=f"config.{path} must be .*{words}"):
            loop.train(changed("vae_digits", **field), tmp_path / "run")
    assert not (tmp_path / "run").exists()


BROKEN = [
    # What the method checks itself, and what breaks only where it is traced.
    ("vae_digits", {"model__latent_features": -1}, "latent_features must be"),
    ("vae_digits", {"model__network__features": (-16,)}, "networks/mlp.py, line"),
    ("vae_digits", {"model__network__features": "abc"}, "config.model"),
    ("vae_digits", {"model__network__features": (2.5,)}, "config.model"),
    ("vae_digits", {"model__network": 5}, "config.model"),
    ("vae_digits", {"model__network__name": ("mlp",)}, "network.name must be one"),
    ("vae_digits", {"model": {}}, "latent_features"),
    ("ddpm_digits", {"model__network__features": 0}, "config.model"),
    ("ddpm_digits", {"model__network__num_heads": 0}, "config.model"),
    ("ddpm_digits", {"model__network__multipliers": ()}, "config.model"),
    ("ddpm_digits", {"model__network__dropout": "much"}, "config.model"),
    ("ddpm_digits", {"model__schedule__num_steps": 10**12}, "at most 100000"),
    ("glow_digits", {"model__num_steps": -1}, "config.model"),
    ("dcgan_digits", {"model__latent_features": 0}, "config.model"),
    ("made_digits", {"model__features": (0,)}, "config.model"),
    ("image_transformer_digits", {"model__network__num_heads": 0}, "config.model"),
    # A field of the optimiser that only its update uses.
    ("vae_digits", {"optimizers__vae__b1": "x"}, "config.optimizers"),
    ("vae_digits", {"optimizers__vae__learning_rate": float("nan")}, "learning_rate"),
    ("vae_digits", {"optimizers__vae__warmup_steps": 1.5}, "warmup_steps must be"),
    # Other sections, and fields that contradict each other.
    ("vae_digits", {"phases": ({5: 5},)}, "must name a field"),
    ("vae_digits", {"ema__networks": (5,)}, "must hold names"),
    ("vae_digits", {"init_from": ("run",)}, "must hold dicts"),
    ("vae_digits", {"sharding_rules": ((".*", (None,) * 9),)}, "does not fit"),
    ("vae_digits", {"data__image_size": (10**6, 10**6)}, "at most"),
    ("vae_digits", {"eval_every": 2, "eval_samples": 1}, "at least 2"),
    ("vae_digits", {"mesh__data": 2, "mesh__fsdp": 2}, "devices"),
    # More than there is memory, which nothing but its size tells.
    ("vae_digits", {"model__network__features": (2**24,) * 2}, "bytes on each device"),
    ("vae_digits", {"data__image_size": 4096}, "image_size"),
    # What would be traced for hours.
    ("gated_pixelcnn_digits", {"model__network__num_blocks": 10**9}, "at most 1000"),
    ("glow_digits", {"model__num_steps": 10**9}, "at most 100000"),
    ("ddpm_digits", {"model__network__multipliers": (1,) * 10**5}, "at most 10000"),
]


@pytest.mark.parametrize("recipe, fields, words", BROKEN)
def test_what_breaks_shapes_is_refused(recipe, fields, words, tmp_path):
    """In one line."""
    with pytest.raises(ConfigError, match=words) as error:
        loop.train(changed(recipe, **fields), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_what_fits_is_traced_once(tmp_path, monkeypatch):
    """The check of the train step costs no time: the loop compiles that very trace."""
    traced = []
    original = phases.make_train_step

    def make(*args):
        step = original(*args)

        def counted(*args):
            traced.append(step)
            return step(*args)

        return counted

    monkeypatch.setattr(phases, "make_train_step", make)
    loop.train(changed("vae_digits", sample_every=0, eval_every=0), tmp_path / "run")
    assert len(traced) == 1
    assert checkpoints.load_weights(tmp_path / "run").step == 2


def test_memory_is_asked_of_the_machine(monkeypatch):
    (phase,) = phases.build(changed("vae_digits"))
    phases.check_shapes(phase)
    monkeypatch.setattr(memory, "host_memory", lambda: 10_000)
    with pytest.raises(ConfigError, match="each device, which has 10,000"):
        phases.check_shapes(phase)


@pytest.mark.parametrize(
    "flags",
    [
        ["--config.num_steps=abc"],
        ["--config.model.network.features=abc"],
    ],
)
def test_the_command_says_so_in_a_line(tmp_path, flags):
    """Exit code 1, no traceback, no folder."""
    code, said = runs.finish([*runs.words(tmp_path / "run"), *flags])
    assert code == 1 and "Traceback" not in said
    assert len([line for line in said.splitlines() if "rror" in line]) == 1
    assert not (tmp_path / "run").exists()
