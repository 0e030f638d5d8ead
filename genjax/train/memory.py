"""What to say when memory does not suffice."""

WHAT_SAVES_MEMORY = (
    "a larger config.accumulate, which splits the batch in time; config.remat=True, "
    "which keeps blocks' inputs alone; a smaller config.data.batch_size; "
    "config.dtype='bfloat16'; or config.mesh.fsdp above 1, which splits weights and "
    "optimiser state over the devices"
)


def is_exhausted(error: Exception) -> bool:
    """Whether XLA says that a device's memory does not suffice."""
    return "RESOURCE_EXHAUSTED" in str(error)
