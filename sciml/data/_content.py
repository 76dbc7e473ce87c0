"""What is to be written: variables, coordinates and blocks of numbers, of a recipe or of whatever gives them."""

import datetime
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._save import write_atomically
from ._cf import finest_dates
from ._recipe import Axis, Recipe
from ._source import DataError, Variable, digest

CHUNK_BYTES = 2**20

Shapes = Mapping[str, tuple[int, ...]]
# Where the arrays begin, along their first dimensions, and the arrays.
Block = tuple[tuple[int, ...], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Content:
    """Variables, coordinates, attributes, and `blocks(chunk shapes, whole rows)`, which end where chunks end. With
    whole rows each block has the same entries of the first dimension of all variables, and all of the others.
    """

    variables: Mapping[str, Variable]
    coords: Mapping[str, Axis]
    attributes: Mapping[str, Any]
    parameters: Mapping[str, float]
    blocks: Callable[[Shapes, bool], Iterator[Block]]

    @property
    def dims(self) -> dict[str, int]:
        """The sizes of the dimensions, also of those that only coordinates have."""
        sizes = {d: n for v in self.variables.values() for d, n in zip(v.dims, v.shape)}
        return sizes | {d: n for dims, values, _ in self.coords.values() for d, n in zip(dims, np.shape(values))}


def chunk_shape(variable: Variable, chunks: Mapping[str, int] | None = None) -> tuple[int, ...]:
    """The lengths of chunks: as asked for, else about `CHUNK_BYTES` with the last dimensions whole. The length
    along the first dimension is a power of two, so that blocks end where chunks end.
    """
    if chunks:
        return tuple(min(chunks.get(d, n), n) for d, n in zip(variable.dims, variable.shape))
    lengths, size = list(variable.shape), variable.dtype.itemsize
    for axis in range(len(lengths)):
        rest = int(np.prod(lengths[axis + 1 :], dtype=np.int64)) * size
        if rest <= CHUNK_BYTES:
            most = CHUNK_BYTES // max(rest, 1)
            lengths[axis] = min(lengths[axis], 2 ** (most.bit_length() - 1))
            break
        lengths[axis] = min(lengths[axis], 1)
    return tuple(lengths)


def content_of_recipe(recipe: Recipe, parts: Path, bar: Callable) -> Content:
    """Makes the batches that are not in the folder `parts` yet, each written whole or not at all; blocks come from it.

    Raises DataError where the folder has parts of another recipe or of other settings.
    """
    _claim(recipe, parts)
    advance = bar("making", recipe.batches)
    for number in range(recipe.batches):
        path = parts / f"{number:05d}.npz"
        if not path.exists():
            arrays = recipe.make_batch(number)
            write_atomically(path, lambda file, arrays=arrays: np.savez(file, **arrays))
        advance(1)

    def stored() -> Iterator[dict[str, np.ndarray]]:
        for number in range(recipe.batches):
            with np.load(parts / f"{number:05d}.npz", allow_pickle=False) as part:
                yield {name: part[name] for name in recipe.variables}

    def blocks(shapes: Shapes, whole_rows: bool) -> Iterator[Block]:
        return _regrouped(stored(), max(shape[0] for shape in shapes.values()))

    attributes = dict(recipe.attributes) | provenance()
    return Content(recipe.variables, recipe.coords, attributes, recipe.parameters, blocks)


def _regrouped(batches: Iterator[dict[str, np.ndarray]], unit: int) -> Iterator[Block]:
    """Blocks whose lengths are multiples of `unit`, but for the last, so that no chunk is written twice."""
    start, held, count = 0, [], 0
    for batch in batches:
        held.append(batch)
        count += len(next(iter(batch.values())))
        if count >= unit:
            joined = {name: np.concatenate([b[name] for b in held]) for name in batch}
            ready = count - count % unit
            yield (start,), {name: array[:ready] for name, array in joined.items()}
            start, count = start + ready, count - ready
            held = [{name: array[ready:] for name, array in joined.items()}]
    if count:
        yield (start,), {name: np.concatenate([b[name] for b in held]) for name in held[0]}


def _claim(recipe: Recipe, parts: Path) -> None:
    identity = json.loads(json.dumps(_identity(recipe), default=str))
    path = parts / "recipe.json"
    if not path.exists():
        write_atomically(path, lambda file: file.write(json.dumps(identity, indent=1).encode()))
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    differing = [k for k in identity | found if identity.get(k) != found.get(k)]
    if differing:
        shown = "; ".join(f"{k} {found.get(k)!r} there, {identity.get(k)!r} now" for k in differing[:4])
        raise DataError(
            f"{parts.parent} holds an interrupted run of other settings ({shown}). Run it again with those settings to "
            "finish it, delete that folder to give it up, or choose another name."
        )


def _identity(recipe: Recipe) -> dict[str, Any]:
    coords = {n: [list(dims), np.asarray(v).tobytes().hex(), dict(a)] for n, (dims, v, a) in recipe.coords.items()}
    variables = {n: [list(v.dims), list(v.shape), str(v.dtype)] for n, v in recipe.variables.items()}
    settings = dict(recipe.attributes) | dict(recipe.parameters)
    return {
        "samples": recipe.samples,
        "batch": recipe.batch,
        "variables": variables,
        "coords": digest(coords),
    } | settings


def provenance() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("sciml-jax")
    except PackageNotFoundError:
        number = "checkout"
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"created": now, "sciml_version": number}


def encoded(name: str, values: np.ndarray, attributes: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Dates as numbers with CF units; all else as it is."""
    attributes = dict(attributes)
    if values.dtype.kind == "M":
        return _encoded_datetime64(values, attributes)
    if values.dtype.kind == "O" and values.size and hasattr(values.flat[0], "calendar"):
        import cftime

        first = values.flat[0]
        units = f"hours since {first.year:04d}-{first.month:02d}-{first.day:02d} 00:00:00"
        numbers = cftime.date2num(values, units, first.calendar)
        return np.asarray(numbers, np.float64), attributes | {"units": units, "calendar": first.calendar}
    if values.dtype.kind in "OUS":
        return values.astype(str), attributes
    if values.dtype.kind not in "biuf":
        raise DataError(f"the coordinate '{name}' has the type {values.dtype}, which cannot be written")
    return values, attributes


def _encoded_datetime64(values: np.ndarray, attributes: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    if np.isnat(values).any():
        raise DataError("a time is missing (NaT); drop it before writing")
    values = finest_dates(values)
    count = values.astype(np.int64)
    units = {"days": 86_400 * 10**6, "hours": 3600 * 10**6, "seconds": 10**6, "microseconds": 1}
    if values.dtype == "datetime64[ns]":
        units = {unit: 1000 * size for unit, size in units.items()} | {"nanoseconds": 1}
    unit = next(u for u, size in units.items() if not (count % size).any())
    calendar = {"units": f"{unit} since 1970-01-01", "calendar": "proleptic_gregorian"}
    return count // units[unit], attributes | calendar


def plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as all formats can store them: text, numbers and lists of either; other values as JSON."""
    return {str(name): _plain(value) for name, value in attributes.items() if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple) and value:
        if all(isinstance(v, str) for v in value) or all(type(v) in (int, float) for v in value):
            return list(value)
    return json.dumps(value, default=str)
