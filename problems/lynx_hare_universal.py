"""Lynx and hare with a universal differential equation: a network says how often they meet, from 21 years of pelts.

h' = (alpha - exp(n_1(h, l)) l) h, l' = (-gamma + exp(n_2(h, l)) h) l, in thousands of pelts and years, after Rackauckas
et al. (arXiv 2001.04385), whose network gives the terms in h l as a whole. Growth and death are known: alpha and gamma
are the posterior means of Lotka and Volterra's equations in Carpenter's case study in Stan (2018). The network has the
logarithms of both numbers as inputs and begins at rates of 0.025. Initial numbers are free, the noise is log-normal
with the deviation of 0.25 that the case study found for both species, and weights have a normal prior of mean 0 and
deviation `weights`. All are found by Gauss-Newton.

`beta`, `delta` are geometric means over the 21 years of the rates that were found, `beta_se`, `delta_se` their relative
deviations by Laplace's approximation; `error_stan` is the largest relative difference to the constants of the case
study, 0.028 and 0.024. `bend_beta`, `bend_delta` are the ranges of the logarithms of the rates over the years, 0 for
Lotka and Volterra, and `bend_beta_se`, `bend_delta_se` their deviations. `rms` is what the values miss in units of the
noise. A wider prior bends the rates more and makes them less certain.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import sciml
from sciml import ode, optim

EXPECTED = {"error_stan": 0.1, "rms": 1.0}
BUDGET = 180.0
STAN = {"alpha": 0.545, "beta": 0.028, "gamma": 0.803, "delta": 0.024}
NOISE, RATE = 0.25, 0.025
SPECIES = ("hare", "lynx")


def predation(hare, lynx, alpha, gamma, network):
    """The rates of both species."""
    eaten, born = jnp.exp(logarithms(network, jnp.stack([hare, lynx])))
    return alpha * hare - eaten * hare * lynx, -gamma * lynx + born * hare * lynx


def logarithms(network, numbers):
    """Those of how many hares are eaten and lynx born, over the product of both numbers."""
    # 3 is the logarithm of a common number of either.
    return np.log(RATE) + network(ode.log(numbers) - 3)


def problem(steps: int = 20, width: int = 4, weights: float = 1.0, seed: int = 0) -> sciml.Problem:
    """steps: of Gauss-Newton; width: of the network's hidden layer; weights: the deviation of their prior."""
    with sciml.double_precision():
        data = ode.from_dataset(sciml.dataset("lynx_hare"), SPECIES, time="year")
        data = data._replace(ts=data.ts - data.ts[0, 0])
        network = sciml.nn.mlp(2, 2, width, 1, key=jax.random.key(seed))
        network = eqx.tree_at(lambda n: n.layers[-1].weight, network, replace_fn=jnp.zeros_like)
        known = {"alpha": STAN["alpha"], "gamma": STAN["gamma"]}
        # Eight steps of fourth order a year.
        model = ode.mechanism(predation, SPECIES, ode.Between(8), network=network, **known)
        model, data = ode.free_starts(model, data, positive=True)
        misfit = ode.trajectory_misfit(scale=NOISE, transform=ode.log)

    def beliefs(model):
        return ravel_pytree(eqx.filter(network_of(model), eqx.is_inexact_array))[0] / weights

    loss = ode.with_prior(misfit, data.ys.size, beliefs)

    def evaluate(model):
        at = ode.linearised(model, loss, data, noise=1.0)
        found, errors = (dict(zip(("beta", "delta", "bend_beta", "bend_delta"), a)) for a in at.evaluated(moments))
        found |= {n: np.exp(found[n]) for n in ("beta", "delta")}
        apart = max(abs(found[n] / STAN[n] - 1) for n in ("beta", "delta"))
        missed = jnp.sqrt(jnp.mean(misfit(model, data)["misfit"] ** 2))
        return {"error_stan": apart, "rms": missed} | found | {f"{n}_se": e for n, e in errors.items()}

    def moments(model):
        along = jax.vmap(lambda y: logarithms(network_of(model), y))(model(0, data.ts[0]))
        return jnp.concatenate([jnp.mean(along, axis=0), jnp.ptp(along, axis=0)])

    def figure(model):
        ts = np.linspace(0, 20, 201)
        at = ode.linearised(model, loss, data, noise=1.0)
        found, deviations = at.evaluated(lambda m: jnp.log(m(0, jnp.asarray(ts))))
        rates = np.exp(jax.vmap(lambda y: logarithms(network_of(model), y))(np.exp(found)))
        return ode.trajectory_figure(
            1900 + ts,
            {"model": np.exp(found)},
            deviations=deviations,
            measured=(1900 + data.ts[0], data.ys[0]),
            quantities={"hares eaten": rates[:, 0], "lynx born": rates[:, 1]},
            quantity="rates over both numbers",
            names=SPECIES,
            time="year",
            log=True,
            title="thousands of pelts",
        )

    newton = optim.gauss_newton(accelerate=False)
    return sciml.Problem(model, loss, lambda key: data, newton, steps, evaluate, figure=figure, double=True)


def network_of(model):
    """The network within a model with free initial numbers."""
    return model.model.field.parameters["network"]
