"""Trajectories from data sets: the rows of a table, or variables on axes of trajectories and times."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import DataError
from ..data._cf import decode_time, is_time
from ._events import Doses
from ._inputs import Table, held_table, linear_table
from ._trajectories import Trajectories, trajectories


def from_dataset(
    dataset: Any,
    states: Sequence[str],
    *,
    time: str = "time",
    by: str | None = None,
    inputs: Sequence[str] | Mapping[str, str] = (),
    held: bool = False,
    starts: Any = None,
) -> Trajectories:
    """The trajectories of a data set, as `sciml.open` gives it, of an xarray Dataset or a pandas DataFrame, or of
    several of these in a list, one after the other, such as files with a trajectory each.

    - `states`: the variables that were measured, in the order of the state. They have one dimension, along which
      rows follow each other, or two, of which that of `time` is one and the other counts trajectories.
    - `time`: the variable or coordinate of times; dates, and numbers in units such as hours since a date, become days
      since the first.
    - `by`: in a table of rows the column that tells trajectories apart; rows of one are sorted by time, trajectories by
      what this column holds.
    - `inputs`: variables that become a table of inputs for each trajectory, linear between its times, or `held` from
      one to the next. Of rows at the same time the last counts. A mapping gives them names: `{"force": "F [N]"}`.
    - `starts`: as in `trajectories`; first guesses do where `free_starts` or `smoothed` will replace them.

    Rows in which nothing was measured are kept: NaN does not count. Those that have no time either are left out, so
    that trajectories on two axes may be padded with NaN. Raises ValueError for names that the data set does not have,
    words in the place of numbers, measurements without a time, rows of several trajectories without `by`, and variables
    of more dimensions; TypeError for a path.
    """
    if isinstance(dataset, str | Path):
        raise TypeError(f"from_dataset: expected a data set, got a path; give sciml.open({str(dataset)!r})")
    held_or_linear = held_table if held else linear_table
    names = tuple(inputs)
    inputs = list(inputs.values()) if isinstance(inputs, Mapping) else names
    wanted = [*states, *inputs, time, *([by] if by else [])]
    sets = dataset if isinstance(dataset, list | tuple) else [dataset]
    if not sets or not states:
        raise ValueError(f"from_dataset: expected a data set and a state or more, got {len(sets)} and {len(states)}")
    found = [piece for one in sets for piece in _pieces(one, wanted, states, inputs, time, by)]
    origin = min(np.min(row[time]) for row, _ in found)
    series, tables = [], []
    for i, (row, name) in enumerate(found):
        if empty := [n for n in inputs if not np.isfinite(np.asarray(row[n], float)).any()]:
            raise ValueError(f"from_dataset: the input '{empty[0]}' has no value {name or f'in trajectory {i}'}")
        ts = _numbers(row[time], origin)
        series.append((ts, np.stack([np.asarray(row[n], float) for n in states], axis=1)))
        if inputs:
            last = np.append(ts[1:] != ts[:-1], True)
            tables.append((ts[last], np.stack([np.asarray(row[n], float)[last] for n in inputs], axis=1)))
    longest = max(len(ts) for ts, _ in series)
    made = [held_or_linear(*_lengthened(ts, u, longest)) for ts, u in tables]
    args = [Table(table.ts, table.values, table.held, names) for table in made] or None
    return trajectories(series, starts=starts, args=args)


def _pieces(dataset: Any, wanted: list[str], states: Sequence[str], inputs: Sequence[str], time: str, by: str | None):
    """The columns of each trajectory of one data set, and in which part of a table it stands."""
    data = dataset.to_xarray() if hasattr(dataset, "to_xarray") else dataset
    if absent := [n for n in wanted if n not in data.variables]:
        raise ValueError(f"from_dataset: no variable '{absent[0]}'; there are {', '.join(map(str, data.variables))}")
    columns = {n: data[n] for n in wanted}
    _require_numbers("from_dataset", {n: columns[n] for n in [*states, *inputs, time]})
    columns[time] = _dated(columns[time])
    dims = columns[states[0]].dims
    if len(dims) == 1:
        rows = [_timed("from_dataset", row, states, time) for row in _rows("from_dataset", columns, time, by)]
        if by is None and (rows[0][time][1:] < rows[0][time][:-1]).any():
            raise ValueError(
                f"from_dataset: '{time}' decreases from one row to the next; name the column that tells trajectories "
                "apart with by=, or sort the rows"
            )
        names = [f"where '{by}' is {_name(columns[by], row[by][0])}" if by else "" for row in rows]
    elif len(dims) == 2 and set(columns[time].dims) <= set(dims):
        rows = [_timed("from_dataset", row, states, time) for row in _grid(columns, states[0], time)]
        names = [""] * len(rows)
    else:
        raise ValueError(
            f"from_dataset: '{states[0]}' has the dimensions {dims}; expected those of rows, or of trajectories and "
            f"'{time}'"
        )
    return list(zip(rows, names))


def _dated(times: Any) -> Any:
    """Numbers in CF's units, such as days since a date, as dates, so that those of several files count from the same
    one.
    """
    if times.dtype.kind not in "iuf" or not is_time(times.attrs):
        return times
    try:
        dates = decode_time(times.values, times.attrs)
    except DataError:
        # Such as seconds since the start.
        return times
    return times.copy(data=dates) if dates.dtype.kind == "M" else times


def _timed(name: str, row: dict[str, np.ndarray], states: Sequence[str], time: str) -> dict[str, np.ndarray]:
    """Without what has no time, such as the padding of short trajectories. Raises ValueError where it was measured."""
    known = ~(np.isnat(row[time]) if row[time].dtype.kind == "M" else np.isnan(np.asarray(row[time], float)))
    lost = ~known & np.any([np.isfinite(np.asarray(row[n], float)) for n in states], axis=0)
    if lost.any() or not known.any():
        first = f"; at the first, '{states[0]}' is {row[states[0]][lost][0]}" if lost.any() else ""
        raise ValueError(f"{name}: {lost.sum() or 'all'} measurements have no value of '{time}'{first}")
    return {n: v[known] for n, v in row.items()}


def from_events(
    dataset: Any,
    measured: Sequence[str],
    *,
    by: str,
    time: str = "time",
    amount: str = "amount",
    constants: Sequence[str] = (),
    size: int = 1,
    into: int = 0,
) -> Trajectories:
    """The trajectories of a table of events, as NONMEM reads it: each row is a dose, a measurement or both at a time.

    - `measured`: the columns that were measured, missing (NaN) where nothing was.
    - `by`: the column that tells subjects apart.
    - `amount`: the column of doses, 0 or missing where none was given. They are added to the state's number `into`, of
      `size`, which begins at zero.
    - `constants`: columns with one value for each subject, such as its weight: that of its first row.

    The `args` are a mapping for `Dosed`: `doses`, padded to one length, and each of the constants by name, (k,). Raises
    ValueError for names that the table does not have, columns of several dimensions, constants that change or are
    missing, and rows without a time.
    """
    data = dataset.to_xarray() if hasattr(dataset, "to_xarray") else dataset
    wanted = [*measured, *constants, amount, time, by]
    if absent := [n for n in wanted if n not in data.variables]:
        raise ValueError(f"from_events: no variable '{absent[0]}'; there are {', '.join(map(str, data.variables))}")
    if wide := [n for n in wanted if data[n].ndim != 1]:
        raise ValueError(f"from_events: '{wide[0]}' has the dimensions {data[wide[0]].dims}, expected rows")
    _require_numbers("from_events", {n: data[n] for n in wanted if n != by})
    rows = _rows("from_events", {n: _dated(data[n]) if n == time else data[n] for n in wanted}, time, by)
    subjects = [_timed("from_events", row, [*measured, amount], time) for row in rows]
    origin = min(np.min(r[time]) for r in subjects)
    series, given = [], []
    for row in subjects:
        ts, amounts = _numbers(row[time], origin), np.nan_to_num(np.asarray(row[amount], float))
        series.append((ts, np.stack([np.asarray(row[n], float) for n in measured], axis=1)))
        given.append((ts[amounts != 0], amounts[amounts != 0]))
    # Times at which nothing was measured need no solution, but for the first.
    series = [(ts[kept], ys[kept]) for ts, ys in series for kept in [_measured_or_first(ys)]]
    most = max(1, max(len(t) for t, _ in given))
    times, amounts = np.empty((len(subjects), most)), np.zeros((len(subjects), most, size))
    for i, ((t, a), (ts, _)) in enumerate(zip(given, series)):
        times[i] = np.concatenate([t, np.full(most - len(t), max(ts[-1], t[-1] if len(t) else ts[-1]) + 1)])
        amounts[i, : len(t), into] = a
    args = {n: np.array([_constant(n, row, by) for row in subjects]) for n in constants}
    made = trajectories(series, starts=np.zeros((len(subjects), size)))
    return made._replace(args=args | {"doses": Doses(times, amounts)})  # pyright: ignore[reportArgumentType]


def _require_numbers(name: str, columns: dict) -> None:
    """Raises ValueError for a column of words, of which `sciml.open` makes numbers of their own."""
    for column, values in columns.items():
        if "flag_meanings" in values.attrs or values.dtype.kind in "OSU":
            meanings = str(values.attrs.get("flag_meanings", "")).split() or map(str, np.ravel(values.values)[:100])
            words = [word for word in meanings if not _is_number(word)]
            such = f" such as {', '.join(words[:3])}" if words else ""
            raise ValueError(
                f"{name}: expected numbers in '{column}', it holds words{such}; leave cells without a value empty, and "
                "write dates as 2026-03-31 or 2026-03-31 14:00:00"
            )


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _name(column: Any, value: Any) -> Any:
    """What stands in the table, a word where it has words."""
    words = str(column.attrs.get("flag_meanings", "")).split()
    return repr(words[int(value)]) if words else value


def _measured_or_first(ys: np.ndarray) -> np.ndarray:
    return np.isfinite(ys).any(axis=1) | (np.arange(len(ys)) == 0)


def _constant(name: str, row: dict[str, np.ndarray], by: str) -> float:
    values = np.asarray(row[name], float)
    if not np.isfinite(values[0]) or (values != values[0]).any():
        raise ValueError(f"from_events: '{name}' of {by} {row[by][0]} must have one value, it has {np.unique(values)}")
    return float(values[0])


def _rows(name: str, columns: dict, time: str, by: str | None) -> list[dict[str, np.ndarray]]:
    values = {n: np.asarray(c.values).reshape(-1) for n, c in columns.items()}
    count = len(next(iter(values.values())))
    if any(len(v) != count for v in values.values()):
        raise ValueError(f"{name}: columns differ in length: { ({n: len(v) for n, v in values.items()}) }")
    if by is None:
        return [values]
    unnamed = _unnamed(columns[by], values[by])
    if unnamed.any():
        raise ValueError(
            f"{name}: {unnamed.sum()} rows have no value of '{by}', the first is row {np.flatnonzero(unnamed)[0]}"
        )
    groups = [np.flatnonzero(values[by] == one) for one in np.unique(values[by])]
    sorted_groups = [g[np.argsort(values[time][g], kind="stable")] for g in groups]
    return [{n: v[g] for n, v in values.items()} for g in sorted_groups]


def _unnamed(column: Any, values: np.ndarray) -> np.ndarray:
    words = str(column.attrs.get("flag_meanings", "")).split()
    if words:
        return np.array([words[int(v)] == "missing" for v in values])
    if values.dtype.kind == "O":
        return np.array([v is None or v != v for v in values])
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)


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
