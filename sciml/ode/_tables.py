"""Trajectories from data sets: the rows of a table, or variables on axes of trajectories and times."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._inputs import held_table, linear_table
from ._trajectories import Trajectories, trajectories


def from_dataset(
    dataset: Any,
    states: Sequence[str],
    *,
    time: str = "time",
    by: str | None = None,
    inputs: Sequence[str] = (),
    held: bool = False,
    starts: Any = None,
) -> Trajectories:
    """The trajectories of a data set, as `sciml.open` gives it, or of an xarray Dataset.

    - `states`: the variables that were measured, in the order of the state. They have one dimension, along which
      rows follow each other, or two, of which that of `time` is one and the other counts trajectories.
    - `time`: the variable or coordinate of times; dates become days since the first.
    - `by`: in a table of rows the column that tells trajectories apart; rows of one are sorted by time.
    - `inputs`: variables that become a table of inputs for each trajectory, linear between its times, or `held` from
      one to the next.
    - `starts`: as in `trajectories`.

    Rows in which nothing was measured are kept: NaN does not count. Raises ValueError for names that the data set does
    not have and for variables of more dimensions.
    """
    held_or_linear = held_table if held else linear_table
    data = dataset.to_xarray() if hasattr(dataset, "to_xarray") else dataset
    wanted = [*states, *inputs, time, *([by] if by else [])]
    if absent := [n for n in wanted if n not in data.variables]:
        raise ValueError(f"from_dataset: no variable '{absent[0]}'; there are {', '.join(map(str, data.variables))}")
    columns = {n: data[n] for n in wanted}
    dims = columns[states[0]].dims
    if len(dims) == 1:
        rows = _rows(columns, by)
    elif len(dims) == 2 and set(columns[time].dims) <= set(dims):
        rows = _grid(columns, states[0], time)
    else:
        raise ValueError(
            f"from_dataset: '{states[0]}' has the dimensions {dims}; expected those of rows, or of trajectories and "
            f"'{time}'"
        )
    origin = min(np.min(r[time]) for r in rows)
    series, tables = [], []
    for row in rows:
        ts = _numbers(row[time], origin)
        series.append((ts, np.stack([np.asarray(row[n], float) for n in states], axis=1)))
        if inputs:
            tables.append((ts, np.stack([np.asarray(row[n], float) for n in inputs], axis=1)))
    longest = max(len(ts) for ts, _ in series)
    args = [held_or_linear(*_lengthened(ts, u, longest)) for ts, u in tables] or None
    return trajectories(series, starts=starts, args=args)


def _rows(columns: dict, by: str | None) -> list[dict[str, np.ndarray]]:
    values = {n: np.asarray(c.values).reshape(-1) for n, c in columns.items()}
    count = len(next(iter(values.values())))
    if any(len(v) != count for v in values.values()):
        raise ValueError(f"from_dataset: columns differ in length: { ({n: len(v) for n, v in values.items()}) }")
    if by is None:
        return [values]
    groups = [np.flatnonzero(values[by] == name) for name in np.unique(values[by])]
    time = list(columns)[-2]
    sorted_groups = [g[np.argsort(values[time][g], kind="stable")] for g in groups]
    return [{n: v[g] for n, v in values.items()} for g in sorted_groups]


def _grid(columns: dict, state: str, time: str) -> list[dict[str, np.ndarray]]:
    dims = columns[state].dims
    along = time if time in dims else columns[time].dims[-1]
    (across,) = [d for d in dims if d != along]
    count = columns[state].sizes[across]
    return [
        {n: np.asarray((c.isel({across: i}) if across in c.dims else c).values) for n, c in columns.items()}
        for i in range(count)
    ]


def _numbers(ts: np.ndarray, origin: Any) -> np.ndarray:
    if np.asarray(ts).dtype.kind == "M":
        return (ts - origin) / np.timedelta64(1, "D")
    return np.asarray(ts, float)


def _lengthened(ts: np.ndarray, values: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """With more times after the last, at which nothing changes."""
    more = length - len(ts)
    step = max(float(ts[-1] - ts[0]), 1.0)
    later = ts[-1] + step * np.arange(1, more + 1)
    return np.concatenate([ts, later]), np.concatenate([values, np.repeat(values[-1:], more, axis=0)])
