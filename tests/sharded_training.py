"""Run by test_sharding in processes of its own: trains on a mesh and prints losses and what was read, as JSON."""

import json
import os
import sys

rank, processes, devices, address, checkpoint, begun = (*map(int, sys.argv[1:4]), *sys.argv[4:7])
os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
import jax  # noqa: E402

if processes > 1:
    jax.distributed.initialize(address, num_processes=processes, process_id=rank)

import equinox as eqx  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402
from memory_source import in_memory  # noqa: E402

import sciml  # noqa: E402

ROWS, WIDTH = 640, 16


def pairs():
    a = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    arrays = {"a": (("sample", "x"), a), "u": (("sample", "x"), np.sin(a))}
    return in_memory(arrays, {"a": (8, WIDTH), "u": (8, WIDTH)})


def losses(model, data, sharding, steps=40, **options):
    batches = data.batches(32, pool=320, seed=1)
    _, history = sciml.fit(
        model, sciml.misfit, batches, optax.adam(1e-3), steps=steps, every=10, report=None, sharding=sharding, **options
    )
    return history.loss.values.tolist()


def rows_read(sharding):
    """What this process reads for the first two of four pools."""
    data = pairs()
    stream = data.batches(32, pool=160, sharding=sharding).from_step(0)
    for _ in range(5):
        next(stream)
    stream.close()
    return sorted({(c.slices[0].start, c.slices[0].stop) for c in data.sources[0].reads if c.variable == "a"})


def slab_read(mesh):
    """The columns that this process reads when the grid is cut over the mesh."""
    data = pairs()
    batches = data.batches(32, pool=320, sharding=NamedSharding(mesh, PartitionSpec(None, "data")))
    batch = next(batches.from_step(0))
    columns = {(c.slices[1].start, c.slices[1].stop) for c in data.sources[0].reads}
    mine = [s.index[1].indices(WIDTH)[:2] for s in batch[0].addressable_shards]
    good = all(
        (s.data == np.sin(r.data)).all() for s, r in zip(batch[1].addressable_shards, batch[0].addressable_shards)
    )
    return {"columns": sorted(columns), "mine": sorted(mine), "good": bool(good)}


network = eqx.nn.MLP(WIDTH, WIDTH, 64, 2, key=jax.random.key(0))
result: dict = {}
if processes * devices == 1:
    result["losses"] = losses(network, pairs(), None)
    losses(network, pairs(), None, steps=17, checkpoint=begun)
else:
    mesh = sciml.mesh(data=-1)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    result["losses"] = losses(network, pairs(), rows)
    result["rows"] = rows_read(rows)
    result["resumed"] = losses(network, pairs(), rows, checkpoint=begun)
    cut = sciml.shard_parameters(network, mesh)
    losses(cut, pairs(), rows, steps=17, checkpoint=checkpoint)
    result["cut"] = losses(cut, pairs(), rows, checkpoint=checkpoint)
    result["shape of a part"] = list(cut.layers[1].weight.addressable_shards[0].data.shape)
    result["slab"] = slab_read(mesh)
print("RESULT " + json.dumps(result))
