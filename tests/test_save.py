"""Models on disk."""

import json
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sciml import load, save
from sciml._save import write_atomically


class Everything(eqx.Module):
    weights: jax.Array
    half: jax.Array
    key: jax.Array
    host: np.ndarray
    nothing: None
    rate: float
    name: str = eqx.field(static=True)


def everything(seed=0):
    return Everything(
        jax.random.normal(jax.random.key(seed), (3, 2)),
        jnp.arange(4, dtype=jnp.bfloat16) + seed,
        jax.random.key(seed),
        np.arange(3) + seed,
        None,
        0.5,
        "a name",
    )


def mlp(seed=0, activation=jnp.tanh, width=8, dtype=None):
    return eqx.nn.MLP(2, 1, width, 2, activation, key=jax.random.key(seed), dtype=dtype)


def same(a, b):
    def words(x):
        key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if key else x)

    leaves = [[words(x) for x in jax.tree.leaves(eqx.filter(t, eqx.is_array))] for t in (a, b)]
    return all(x.dtype == y.dtype and (x == y).all() for x, y in zip(*leaves, strict=True))


@pytest.mark.parametrize("make", [mlp, everything])
def test_round_trip(make, tmp_path):
    save(tmp_path / "model.zip", make(1))
    assert same(load(tmp_path / "model.zip", make(2)), make(1))


def test_double_precision_survives(tmp_path):
    with jax.enable_x64(True):
        model = mlp(1, dtype=jnp.float64)
        save(tmp_path / "m", model)
        like = mlp(2, dtype=jnp.float64)
    assert same(load(tmp_path / "m", like), model)


def test_configuration_is_readable(tmp_path):
    save(tmp_path / "m", mlp())
    with zipfile.ZipFile(tmp_path / "m") as archive:
        config = json.loads(archive.read("config.json"))
    assert config["model"]["class"] == "equinox.nn._mlp.MLP" and config["model"]["width_size"] == 8
    assert "tanh" in json.dumps(config["model"]["activation"])


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (lambda: mlp(width=9), "8,2.* in the file, .*9,2"),
        (lambda: mlp(activation=jnp.sin), "activation"),
        (lambda: mlp(activation=lambda x: x), "activation"),
        (lambda: everything(), "class"),
        (lambda: mlp(dtype=jnp.bfloat16), "bfloat16"),
    ],
)
def test_another_configuration_is_refused(like, message, tmp_path):
    save(tmp_path / "m", mlp())
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "m", like())


def test_changed_lambda_is_noticed(tmp_path):
    save(tmp_path / "m", mlp(activation=lambda x: x * 2))
    load(tmp_path / "m", mlp(activation=lambda x: x * 2))
    with pytest.raises(ValueError, match="activation"):
        load(tmp_path / "m", mlp(activation=lambda x: x * 3))


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "m"
    save(path, mlp())
    whole = path.read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2], whole[:200] + b"\x00" * 50 + whole[250:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a complete file|does not match"):
            load(path, mlp())
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent", mlp())


def test_no_code_is_run_from_a_file(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code from a file was run",))

    path = tmp_path / "m"
    save(path, mlp())
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config)
        with archive.open("arrays/0.npy", "w") as file:
            np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a complete file"):
        load(path, mlp())


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(file):
        file.write(b"half of it")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, write)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
