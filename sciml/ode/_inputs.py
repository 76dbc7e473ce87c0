"""Inputs of a system as functions of time: tables that are interpolated, or held from one entry to the next."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Table(eqx.Module):
    """Values (n,) or (n, m) at times (n,) as a function of time: linear between them, or `held` at the last one. Before
    the first and after the last time the value is that of the nearest.

    `linear_table` and `held_table` make it. In a batch of trajectories its arrays have one more axis in front. With
    `names` of its columns, as `from_dataset` gives them, it is the `args` of a mechanism that asks for these.
    """

    ts: Float[Array, "..."]
    values: Float[Array, "..."]
    held: bool = eqx.field(default=False, static=True)
    names: tuple[str, ...] = eqx.field(default=(), static=True)

    def __call__(self, t: Any) -> Float[Array, "..."]:
        # Those of a data set are NumPy's, which a traced number cannot index.
        ts, values = jnp.asarray(self.ts), jnp.asarray(self.values)
        last = ts.shape[0] - 1
        i = jnp.clip(jnp.searchsorted(ts, t, side="right") - 1, 0, max(last - 1, 0))
        if self.held or last == 0:
            return values[jnp.clip(jnp.searchsorted(ts, t, side="right") - 1, 0, last)]
        begin, length = ts[i], ts[i + 1] - ts[i]
        # Padding repeats the last time.
        share = jnp.clip((t - begin) / jnp.where(length > 0, length, 1), 0, 1)
        return (1 - share) * values[i] + share * values[i + 1]

    def columns(self) -> dict[str, "Table"]:
        """One table for each of the names."""
        ts, values = jnp.asarray(self.ts), jnp.asarray(self.values)
        return {name: Table(ts, values[..., i], self.held) for i, name in enumerate(self.names)}


def linear_table(ts: Any, values: Any) -> Table:
    """Values at times, linear in between. Missing ones (NaN) are left out, column by column.

    Raises ValueError for times that do not increase, lengths that differ and columns without a value.
    """
    ts, values = _checked("linear_table", ts, values)
    columns = values.reshape(len(ts), -1)
    filled = [np.interp(ts, ts[known], c[known]) for c in columns.T for known in [np.isfinite(c)]]
    return Table(jnp.asarray(ts), jnp.asarray(np.stack(filled, axis=1).reshape(values.shape)))


def held_table(ts: Any, values: Any) -> Table:
    """Values from each time on until the next. A missing one (NaN) is that before it; the first are those after them.

    Raises ValueError as `linear_table`.
    """
    ts, values = _checked("held_table", ts, values)
    columns = values.reshape(len(ts), -1).copy()
    for column in columns.T:
        known = np.flatnonzero(np.isfinite(column))
        column[:] = column[known[np.clip(np.searchsorted(known, np.arange(len(ts)), "right") - 1, 0, None)]]
    return Table(jnp.asarray(ts), jnp.asarray(columns.reshape(values.shape)), held=True)


def _checked(name: str, ts: Any, values: Any) -> tuple[np.ndarray, np.ndarray]:
    ts, values = np.asarray(ts, float), np.asarray(values, float)
    if ts.ndim != 1 or not len(ts) or len(values) != len(ts) or values.ndim > 2:
        raise ValueError(f"{name}: expected times (n,) and values (n,) or (n, m), got {ts.shape} and {values.shape}")
    if not (np.diff(ts) > 0).all():
        raise ValueError(f"{name}: times must increase")
    if not np.isfinite(values).reshape(len(ts), -1).any(axis=0).all():
        raise ValueError(f"{name}: a column has no value but missing ones")
    return ts, values
