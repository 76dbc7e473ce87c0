"""Models and checkpoints on disk: a readable configuration and arrays, written whole or not at all.

A file is a zip archive with `config.json` and one `.npy` member per array. Nothing in it is executed on loading.
"""

import dataclasses
import hashlib
import io
import json
import os
import secrets
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

FORMAT = "sciml model 1"


def save(path: str | os.PathLike, model: Any) -> None:
    """Writes a model (any pytree): its configuration, readable as JSON, and its arrays. Whole or not at all."""
    write_archive(path, {"format": FORMAT, "model": describe(model)}, arrays_of(model))


def load(path: str | os.PathLike, like: Any) -> Any:
    """Reads a model that `save` wrote into the structure of `like`, a model of the same configuration (its numbers do
    not matter). Arrays come back in the precision in which they were saved.

    Raises ValueError where the file is damaged or its configuration differs from that of `like`; FileNotFoundError.
    """
    config, arrays = read_archive(path)
    if config.get("format") != FORMAT:
        raise ValueError(f"{path}: not a saved model (format {config.get('format')!r}, expected {FORMAT!r})")
    refuse_difference(path, config["model"], describe(like))
    return put_arrays(like, arrays)


def write_atomically(path: str | os.PathLike, write: Callable) -> None:
    """Calls `write(file)` on a temporary binary file beside `path` and moves it there once it is complete."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
    # Opened so, and not by tempfile, it gets the permissions that other new files of the user have.
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_archive(path: str | os.PathLike, config: Mapping, arrays: Mapping[str, np.ndarray]) -> None:
    """A zip archive of a JSON configuration and named arrays."""

    def write(file):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("config.json", json.dumps(config, indent=1))
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                archive.writestr(f"arrays/{name}.npy", buffer.getvalue())

    write_atomically(path, write)


def read_archive(path: str | os.PathLike) -> tuple[dict, dict[str, np.ndarray]]:
    """The configuration and arrays of an archive. Raises ValueError where it is damaged, FileNotFoundError."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            names = [n for n in archive.namelist() if n.startswith("arrays/")]
            arrays = {
                n[len("arrays/") : -len(".npy")]: np.load(io.BytesIO(archive.read(n)), allow_pickle=False)
                for n in names
            }
    except (zipfile.BadZipFile, KeyError, EOFError, ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a complete file of this package ({error}); write it again") from error
    return config, arrays


def describe(value: Any) -> Any:
    """The configuration of a pytree as JSON: classes, settings, functions by name, shapes and types of arrays."""
    if isinstance(value, bool | int | str | float | None):
        return value
    if eqx.is_array(value) or isinstance(value, np.ndarray | np.generic):
        return f"array {value.dtype}[{','.join(map(str, value.shape))}]"
    if hasattr(type(value), "configuration"):
        return {"class": _qualified(type(value))} | describe(value.configuration)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: describe(getattr(value, f.name, None)) for f in dataclasses.fields(value)}
        return {"class": _qualified(type(value))} | fields
    if isinstance(value, Mapping):
        return {str(k): describe(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        kind = {"class": _qualified(type(value))} if hasattr(value, "_fields") else {}
        return kind | {str(i): describe(v) for i, v in enumerate(value)} if kind else [describe(v) for v in value]
    if callable(value):
        return f"function {_function(value)}"
    return f"object {_qualified(type(value))}"


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _function(function: Callable) -> str:
    inner = getattr(function, "func", function)
    inner = getattr(inner, "__wrapped__", inner)
    name = f"{getattr(inner, '__module__', '')}.{getattr(inner, '__qualname__', type(inner).__qualname__)}"
    code = getattr(inner, "__code__", None)
    if code is not None and "<" in name:
        # Functions without a name of their own are told apart by what they do.
        text = repr((code.co_code, code.co_consts, code.co_names)).split(" at 0x")[0]
        name += f" {hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return name


def arrays_of(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a pytree by number; random keys as their words, bfloat16 and the like as bytes."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if _is_array(leaf)]
    return {str(i): _to_numpy(leaf) for i, leaf in enumerate(leaves)}


def put_arrays(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """`like` with its arrays replaced."""
    leaves, structure = jax.tree.flatten(like)
    places = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
    if len(places) != len(arrays):
        raise ValueError(f"the file holds {len(arrays)} arrays, the model has {len(places)}")
    for number, place in enumerate(places):
        leaves[place] = _from_numpy(arrays[str(number)], leaves[place])
    return jax.tree.unflatten(structure, leaves)


def _is_array(leaf) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray)


def _to_numpy(leaf) -> np.ndarray:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return array.view(np.uint8) if array.dtype.kind == "V" else array


def _from_numpy(array: np.ndarray, like):
    if isinstance(like, np.ndarray):
        return array
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(like))
    if array.dtype != like.dtype and array.dtype == np.uint8:
        array = array.view(like.dtype)
    with jax.enable_x64(True):
        return jnp.asarray(array.reshape(like.shape))


def refuse_difference(path, saved: Any, given: Any, ours: str = "the file", theirs: str = "the model given") -> None:
    """Raises ValueError naming where two configurations differ; `ours` and `theirs` are what they are called."""
    found = [
        f"'{place}' only in {ours if here else theirs}"
        if only
        else f"'{place}' is {here!r} in {ours}, {there!r} in {theirs}"
        for place, only, here, there in _differences(saved, json.loads(json.dumps(given)), "")
    ]
    if found:
        shown = "; ".join(found[:4]) + (f"; and {len(found) - 4} more" if len(found) > 4 else "")
        raise ValueError(f"{path}: {ours} does not match {theirs}: {shown}")


def _differences(saved, given, where):
    """The places where two differ: their names, whether one lacks it, and both values (or which one has it)."""
    if isinstance(saved, dict) and isinstance(given, dict):
        for key in {**saved, **given}:
            place = f"{where}.{key}" if where else str(key)
            if key not in saved or key not in given:
                yield place, True, key in saved, key in given
            else:
                yield from _differences(saved[key], given[key], place)
    elif isinstance(saved, list) and isinstance(given, list) and len(saved) == len(given):
        for i, (a, b) in enumerate(zip(saved, given)):
            yield from _differences(a, b, f"{where}[{i}]")
    elif saved != given:
        yield where, False, saved, given
