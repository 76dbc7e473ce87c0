"""Does training wait for data? A Fourier neural operator on the small Darcy set, read from a gzip-chunked HDF5 file.

    python benchmarks/loading_waiting.py [--epochs 20]

Needs the data set `darcy_small` (SCIML_DATA or a network). 1000 samples at 16 x 16, batches of 16, FNO of 32 channels
and four layers with 8 modes, Adam. Two runs: the default, which keeps what it has read, and one with a pool of half of
the data, so that each epoch reads the file again. Writes benchmarks/loading_waiting.json with the share of the whole
run (with compilation) and of the steps after the first that `fit` waited for a batch.
"""

import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import sciml

CHANNELS, LAYERS, MODES, BATCH = 32, 4, 8, 16


class Spectral(eqx.Module):
    """Multiplies the lowest Fourier modes by matrices, stored as pairs of real numbers."""

    weight: jax.Array  # (sign of the first wavenumber, part, in, out, mode, mode)

    def __init__(self, key):
        self.weight = jax.random.normal(key, (2, 2, CHANNELS, CHANNELS, MODES, MODES)) / CHANNELS

    def __call__(self, u):
        spectrum = jnp.fft.rfft2(u)
        out = jnp.zeros_like(spectrum)
        weight = jax.lax.complex(self.weight[:, 0], self.weight[:, 1])
        for rows, w in ((slice(0, MODES), weight[0]), (slice(-MODES, None), weight[1])):
            part = jnp.einsum("cxy,cdxy->dxy", spectrum[:, rows, :MODES], w)
            out = out.at[:, rows, :MODES].set(part)
        return jnp.fft.irfft2(out, s=u.shape[1:])


class FNO(eqx.Module):
    """Permeability on a grid to pressure: one sample in, one out."""

    lift: eqx.nn.Conv2d
    spectral: list[Spectral]
    local: list[eqx.nn.Conv2d]
    project: eqx.nn.Conv2d

    def __init__(self, key):
        keys = jax.random.split(key, 2 * LAYERS + 2)
        self.lift = eqx.nn.Conv2d(3, CHANNELS, 1, key=keys[0])
        self.spectral = [Spectral(k) for k in keys[2 : LAYERS + 2]]
        self.local = [eqx.nn.Conv2d(CHANNELS, CHANNELS, 1, key=k) for k in keys[LAYERS + 2 :]]
        self.project = eqx.nn.Conv2d(CHANNELS, 1, 1, key=keys[1])

    def __call__(self, a):
        places = jnp.meshgrid(*(jnp.linspace(0, 1, n) for n in a.shape), indexing="ij")
        u = self.lift(jnp.stack([a, *places]))
        for spectral, local in zip(self.spectral, self.local):
            u = jax.nn.gelu(spectral(u) + local(u))
        return self.project(u)[0]


def run(data: sciml.data.Dataset, pool: int | None, epochs: int) -> dict:
    """One training."""
    statistics = data.statistics(cache=False)
    model = sciml.nn.normalised(
        FNO(jax.random.key(0)),
        sciml.nn.normaliser(statistics, "x"),
        sciml.nn.normaliser(statistics, "y"),
    )
    batches = data.batches(BATCH, seed=0, pool=pool)
    steps = epochs * len(batches)
    started, states = time.perf_counter(), []
    train = sciml.train(model, sciml.relative_misfit, batches, optax.adam(2e-3), steps=steps, every=len(batches))
    for state in train:
        states.append(state)
    seconds = time.perf_counter() - started
    first, last = states[0], states[-1]
    waited = [s.waiting * s.seconds for s in (first, last)]
    return {
        "steps": steps,
        "seconds": round(seconds, 2),
        "mixing radius": batches.mixing_radius,
        "relative misfit of the last epoch": round(float(np.sqrt(last.losses["loss"])), 4),
        "waiting, whole run": round(last.waiting, 4),
        "waiting, after the first epoch": round((waited[1] - waited[0]) / (last.seconds - first.seconds), 4),
    }


def main(epochs: int) -> None:
    """Both runs."""
    small = sciml.dataset("darcy_small")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "darcy.h5"
        chunks = {"sample": 8}
        sciml.data.write(small.map(x=np.float32), path, chunks=chunks, compression="gzip", progress=False)
        data = sciml.open(path)["x", "y"]
        report: dict = {"kept in memory": run(data, None, epochs), "read again": run(data, 512, epochs)}
    for name, found in report.items():
        print(name, found)
    report |= {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "cpus": os.cpu_count(),
    }
    Path(__file__).with_name("loading_waiting.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    main(parser.parse_args().epochs)
