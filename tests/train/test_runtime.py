"""What the commands set up, seen from a process of its own."""

import os
import subprocess
import sys

import jax
import pytest

from genjax.train.runtime import has_avx512

PROGRAM = """
from genjax.train import runtime

runtime.use_all_cores()
import jax
import jax.numpy as jnp


def uses_it(f, *args):
    return "ynn" in jax.jit(f).lower(*args).compile().as_text()


print(
    jax.device_count(),
    uses_it(
        lambda x, k: jax.lax.conv(x, k, (1, 1), "SAME"),
        jnp.ones((16, 32, 32, 32)),
        jnp.ones((32, 32, 3, 3)),
    ),
    uses_it(jnp.sum, jnp.ones((1024, 1024))),
    uses_it(jnp.matmul, jnp.ones((512, 512)), jnp.ones((512, 512))),
)
"""


@pytest.mark.skipif(
    not (0, 10) <= jax.__version_info__ < (0, 13),
    reason="other versions of XLA have no such flag, or another default",
)
@pytest.mark.parametrize(
    "flags, convolutions, others",
    [
        ("", False, has_avx512()),
        ("--xla_cpu_experimental_ynn_fusion_type=INDIVIDUAL_CONVOLUTION", True, False),
    ],
)
def test_convolutions_stay_with_eigen_unless_the_user_says_otherwise(
    flags, convolutions, others
):
    flags = f"--xla_force_host_platform_device_count=2 {flags}".strip()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    found = ["2", str(convolutions), str(others), str(others)]
    assert done.stdout.split() == found, done.stderr[-2000:]
