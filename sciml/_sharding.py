"""Meshes of devices, and models whose parameters are cut over them."""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def mesh(**axes: int) -> Mesh:
    """A mesh of all devices of all processes, with named axes: `mesh(data=8)`, `mesh(data=4, space=2)`. One size may be
    -1: what the others leave.

    Raises ValueError where the sizes do not fit the number of devices.
    """
    names, sizes = list(axes) or ["data"], list(axes.values()) or [-1]
    count = len(jax.devices())
    if sizes.count(-1) == 1:
        rest = int(np.prod([s for s in sizes if s != -1]))
        sizes[sizes.index(-1)] = count // rest if rest > 0 else 0
    if int(np.prod(sizes)) != count or min(sizes) < 1:
        raise ValueError(
            f"mesh: {dict(zip(names, sizes))} does not fit {count} devices; the sizes must multiply to {count}"
        )
    return jax.make_mesh(tuple(sizes), tuple(names), axis_types=(AxisType.Auto,) * len(sizes))


def shard_parameters(model: Any, mesh: Mesh, axis: str = "data") -> Any:
    """The model with its parameters, and so the optimiser's state and gradients, cut over a mesh axis: each array along
    its longest dimension that the axis divides, the others whole on each device. Numbers do not change; memory for a
    device does (ZeRO stage 3; Rajbhandari et al., 2020).

    Raises ValueError for an axis that the mesh does not have.
    """
    if axis not in mesh.shape:
        raise ValueError(f"shard_parameters: no axis '{axis}' in the mesh {dict(mesh.shape)}")

    def cut(leaf):
        if not eqx.is_inexact_array(leaf):
            return leaf
        fits = [d for d in range(leaf.ndim) if leaf.shape[d] % mesh.shape[axis] == 0 and leaf.shape[d] > 0]
        spec: list = [None] * leaf.ndim
        if fits:
            spec[max(fits, key=lambda d: leaf.shape[d])] = axis
        return place(leaf, NamedSharding(mesh, PartitionSpec(*spec)))

    return jax.tree.map(cut, model)


def place(array: Any, sharding: NamedSharding) -> jax.Array:
    """An array that each process has, as one array over the mesh."""
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def on_mesh(tree: Any, mesh: Mesh) -> Any:
    """The arrays of a pytree on the mesh: those that are not there yet are copied to each device."""

    def put(leaf):
        if not eqx.is_array(leaf) or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        known = leaf.sharding if isinstance(leaf, jax.Array) else None
        if isinstance(known, NamedSharding) and known.mesh.size == mesh.size:
            return leaf
        return place(leaf, NamedSharding(mesh, PartitionSpec()))

    return jax.tree.map(put, tree)


def put_like(tree: Any, like: Any) -> Any:
    """The arrays of a pytree where those of `like` are on the mesh."""

    def put(array, other):
        known = other.sharding if isinstance(other, jax.Array) else None
        return place(array, known) if isinstance(known, NamedSharding) else array

    return jax.tree.map(put, tree, like)


def mesh_of(tree: Any) -> Mesh | None:
    """The mesh of several devices that arrays lie on, if any does."""
    for leaf in jax.tree.leaves(tree):
        known = leaf.sharding if isinstance(leaf, jax.Array) else None
        if isinstance(known, NamedSharding) and isinstance(known.mesh, Mesh) and known.mesh.size > 1:
            return known.mesh
    return None


def constrain_like(tree: Any, shardings: Any) -> Any:
    """Within a compiled step: arrays stay where they were, so that the next step is the same program; `shardings` is
    that of each array, or None for no mesh.
    """
    if shardings is None:
        return tree
    return jax.tree.map(
        lambda a, s: a if s is None else jax.lax.with_sharding_constraint(a, s),
        tree,
        shardings,
        is_leaf=lambda x: x is None,
    )


def shardings_of(tree: Any) -> Any:
    """The sharding of each array on a mesh, None for others."""
    return jax.tree.map(
        lambda a: a.sharding if isinstance(a, jax.Array) and isinstance(a.sharding, NamedSharding) else None, tree
    )


def whole(tree: Any) -> Any:
    """The arrays of a pytree on this process, also where others hold parts of them. All processes must call this."""
    from jax.experimental import multihost_utils

    def gather(leaf):
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return multihost_utils.process_allgather(leaf, tiled=True)
        return leaf

    return jax.tree.map(gather, tree)


def agreed(flag: bool) -> bool:
    """What the first process says, so that a decision by the clock is the same everywhere."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(flag)))


def wait_for_all() -> None:
    """Returns when all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("sciml")
