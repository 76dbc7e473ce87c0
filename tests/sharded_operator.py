"""Run by test_operators in a process of its own: values and gradients with the grid cut over devices, as JSON."""

import json
import os

os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"
import equinox as eqx  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

import sciml  # noqa: E402
from sciml import operators as ops  # noqa: E402

KEY = jax.random.key(0)
MODELS = {
    "FNO": ops.FNO(2, 1, modes=(4, 4), width=8, layers=2, axes=(ops.Periodic(), ops.Bounded()), key=KEY),
    "UNet": ops.UNet(2, 1, width=4, levels=1, key=KEY),
}
LOSSES = {"whole": sciml.misfit, "chunked": sciml.chunked(sciml.misfit, 4)}


def worst(model, loss, fields, spread):
    """The largest difference between one device and eight, over the loss and its gradient."""

    @eqx.filter_jit
    def both(model, batch):
        return eqx.filter_value_and_grad(lambda m: sum(jnp.mean(r**2) for r in loss(m, batch).values()))(model)

    one, eight = both(model, fields), both(model, spread)
    return max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight)))


def main():
    mesh = sciml.mesh(data=2, space=4)
    fields = tuple(jax.random.normal(jax.random.key(i), (8, c, 16, 16)) for i, c in ((1, 2), (2, 1)))
    spread = tuple(jax.device_put(f, NamedSharding(mesh, PartitionSpec("data", None, "space"))) for f in fields)
    found = {
        f"{m}, {n}": worst(model, loss, fields, spread) for m, model in MODELS.items() for n, loss in LOSSES.items()
    }
    print(json.dumps(found | {"devices": len(spread[0].sharding.device_set)}))


if __name__ == "__main__":
    main()
