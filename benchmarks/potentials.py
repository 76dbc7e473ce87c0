"""Potentials in training: own equivariant products beside e3nn-jax's, three parameter gradients, and steps of each.

    python benchmarks/potentials.py [products] [gradients] [--shared] [--table]

On a batch of 5 structures of ethanol (45 atoms, 8 neighbours each), float32; shapes are those of a training step.

`products`: a pair of features and harmonics along edges, as NequIP and MACE have it (24 channels, degree 2, 11 paths),
and the products of up to three sums of MACE (24 channels, degree 2, to degrees 0 and 1). e3nn-jax does the first by
`tensor_product` for each path, the second as mace-jax does, by nested contractions with its symmetric bases. Both have
the same features and harmonics; what is timed is the value of a function of the products, and the parameter gradient of
the square of its derivative with respect to positions or features: what training on forces takes.

`gradients`: of the loss of energies and forces, with respect to the parameters, after forces by one backward pass.

- `reverse over reverse`: the derivative of all of it, as `potential_misfit` leaves it to `fit`.
- `reverse over forward`: the residuals r are constants, and the gradient of the loss is that of the energy's derivative
  along r, which is one forward sweep: no graph of a backward pass is differentiated.
- `forward over reverse`: the same sum as the derivative along r of the energy's gradient.

Each with the processor's time in compilation and the shortest of many times of a call, taken in turn, and the largest
difference of gradients from the first, relative to the largest entry. Writes benchmarks/potentials.json, after each
potential; `--table` prints the tables of docs/molecules.md.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.build
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from sciml import molecules
from sciml.molecules._harmonics import block, coupling, harmonics, paths, symmetric_products

PATH = Path(__file__).with_suffix(".json")
CUTOFF, BATCH, WIDTH, DEGREE, ROUNDS = 5.0, 5, 24, 2, 60
SPECIES = (1, 6, 8)
# At the same width and number of layers; what else they have is their default.
SIZES = {"width": 32, "layers": 2, "key": jax.random.key(0)}
POTENTIALS: dict[str, Callable] = {
    "PaiNN": lambda: molecules.PaiNN(SPECIES, CUTOFF, **SIZES),
    "NequIP": lambda: molecules.NequIP(SPECIES, CUTOFF, degree=2, linear=True, **SIZES),
    "SchNet": lambda: molecules.SchNet(SPECIES, CUTOFF, **SIZES),
    "EGNN": lambda: molecules.EGNN(SPECIES, CUTOFF, **SIZES),
    "SO3krates": lambda: molecules.SO3krates(SPECIES, CUTOFF, **SIZES),
    "MACE": lambda: molecules.MACE(SPECIES, CUTOFF, **SIZES),
    "DimeNet": lambda: molecules.DimeNet(SPECIES, CUTOFF, **SIZES),
}


def ethanol() -> tuple:
    """A batch: structures that are shaken, and labels of the size of real ones."""
    random, atoms = np.random.default_rng(0), ase.build.molecule("CH3CH2OH")
    positions = atoms.positions + 0.05 * random.normal(size=(BATCH, len(atoms), 3))
    data = molecules.structures(molecules.frames(positions, atoms.numbers), CUTOFF)
    labels = {"energy": random.normal(size=BATCH), "forces": random.normal(size=(BATCH, len(atoms), 3))}
    return data, jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), labels)


# Products, of the features x (atoms, neighbours, m, f), the harmonics y (..., m) and the weights (..., paths, f).


def own_pairs(x, y, weights):
    """As `Messages` has them."""
    sums: list = [0.0] * (DEGREE + 1)
    for p, (a, b, c) in enumerate(paths(DEGREE, DEGREE, DEGREE)):
        turned = jnp.einsum("nkj,ijo->nkio", y[..., block(b)], coupling(a, b, c).astype(x.dtype))
        sums[c] += jnp.einsum("nkif,nkio,nkf->nof", x[:, :, block(a)], turned, weights[:, :, p])
    return jnp.concatenate(sums, axis=1)


def e3nn_pairs(x, y, weights):
    """`e3nn_jax.tensor_product` of each path."""
    import e3nn_jax as e3nn

    sums: list = [0.0] * (DEGREE + 1)
    names = [e3nn.Irrep(c, (-1) ** c) for c in range(DEGREE + 1)]
    x = jnp.moveaxis(x, -1, -2)
    for p, (a, b, c) in enumerate(paths(DEGREE, DEGREE, DEGREE)):
        left = e3nn.IrrepsArray(e3nn.Irreps([(1, names[a])]), x[..., block(a)])
        right = e3nn.IrrepsArray(e3nn.Irreps([(1, names[b])]), y[..., None, block(b)])
        found = e3nn.tensor_product(left, right, filter_ir_out=[names[c]]).array
        # The sign of a Clebsch-Gordan coefficient is a convention.
        sign = np.sign(np.sum(coupling(a, b, c) * np.asarray(e3nn.clebsch_gordan(a, b, c))))
        sums[c] += sign * jnp.einsum("nkfo,nkf->nof", found, weights[:, :, p])
    return jnp.concatenate(sums, axis=1)


def own_powers(a, weights):
    """As `Interaction` has them, with weights by degree and order."""
    found = []
    for c, row in enumerate(weights):
        total = 0.0
        for order, w in enumerate(row, start=1):
            factors, maps = symmetric_products(DEGREE, order, c)
            picked = [jnp.einsum("nmf,mt->ntf", a, jnp.eye(a.shape[1], dtype=a.dtype)[:, f]) for f in factors]
            total += jnp.einsum("ntf,tcp,npf->ncf", jnp.prod(jnp.stack(picked), axis=0), maps.astype(a.dtype), w)
        found.append(total)
    return jnp.concatenate(found, axis=1)


def e3nn_powers(a, weights):
    """Nested contractions with `e3nn_jax.reduced_symmetric_tensor_product_basis`, from the highest order down."""
    found = []
    for c, row in enumerate(weights):
        total: Any = None
        for order in range(len(row), 0, -1):
            basis = jnp.asarray(symmetric_basis(order, c), a.dtype)
            part = jnp.einsum("...po,npf->nf...o", basis, row[order - 1])
            total = part if total is None else total + part
            total = jnp.einsum("nf...io,nif->nf...o", total, a)
        found.append(jnp.moveaxis(total, 1, -1))
    return jnp.concatenate(found, axis=1)


def symmetric_basis(order: int, out: int) -> np.ndarray:
    """(m, ..., m, couplings, 2 out + 1), one m for each factor."""
    import e3nn_jax as e3nn

    kept = e3nn.Irrep(out, (-1) ** out)
    basis = e3nn.reduced_symmetric_tensor_product_basis(e3nn.Irreps("0e + 1o + 2e"), order, keep_ir=[kept]).array
    return np.asarray(basis).reshape(*basis.shape[:-1], -1, 2 * out + 1)


def of_pairs(product):
    """The parameter gradient of squared derivatives with respect to the edges; x and weights are the parameters."""

    def loss(parameters, vectors):
        def energy(vectors):
            directions = vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
            return jnp.sum(product(parameters[0], harmonics(directions, DEGREE), parameters[1]) ** 2)

        return jnp.mean(jax.grad(energy)(vectors) ** 2)

    return jax.value_and_grad(loss)


def of_powers(product):
    """The same with respect to the features; the weights are the parameters."""

    def loss(weights, a):
        return jnp.mean(jax.grad(lambda a: jnp.sum(product(a, weights) ** 2))(a) ** 2)

    return jax.value_and_grad(loss)


def products() -> dict:
    """Both kinds of products, by both ways."""
    data, _ = ethanol()
    n, k = data.neighbours.shape[0] * data.neighbours.shape[1], data.neighbours.shape[2]
    keys = jax.random.split(jax.random.key(0), 4)
    m = (DEGREE + 1) ** 2
    x = jax.random.normal(keys[0], (n, k, m, WIDTH))
    weights = jax.random.normal(keys[1], (n, k, len(paths(DEGREE, DEGREE, DEGREE)), WIDTH))
    vectors = jax.random.normal(keys[2], (n, k, 3))
    a = 0.3 * x[:, 0]
    counts = [[symmetric_products(DEGREE, o, c).maps.shape[-1] for o in (1, 2, 3)] for c in range(2)]
    powers = [[jax.random.normal(keys[3], (n, p, WIDTH)) for p in row] for row in counts]
    pairs = {
        "own": (of_pairs(own_pairs), ((x, weights), vectors)),
        "e3nn-jax": (of_pairs(e3nn_pairs), ((x, weights), vectors)),
    }
    triples = {"own": (of_powers(own_powers), (powers, a)), "e3nn-jax": (of_powers(e3nn_powers), (powers, a))}
    found = {"features and harmonics": timed(pairs), "products of up to three": timed(triples)}
    y = harmonics(vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True), DEGREE)
    apart = jnp.max(jnp.abs(own_pairs(x, y, weights) - e3nn_pairs(x, y, weights)))
    found["features and harmonics"]["difference"] = float(apart / jnp.max(jnp.abs(own_pairs(x, y, weights))))
    return found


# Parameter gradients of a loss of energies and forces.


def residuals(model, batch):
    """Those of `potential_misfit(energy=0.1, forces=1.0)`, which the other ways repeat."""
    return molecules.potential_misfit(energy=0.1, forces=1.0)(model, batch)


def reverse_over_reverse(static, batch):
    """What `fit` does."""

    def gradient(parameters):
        return jax.grad(lambda p: sum(jnp.mean(r**2) for r in residuals(eqx.combine(p, static), batch).values()))(
            parameters
        )

    return gradient


def _slopes(static, batch):
    """What the loss changes by with the energies and with the forces, as constants: the energy's part and minus that of
    the forces, with the positions and a function from parameters, positions and weights to a weighted sum of energies.
    """
    data, _ = batch

    def energy(parameters, positions, weights):
        model = eqx.combine(parameters, static)
        moved = eqx.tree_at(lambda s: s.positions, data, positions)
        return jnp.sum(weights * jax.vmap(model)(moved))

    def slopes(parameters):
        found = residuals(eqx.combine(parameters, static), batch)
        of_energy = 2 * found["energy"] / found["energy"].size / 0.1 / data.count
        return of_energy, -2 * found["forces"] / found["forces"].size

    return data.positions, energy, slopes


def reverse_over_forward(static, batch):
    """The gradient of a derivative along the residuals."""
    positions, energy, slopes = _slopes(static, batch)

    def gradient(parameters):
        tangents = slopes(parameters)[::-1]
        one = jnp.ones(len(positions))
        along = lambda p: jax.jvp(lambda *xw: energy(p, *xw), (positions, one), tangents)[1]  # noqa: E731
        return jax.grad(along)(parameters)

    return gradient


def forward_over_reverse(static, batch):
    """The derivative along the residuals of a gradient."""
    positions, energy, slopes = _slopes(static, batch)

    def gradient(parameters):
        tangents = slopes(parameters)[::-1]
        one = jnp.ones(len(positions))
        return jax.jvp(lambda *xw: jax.grad(energy)(parameters, *xw), (positions, one), tangents)[1]

    return gradient


WAYS = {
    "reverse over reverse": reverse_over_reverse,
    "reverse over forward": reverse_over_forward,
    "forward over reverse": forward_over_reverse,
}


def gradients(make: Callable) -> dict:
    """Of one potential, by each way, beside energies and forces alone."""
    batch = ethanol()
    parameters, static = eqx.partition(make(), eqx.is_inexact_array)

    def forces(p):
        return jax.vmap(lambda one: molecules.energy_and_forces(eqx.combine(p, static), one))(batch[0])

    cases: dict = {way: (of(static, batch), (parameters,)) for way, of in WAYS.items()}
    found = timed(cases | {"energies and forces": (forces, (parameters,))}, compare=tuple(WAYS))
    return found | {"parameters": sum(a.size for a in jax.tree.leaves(parameters))}


def timed(cases: dict, compare: tuple = ()) -> dict:
    """Of each case: seconds of the processor in compilation, and the shortest of many times, the cases in turn."""
    compiled, found = {}, {}
    for name, (function, arguments) in cases.items():
        start = time.process_time()
        compiled[name] = jax.jit(function).lower(*arguments).compile()
        found[name] = {"compilation, s": round(time.process_time() - start, 2)}
    times: dict = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, (_, arguments) in cases.items():
            start = time.perf_counter()
            jax.block_until_ready(compiled[name](*arguments))
            times[name].append(time.perf_counter() - start)
    for name, row in times.items():
        found[name]["ms"] = round(1e3 * min(row), 2)
    results = [[a for a in jax.tree.leaves(compiled[n](*cases[n][1])) if a.size] for n in compare]
    for name, other in zip(compare[1:], results[1:]):
        largest = max(float(jnp.max(jnp.abs(a))) for a in results[0])
        apart = max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(results[0], other))
        found[name]["difference"] = apart / largest
    return found


def table(report: dict) -> str:
    """Lines of Markdown: products, then gradients; compilation in brackets."""
    cell = lambda row: f"{row['ms']:.1f} ({row['compilation, s']:.1f})"  # noqa: E731
    lines = ["| products | own, ms (compilation, s) | e3nn-jax |", "|---|---|---|"]
    for name, row in report.get("products", {}).items():
        lines.append(f"| {name} | {cell(row['own'])} | {cell(row['e3nn-jax'])} |")
    ways = ["energies and forces", *WAYS]
    lines += ["", f"| potential | parameters | {' | '.join(ways)} |", "|---" * (2 + len(ways)) + "|"]
    for name, row in report.get("gradients", {}).items():
        lines.append(f"| {name} | {row['parameters']:,} | {' | '.join(cell(row[w]) for w in ways)} |")
    shared = ", which other work shared" if report["shared"] else ""
    return f"{report['machine']}{shared}, {report['date']}\n\n" + "\n".join(lines)


def main(names: list[str], shared: bool) -> None:
    """Measures these and writes what was found, after each potential."""
    report = json.loads(PATH.read_text()) if PATH.exists() else {}
    versions = {p: importlib.metadata.version(p) for p in ("jax", "equinox", "e3nn-jax")}
    machine = f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, JAX {jax.__version__}"
    report |= {"machine": machine, "versions": versions, "shared": shared, "date": datetime.date.today().isoformat()}
    if "products" in names or not names:
        report["products"] = products()
        PATH.write_text(json.dumps(report, indent=1) + "\n")
    if "gradients" in names or not names:
        report.setdefault("gradients", {})
        for name, make in POTENTIALS.items():
            report["gradients"][name] = gradients(make)
            PATH.write_text(json.dumps(report, indent=1) + "\n")
    PATH.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=["products", "gradients", []], help="both by default")
    parser.add_argument("--shared", action="store_true", help="notes that other programs ran at the same time")
    parser.add_argument("--table", action="store_true", help="prints the tables of the last run")
    given = parser.parse_args()
    if given.table:
        print(table(json.loads(PATH.read_text())))
    else:
        main(given.names, given.shared)
