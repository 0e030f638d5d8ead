"""What the commands set up, seen from a process of its own."""

import os
import subprocess
import sys

import jax
import pytest

PROGRAM = """
from genjax.train import runtime

runtime.use_all_cores()
import jax
import jax.numpy as jnp

conv = jax.jit(lambda x, k: jax.lax.conv(x, k, (1, 1), "SAME"))
text = conv.lower(jnp.ones((16, 32, 32, 32)), jnp.ones((32, 32, 3, 3))).compile()
print(jax.device_count(), "ynn" in text.as_text())
"""


@pytest.mark.skipif(
    not (0, 10) <= jax.__version_info__ < (0, 13),
    reason="other versions of XLA have no such flag, or another default",
)
@pytest.mark.parametrize(
    "flags, uses_it",
    [
        ("", False),
        ("--xla_cpu_experimental_ynn_fusion_type=INDIVIDUAL_CONVOLUTION", True),
    ],
)
def test_convolutions_stay_with_eigen_unless_the_user_says_otherwise(flags, uses_it):
    flags = f"--xla_force_host_platform_device_count=2 {flags}".strip()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["2", str(uses_it)], done.stderr[-2000:]
