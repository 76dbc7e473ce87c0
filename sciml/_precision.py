"""Double precision for the time of a computation."""

from contextlib import AbstractContextManager, nullcontext

import jax


def double_precision(wanted: bool = True) -> AbstractContextManager:
    """Within this context JAX makes float64 arrays. It is local to the thread and ends with the `with` block, so the
    user's own setting (`jax_enable_x64`) holds before and after.
    """
    return jax.enable_x64(True) if wanted else nullcontext()
