"""Phenobarbital in 59 newborn infants: clearance and volume of the population, and how infants differ.

A dose goes into one compartment of volume V at once and is eliminated at the rate CL / V; what is measured is the
amount over V. Both are in proportion to an infant's weight, CL = clearance weight exp(e1) and V = volume weight
exp(e2), V times 1 + low_apgar where the Apgar score is below 5. The effects e1 and e2 are normal with unknown
variances, and so is the relative error of a measurement. Infants had 1 to 15 doses and 1 to 6 measurements, 155 in all.

NONMEM's estimates and standard errors, by the first-order conditional method with interaction, are those of the example
in Pharmpy 2.2.0 (`pheno.mod`, `pheno.ext`). `error_nonmem` is the largest relative difference of the six numbers,
`error_nonmem_se` that of their standard errors (0 where a fit ended too early), `error_objective` that of -2 log L, but
for its constant, from 586.276056, and `rmse_infants` and `rmse_typical` are those of mg/l with and without effects.
"""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import sciml
from sciml import Unknown, ode, optim

EXPECTED = {"error_nonmem": 1e-3, "error_nonmem_se": 0.01, "error_objective": 1e-3}
BUDGET = 120.0
OBJECTIVE = 586.2760562852097
NONMEM = {
    "clearance": (4.69555e-3, 2.09967e-4),
    "volume": (0.984258, 2.68946e-2),
    "low_apgar": (0.158920, 8.37555e-2),
    "variance_clearance": (2.93508e-2, 1.34156e-2),
    "variance_volume": (2.79060e-2, 7.47591e-3),
    "variance_error": (1.32410e-2, 2.27991e-3),
}


def elimination(amount, rate):
    """The rate of the amount."""
    return -rate * amount


class Infant(eqx.Module):
    """Concentrations (n, 1) after the doses of one infant."""

    numbers: dict
    stepped: bool = eqx.field(static=True)

    def __call__(self, y0, ts, args=None):
        clearance, volume, low = (self.numbers[n]() for n in ("clearance", "volume", "low_apgar"))
        clearance, volume = args["weight"] * clearance, args["weight"] * volume * (1 + low * (args["apgar"] < 5))
        doses, rate = args["doses"], clearance / volume
        if self.stepped:
            field = ode.Mechanism(elimination, ("amount",), {"rate": rate})
            return ode.Dosed(field, ode.Steps(rtol=1e-8, atol=1e-8))(y0, ts, {"doses": doses}) / volume
        since = ts[:, None] - doses.times
        return jnp.where(since > 0, jnp.exp(-rate * jnp.maximum(since, 0)), 0) @ doses.amounts / volume


def problem(steps: int = 25, stepped: bool = False) -> sciml.Problem:
    """steps: of the quasi-Newton method; stepped: solves by Runge-Kutta steps between doses, not in closed form."""
    loss, newton, table = ode.marginal_likelihood, optim.self_scaled_bfgs(), sciml.dataset("phenobarbital")
    data = ode.from_events(table, ["concentration"], by="subject", constants=["weight", "apgar"])
    with sciml.double_precision():
        guesses = {"clearance": Unknown(0.01, positive=True), "volume": Unknown(1.5, positive=True)}
        guesses["low_apgar"] = Unknown(0.1)
        infant = Infant({name: guess.trainable() for name, guess in guesses.items()}, stepped)
        model = ode.mixed(infant, {"clearance": 0.3, "volume": 0.3}, proportional=0.3)

    def evaluate(model):
        found = dict(zip(NONMEM, np.asarray(numbers_of(model)).tolist()))
        errors = dict.fromkeys(NONMEM, 0.0)
        with contextlib.suppress(ValueError):
            errors = dict(zip(NONMEM, ode.information(model, data, sandwich=True).deviations(numbers_of).tolist()))
        measured = np.isfinite(data.ys)
        objective = float(loss(model, data)) - measured.sum() * np.log(2 * np.pi)
        predicted = {"infants": ode.individual(model, data), "typical": ode.predicted(model, data)}
        return (
            {"error_nonmem": max(abs(found[n] / value - 1) for n, (value, _) in NONMEM.items())}
            | {"error_nonmem_se": max(abs(errors[n] / error - 1) for n, (_, error) in NONMEM.items())}
            | {"error_objective": abs(objective - OBJECTIVE), "objective": objective}
            | {f"rmse_{n}": float(np.sqrt(np.mean((y - data.ys)[measured] ** 2))) for n, y in predicted.items()}
            | found
            | {f"{n}_se": error for n, error in errors.items()}
        )

    def figure(model):
        from matplotlib.figure import Figure

        chosen = np.argsort(-np.isfinite(data.ys).sum(axis=(1, 2)), kind="stable")[:6]
        some, effects = ode.take(data, chosen), jnp.asarray(ode.random_effects(model, data)[0][chosen])
        ts = np.linspace(0, some.ts.max(axis=1), 400, axis=1)
        each = eqx.filter_jit(jax.vmap(lambda e, y0, ts, args: model.subject(e)(y0, ts, args)))
        panels = (made := Figure(figsize=(11, 6), layout="constrained")).subplots(2, 3).ravel()
        for name, size, colour in (("infant", 1.0, "#D55E00"), ("typical", 0.0, "#56B4E9")):
            for panel, t, ys in zip(panels, ts, each(size * effects, some.y0, ts, some.args)):
                panel.plot(t, ys, label=name, color=colour)
        for i, (panel, number) in enumerate(zip(panels, chosen)):
            panel.plot(some.ts[i], some.ys[i, :, 0], "ko", markersize=4, label="measured")
            panel.set(xlabel="time / h", ylabel="mg/l", title=f"{number + 1}: {some.args['weight'][i]:.1f} kg")
        panels[0].legend(fontsize="small")
        return made

    return sciml.Problem(model, loss, lambda key: data, newton, steps, evaluate, figure=figure, double=True)


def numbers_of(model):
    """Those of NONMEM, in their order."""
    found = ode.parameters(model)
    squared = [found[n] ** 2 for n in ("sd_clearance", "sd_volume", "proportional")]
    return jnp.stack([found["clearance"], found["volume"], found["low_apgar"], *squared])
