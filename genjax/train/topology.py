"""A train step compiled for a TPU slice that is not at hand, and what it would take.

`estimate` compiles ahead of time by the `libtpu` of the tpu extra, which needs no TPU,
and reads memory, work and traffic off the program. Nothing runs.
"""

import importlib.util
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies
from jax.extend.core import ClosedJaxpr, Jaxpr
from ml_collections import ConfigDict

from genjax.config import ConfigError, check, choose
from genjax.train.memory import WHAT_SAVES_MEMORY, is_exhausted
from genjax.train.phases import (
    Phase,
    abstract_batch,
    abstract_state,
    build,
    jit_train_step,
)
from genjax.train.sharding import replicated


@dataclass(frozen=True)
class Chip:
    """What a chip can do at most, by Google Cloud's documentation of it.

    Attributes:
        accelerator: What libtpu calls the smallest host of it.
        memory: Bytes of HBM.
        flops: FLOP a second, bfloat16; float32 products take this path too unless
            jax_default_matmul_precision says otherwise.
        bandwidth: Bytes a second between chip and HBM.
        links: Bytes a second that it sends over all its links to other chips, half of
            the bidirectional figure.
    """

    accelerator: str
    memory: float
    flops: float
    bandwidth: float
    links: float


CHIPS = {
    "v5e": Chip("v5litepod-8", 16 * 2**30, 197e12, 819e9, 200e9),
    "v5p": Chip("v5p-8", 95 * 2**30, 459e12, 2765e9, 600e9),
    "v6e": Chip("v6e-8", 32 * 2**30, 918e12, 1638e9, 400e9),
}


def slice_of(topology: str) -> tuple[Chip, list[jax.Device]]:
    """The kind of chip and the devices of a slice such as "v5e:16x16".

    To be called before JAX is first used, which is then held to the CPU.

    Raises:
        ConfigError: If there is no such slice, or no libtpu to compile with.
    """
    name, _, shape = topology.partition(":")
    chip = choose(CHIPS, name, "--compile_for, before the colon,")
    if not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise ConfigError(
            f"--compile_for must name a slice like v5e:16x16, got {topology!r}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "--compile_for compiles with libtpu, which is not installed: "
            "pip install '.[tpu]'"
        )
    jax.config.update("jax_platforms", "cpu")
    # There is no TPU host to be asked, and no chip to quarrel about.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", chip.accelerator)
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    try:
        devices = topologies.get_topology_desc(topology, platform="tpu").devices
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"--compile_for={topology}: {first}") from None
    return chip, list(devices)


def report(config: ConfigDict, topology: str) -> str:
    """What each phase of a run would take on the slice.

    A batch that the chips do not divide is enlarged until they do.

    Raises:
        ConfigError: If the config or the slice cannot work, or memory does not suffice.
    """
    check(config)
    chip, devices = slice_of(topology)
    config, notes = config.copy_and_resolve_references(), []
    unit, size = len(devices) * config.accumulate, config.data.batch_size
    if size % unit:
        config.data.batch_size = -(-size // unit) * unit
        notes.append(
            f"note: {len(devices)} chips x config.accumulate={config.accumulate} do "
            f"not divide the batch of {size}; this is for "
            f"--config.data.batch_size={config.data.batch_size}"
        )
    for phase in build(config, devices):
        name = f"{phase.config.method}, phase {phase.index}, on {topology}"
        if phase.method.players:
            notes.append(describe(name, estimate(phase, chip)))
        else:
            notes.append(f"{name}: trains nothing")
    return "\n".join(notes)


# To compile as well as can be takes ten times as long or, for a chip's worth of images,
# without end.
QUICKLY = {"exec_time_optimization_effort": -1.0}


@dataclass(frozen=True)
class Collective:
    """A kind of exchange between the chips in one step.

    Attributes:
        count: How often.
        payload: Bytes of the whole arrays that are reduced or gathered.
        sent: Bytes that a chip sends, by a ring.
    """

    count: int
    payload: float
    sent: float


@dataclass(frozen=True)
class Cost:
    """What a train step takes; memory, traffic and time are of one chip.

    Attributes:
        mesh: Chips along each axis.
        batch_size: Examples of an update, over all chips.
        state: Bytes of parameters, optimiser state and the rest of the state.
        arguments: Bytes of state and batch.
        temporaries: Bytes of activations and buffers.
        peak: Bytes at the worst moment, the program's own code included.
        flops: Of matrix products and convolutions, over all chips.
        accessed: Bytes that operations read and write, where a loop's body counts once.
        collectives: By kind.
        chip: What it was compiled for.
    """

    mesh: Mapping[str, int]
    batch_size: int
    state: float
    arguments: float
    temporaries: float
    peak: float
    flops: float
    accessed: float
    collectives: Mapping[str, Collective]
    chip: Chip

    @property
    def chips(self) -> int:
        """All of them."""
        return math.prod(self.mesh.values())

    @property
    def seconds(self) -> dict[str, float]:
        """What each resource needs for a step, were it alone.

        That of the HBM is the most: it takes what stays on the chip between two
        operations for traffic.
        """
        sent = sum(kind.sent for kind in self.collectives.values())
        return {
            "compute": self.flops / self.chips / self.chip.flops,
            "HBM": self.accessed / self.chip.bandwidth,
            "links": sent / self.chip.links,
        }


def estimate(phase: Phase, chip: Chip) -> Cost:
    """Compiles the phase's train step for its mesh.

    Raises:
        ConfigError: If a chip's memory does not hold it, with what to change.
    """
    state, batch = abstract_state(phase), abstract_batch(phase)
    key = jax.eval_shape(jax.random.key, 0)
    whole = replicated(phase.mesh)
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=whole)
    step = jit_train_step(phase, state)
    traced = step.trace(state, batch, key)
    try:
        platform = phase.mesh.devices.flat[0].platform
        lowered = traced.lower(lowering_platforms=(platform,))
        compiled = lowered.compile(QUICKLY if platform == "tpu" else None)
    except jax.errors.JaxRuntimeError as error:
        if not is_exhausted(error):
            raise
        raise ConfigError(too_large(str(error).splitlines()[0].rstrip("."))) from None
    memory = compiled.memory_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes
    kept -= memory.alias_size_in_bytes
    peak = kept + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    if peak > chip.memory:
        raise ConfigError(
            too_large(f"{gib(peak)} are needed, and a chip has {gib(chip.memory)}")
        )
    return Cost(
        mesh=dict(phase.mesh.shape),
        batch_size=phase.config.data.batch_size,
        state=sum(shard_bytes(x) for x in jax.tree.leaves(state)),
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=peak,
        flops=count_flops(traced.jaxpr.jaxpr),
        accessed=compiled.cost_analysis()["bytes accessed"],
        collectives=find_collectives(compiled.as_text()),
        chip=chip,
    )


def too_large(found: str) -> str:
    """What to change when memory does not suffice."""
    return (
        f"the step does not fit into a chip's memory: {found}. Take more chips, or "
        + WHAT_SAVES_MEMORY
    )


def describe(name: str, cost: Cost) -> str:
    """The cost in words and figures, a line for each thing asked."""
    chip, seconds = cost.chip, cost.seconds
    kinds = [
        f"{kind} {c.count} x, {c.payload / 1e6:,.2f} MB ({c.sent / 1e6:,.2f} sent)"
        for kind, c in cost.collectives.items()
    ]
    times = ", ".join(f"{k} {1e3 * v:.3g}" for k, v in seconds.items())
    least, most = max(seconds["compute"], seconds["links"]), max(seconds.values())
    mfu = [100 * seconds["compute"] / t if t else 0.0 for t in (most, least)]
    rows = {
        "chips": f"{cost.chips}, mesh {cost.mesh}",
        "batch": f"{cost.batch_size:,}, {cost.batch_size / cost.chips:g} a chip",
        "HBM a chip": f"{gib(cost.peak)} of {gib(chip.memory)} at the peak: arguments "
        f"{gib(cost.arguments)} (state {gib(cost.state)}), temporaries "
        f"{gib(cost.temporaries)}",
        "work": f"{cost.flops:.4g} FLOP in matrix products and convolutions",
        "collectives": "; ".join(kinds) or "none",
        "roofline": f"{1e3 * least:.3g} to {1e3 * most:.3g} ms a step ({times}), MFU "
        f"{mfu[0]:.0f} to {mfu[1]:.0f} %",
        "assumed": f"{chip.flops / 1e12:g} TFLOP/s, HBM {chip.bandwidth / 1e9:g} GB/s, "
        f"links {chip.links / 1e9:g} GB/s out, all at once; least: nothing but "
        "products and exchanges, most: every operand comes from HBM",
    }
    return "\n".join([name, *(f"  {k:12} {v}" for k, v in rows.items())])


def gib(num: float) -> str:
    """Bytes in words."""
    return f"{num / 2**30:.3f} GiB"


def shard_bytes(x: jax.ShapeDtypeStruct) -> int:
    """Of an array's share that lies on one device."""
    shape = x.sharding.shard_shape(x.shape)
    return math.prod(shape) * x.dtype.itemsize


def count_flops(jaxpr: Jaxpr) -> float:
    """FLOP of the matrix products and convolutions in a program, two a multiplication.

    All that is written down counts, used or not. Loops of known length count every
    turn, others one; of branches the dearest counts, but of those for a platform the
    default, which is what chips take.
    Zeros put between the pixels of a strided convolution's cotangent do not count,
    those around an image do.
    """
    total = 0.0
    for eqn in jaxpr.eqns:
        shapes = [getattr(v.aval, "shape", ()) for v in eqn.invars]
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            depth = math.prod(shapes[0][d] for d in contracted)
            total += 2.0 * eqn.outvars[0].aval.size * depth
        elif eqn.primitive.name == "conv_general_dilated":
            outputs = shapes[1][eqn.params["dimension_numbers"].rhs_spec[0]]
            depth = math.prod(shapes[1]) / outputs
            depth /= math.prod(eqn.params["lhs_dilation"])
            total += 2.0 * eqn.outvars[0].aval.size * depth
        elif plain := getattr(eqn.primitive, "plain", None):
            inner = jax.make_jaxpr(lambda *x, f=plain, e=eqn: f(*x, **e.params))
            avals = [v.aval for v in eqn.invars]
            total += count_flops(inner(*avals).jaxpr)
        else:
            inner = [count_flops(j) for j in inner_jaxprs(eqn.params)]
            if platforms := eqn.params.get("branches_platforms"):
                total += inner[platforms.index(None)]
            elif eqn.primitive.name == "cond":
                total += max(inner)
            else:
                total += eqn.params.get("length", 1) * sum(inner)
    return total


def inner_jaxprs(params: Mapping[str, Any]) -> Iterator[Jaxpr]:
    """The programs among an operation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
BITS = {"pred": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64}


def find_collectives(text: str) -> dict[str, Collective]:
    """What the chips exchange in a compiled program, by XLA's text of it.

    A loop's body counts as often as the loop says that it turns, if it does.
    """
    programs = split_programs(text)
    counts, payloads, sent = Counter(), Counter(), Counter()
    seen = set()
    for name, times in turns(programs):
        for line in programs[name]:
            found = re.search(rf" = (.*?) ({KINDS})(-start)?\(", line)
            channel = re.search(r"channel_id=(\d+)", line)
            # The parts of one that runs beside other work bear the same number.
            if not found or (channel and channel[1] in seen):
                continue
            seen.add(channel[1] if channel else line)
            shapes, kind, starts = found.groups()
            ways = group_size(line)
            size = sum(bytes_of(*x) for x in re.findall(r"(\w+)\[([\d,]*)\]", shapes))
            if starts and kind in ("all-gather", "collective-permute"):
                # The shape names the inputs too.
                size *= ways / (ways + 1) if kind == "all-gather" else 1 / 2
            if kind == "reduce-scatter":
                size *= ways
            if name.startswith("all-reduce-scatter"):  # As TPUs have it.
                kind = "reduce-scatter"
            share = 1.0 if kind == "collective-permute" else (ways - 1) / ways
            counts[kind] += times
            payloads[kind] += times * size
            sent[kind] += times * size * share * (2 if kind == "all-reduce" else 1)
    return {k: Collective(counts[k], payloads[k], sent[k]) for k in sorted(counts)}


def split_programs(text: str) -> dict[str, list[str]]:
    """The lines of each program in XLA's text; the one that calls others is "ENTRY"."""
    programs: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if found := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            lines = programs.setdefault("ENTRY" if found[1] else found[2], [])
        else:
            lines.append(line)
    return programs


def turns(programs: Mapping[str, list[str]]) -> Iterator[tuple[str, int]]:
    """Each program that the entry reaches, and how often it runs."""
    stack = [("ENTRY", 1)]
    while stack:
        name, times = stack.pop()
        yield name, times
        for line in programs[name]:
            loop = re.search(
                r" while\(%?([\w.\-]+)\).*condition=%?([\w.\-]+), body=%?([\w.\-]+)",
                line,
            )
            if loop:
                start, condition, body = loop.groups()
                known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                number = (
                    int(known[1])
                    if known
                    else count_turns(programs[name], start, programs[condition])
                )
                stack.append((body, times * number))
            else:
                called = re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line)
                stack += [(other, times) for other in called]


def count_turns(lines: list[str], start: str, condition: list[str]) -> int:
    """Of a loop that counts up by one, or 1 if that is not what it does.

    Args:
        lines: The program that it stands in.
        start: Name of the tuple that it starts from.
        condition: The program that compares the count with its limit.
    """
    test = "\n".join(condition)
    limit = re.search(r" s32\[\]\S* constant\((\d+)\)", test)
    place = re.search(r" s32\[\]\S* get-tuple-element\(.*index=(\d+)", test)
    if not limit or not place or "direction=LT" not in test:
        return 1
    made = dict(
        found.groups()
        for line in lines
        if (found := re.match(r"\s*%?([\w.\-]+) = \S.*? ([\w\-]+\(.*)", line))
    )
    parts = re.sub(r"/\*.*?\*/", "", made.get(start, ""))
    names = re.findall(r"%?([\w.\-]+)", parts.partition("(")[2].partition(")")[0])
    first = names[int(place[1])] if int(place[1]) < len(names) else ""
    while found := re.match(r"(?:copy|bitcast)\(%?([\w.\-]+)\)", made.get(first, "")):
        first = found[1]
    begin = re.match(r"constant\((\d+)\)", made.get(first, ""))
    return int(limit[1]) - (int(begin[1]) if begin else 0)


def bytes_of(dtype: str, dims: str) -> float:
    """Of an array in XLA's notation: f32[8,128]."""
    bits = BITS.get(dtype) or int(re.sub(r"\D", "", dtype) or 8)
    return math.prod(int(d) for d in dims.split(",") if d) * bits / 8


def group_size(line: str) -> int:
    """Of the chips that take part in one exchange, in any of XLA's notations.

    Raises:
        ValueError: For another one.
    """
    if "replica_groups=" not in line:
        return 1
    if found := re.search(r"replica_groups=mesh\[(.*?)\].*?\{('[^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[a]) for a in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(found[1])
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(found[1].split(","))
    raise ValueError(f"XLA writes groups of chips in a way that is not known: {line}")
