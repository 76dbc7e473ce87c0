"""Lynx and hare in Canada, 1900 to 1920: the Lotka-Volterra equations with standard errors, from 21 years of pelts.

h' = (alpha - beta l) h, l' = (-gamma + delta h) l, in thousands of pelts and years. The model is that of Carpenter's
case study in Stan (2018): log-normal noise of its own for each species, initial numbers that are found too, and its
priors, which matter: alpha and gamma are normal with mean 1 and deviation 0.5, beta and delta with 0.05 and 0.05, and
the logarithms of the initial numbers with log(10) and 1. The variance of the noise follows from what the model misses,
as the mean of its posterior under a flat prior of its logarithm.

Gauss-Newton in the logarithms of all numbers finds the mode with that noise; `alpha`, ... are the means of the
posterior by Laplace's approximation in the logarithms around it, and `alpha_se`, ... the deviations. They stand beside
those that Stan samples (means 0.545, 0.028, 0.803, 0.024; deviations 0.065, 0.004, 0.092, 0.004): `error_stan` is the
largest relative difference of the four, `error_stan_se` that of the deviations. The first guess are the rates that are
nearest to the slopes of smoothed logarithms.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import sciml
from sciml import Unknown, ode, optim

EXPECTED = {"error_stan": 0.02, "error_stan_se": 0.2}
BUDGET = 60.0
STAN = {"alpha": (0.545, 0.065), "beta": (0.028, 0.004), "gamma": (0.803, 0.092), "delta": (0.024, 0.004)}
PRIOR = {"alpha": (1.0, 0.5), "beta": (0.05, 0.05), "gamma": (1.0, 0.5), "delta": (0.05, 0.05)}
SPECIES = ("hare", "lynx")


def predation(hare, lynx, alpha, beta, gamma, delta):
    """The rates of both species."""
    return alpha * hare - beta * hare * lynx, -gamma * lynx + delta * hare * lynx


def problem(steps: int = 12, priors: bool = True) -> sciml.Problem:
    """steps: of Gauss-Newton; priors: whether those of the case study are used."""
    with sciml.double_precision():
        data = ode.from_dataset(sciml.dataset("lynx_hare"), SPECIES, time="year")
        data = data._replace(ts=data.ts - data.ts[0, 0])
        # Eight steps of fourth order a year: their error is a millionth.
        model = ode.mechanism(predation, SPECIES, ode.Between(8), **first_guess(data))
        model, numbered = ode.free_starts(model, data, positive=True)
        misfit = ode.trajectory_misfit(transform=ode.log)
        loss = misfit
        if priors:
            # Of the logarithms of the initial numbers.
            starts = lambda model: (model.raw - jnp.log(10.0)).ravel()  # noqa: E731
            loss = ode.with_prior(misfit, data.ys.size, starts, **PRIOR)
        # Six numbers, and two for each variance: the mean of its posterior is S / (n - 3 - 2).
        stream = ode.estimated_noise(numbered, misfit, parameters=10)

    # With the noise that the model leaves.
    weighed = eqx.filter_jit(lambda model: stream.init(jax.random.key(0), model))

    def evaluate(model):
        batch = weighed(model)
        found, errors = posterior(ode.linearised(model, loss, batch, noise=1.0))
        noise = dict(zip(SPECIES, np.asarray(batch.noise)[0]))
        return (
            {"error_stan": max(abs(found[n] / mean - 1) for n, (mean, _) in STAN.items())}
            | {"error_stan_se": max(abs(errors[n] / deviation - 1) for n, (_, deviation) in STAN.items())}
            | found
            | {f"{n}_se": errors[n] for n in STAN}
            | {f"noise_{n}": value for n, value in noise.items()}
        )

    def figure(model):
        ts = np.linspace(0, 20, 201)
        at = ode.linearised(model, loss, weighed(model), noise=1.0)
        logarithms, deviations = at.evaluated(lambda m: jnp.log(m(0, jnp.asarray(ts))))
        curves = {"model": np.exp(logarithms)}
        shown = {"names": SPECIES, "time": "year", "log": True, "title": "thousands of pelts"}
        measured = (1900 + data.ts[0], data.ys[0])
        return ode.trajectory_figure(1900 + ts, curves, deviations=deviations, measured=measured, **shown)

    newton = optim.gauss_newton(accelerate=False)
    return sciml.Problem(model, loss, stream, newton, steps, evaluate, figure=figure, double=True)


def posterior(at):
    """Means and deviations of the parameters, log-normal around the mode of their logarithms."""

    def moments(model):
        own = jnp.log(jnp.stack([ode.parameters(model)[n] for n in STAN]))
        return jnp.concatenate([own, own + jnp.sum(own), jnp.sum(own)[None]])

    values, deviations = at.evaluated(moments)
    own, with_all, all_ = np.split(deviations**2, [4, 8])
    # Least squares find the mode of the density of the parameters. That of their logarithms has them as one more
    # factor, which moves its mode by the covariance with their sum.
    covariance = (with_all - own - all_) / 2
    means = np.exp(values[:4] + covariance + own / 2)
    return dict(zip(STAN, means.tolist())), dict(zip(STAN, (means * np.sqrt(np.expm1(own))).tolist()))


def first_guess(data):
    """The unknown numbers for which h'/h and l'/l are nearest to the slopes of smooth logarithms."""
    smooth = ode.smoothed(data._replace(ys=np.log(data.ys)))
    ones, (hare, lynx) = np.ones(data.ts.size), np.exp(smooth.ys[0].T)
    found = {}
    for j, columns in enumerate(({"alpha": ones, "beta": -lynx}, {"gamma": -ones, "delta": hare})):
        rows = np.stack([*columns.values(), smooth.slopes[0, :, j]], 1) / smooth.slope_deviations[0, :, j, None]
        found |= zip(columns, np.linalg.lstsq(rows[:, :2], rows[:, 2])[0])
    return {name: Unknown(float(value), positive=True) for name, value in found.items()}
