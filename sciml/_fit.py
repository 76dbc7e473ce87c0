"""The one training loop: `fit(model, loss, data, optimiser)`, and the generator `train` that it consumes."""

import itertools
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from ._loss import mean_squares, total
from ._progress import ProgressBar
from ._save import arrays_of, describe, put_arrays, read_archive, refuse_difference, write_archive
from ._sharding import agreed, constrain_like, mesh_of, on_mesh, put_like, shardings_of, wait_for_all, whole

# A compiled block of steps lasts about this long, so that the bar moves and an interrupt is heard.
BLOCK_SECONDS = 0.5
CHECKPOINT_SECONDS = 30.0
CHECKPOINT = "sciml checkpoint 1"


class NonFiniteWarning(RuntimeWarning):
    """Training met a NaN or an infinity and stopped; the last good model was kept."""


class Stream(eqx.Module):
    """Data that is kept for some steps, or that follows the model. A plain function `key -> batch` is the simplest
    stream; a subclass also sees the model and the batch before. All of it is compiled into the training step.
    """

    def init(self, key: Array, model: Any) -> Any:
        """The first batch."""
        raise NotImplementedError

    def next(self, key: Array, step: Array, model: Any, batch: Any) -> tuple[Any, Array]:
        """The batch of step `step`, and whether it differs from the one before."""
        raise NotImplementedError


class _Function(Stream):
    function: Callable

    def init(self, key, model):
        return self.function(key)

    def next(self, key, step, model, batch):
        # The first batch was drawn with this key already.
        return jax.lax.cond(step == 0, lambda: batch, lambda: self.function(key)), jnp.array(True)


class _Held(Stream):
    function: Callable
    every: int

    def init(self, key, model):
        return self.function(key)

    def next(self, key, step, model, batch):
        fresh = (step > 0) & (step % self.every == 0)
        return jax.lax.cond(fresh, lambda: self.function(key), lambda: batch), fresh


def hold(data: Callable, every: int) -> Stream:
    """The stream `data` (key -> batch), drawn anew only each `every` steps. Raises ValueError unless every > 0."""
    if every < 1:
        raise ValueError(f"hold: every must be above 0, got {every}")
    return _Held(data, every)


@dataclass(frozen=True)
class State:
    """A moment of the training: `step` steps are done. `losses` has the mean square of each term and their sum as
    `loss`; `optimiser` is the optimiser's state. The model has the present parameters, or what the optimiser makes of
    them (their average, with `sciml.optim.averaged`); the losses are those of the present ones.
    """

    step: int
    model: Any
    optimiser: Any
    losses: dict[str, float]
    seconds: float
    rate: float = 0.0
    stopped: str = ""
    waiting: float = 0.0  # the share of the time that training waited for data


@dataclass
class _Run:
    """What the host keeps of a training run."""

    static: Any
    loss: Callable
    key: Array
    steps: int | None
    seconds: float | None
    every: int
    checkpoint: Path | None
    started: float
    before: float = 0.0  # seconds of earlier sessions
    history: list = field(default_factory=list)
    saved: float = 0.0
    rate: float = 0.0
    stopped: str = ""
    waited: float = 0.0
    data: Any = None  # the fingerprint of data that can be resumed
    since: dict[str, list[float]] = field(default_factory=dict)  # terms of the steps since the last entry
    shardings: Any = None

    def elapsed(self) -> float:
        return time.perf_counter() - self.started + self.before


def fit(
    model: Any,
    loss: Callable,
    data: Callable | Stream | Iterable,
    optimiser: optax.GradientTransformation,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    every: int = 100,
    key: Array | None = None,
    sharding: Any = None,
    checkpoint: Any = None,
    report: Callable | bool | None = True,
) -> tuple[Any, Any]:
    """Trains `model` and returns it with its history, an xarray Dataset of losses by step.

    - `model`: any pytree; its floating-point arrays are trained. It is called on one sample, by the loss.
    - `loss`: `(model, batch) -> scalar`, or a dict of residual arrays, whose mean squares are summed.
    - `data`: a function `key -> batch` or a `Stream` (compiled into the step: no Python between steps), or an iterable
      of batches (a list is repeated, epoch after epoch; `Dataset.batches` gives one that goes on at any step at once).
    - `optimiser`: an Optax transformation. It gets the extra arguments `value`, `grad`, `value_fn` (parameters -> loss
      on this batch), `residual_fn` (parameters, batch -> residuals by name; None for a scalar loss), `batch` and
      `fresh` (whether the batch changed). If a part of its state has a method `result` (parameters -> parameters), the
      model that is returned has those, while training goes on from the present ones.
    - `steps`, `seconds`: the budget, whichever ends first; at least one. Seconds are wall time with compilation.
    - `every`: how many steps lie between two entries of the history. It does not change the result.
    - `key`: of the random numbers in `data`; the key of a step is `fold_in(key, step)`.
    - `sharding`: of the leading axis of each batch, a `NamedSharding`, as in
      `NamedSharding(sciml.mesh(data=8), P("data"))`. Parameters are copied to each device, or cut by
      `sciml.shard_parameters(model, mesh)`.
    - `checkpoint`: a file that is written every 30 s and at the end, and resumed from if it exists. The resumed run
      equals the uninterrupted one bit for bit.
    - `report`: called with each `State`; by default a progress bar on a terminal; None or False for silence.

    A NaN or infinity ends the training with a `NonFiniteWarning` that names step and term; Ctrl-C ends it too. Both
    return the last good model; `history.attrs["stopped"]` says why it ended, `history.attrs["waiting"]` which share of
    the time training waited for data. Raises ValueError without a budget, for a loss that is not finite at the start,
    and for a checkpoint of another run or of other data.
    """
    if callable(report) and not isinstance(report, bool):
        show, bar = report, None
    else:
        bar = ProgressBar(steps, seconds) if report else None
        show = bar or (lambda state: None)
    blocks, run = _start(model, loss, data, optimiser, steps, seconds, every, key, sharding, checkpoint)
    state = None
    if bar:
        bar.start()
    try:
        for state in blocks:
            show(state)
    except KeyboardInterrupt:
        # Only if it came between two blocks: inside one, the generator ends by itself.
        blocks.close()
        run.stopped = "interrupted"
    finally:
        if bar:
            bar.stop()
    if run.stopped == "interrupted":
        print(f"interrupted at step {state.step if state else 0}; the last good model is kept", file=sys.stderr)
    return (state.model if state else model), _as_dataset(run)


def train(
    model: Any,
    loss: Callable,
    data: Callable | Stream | Iterable,
    optimiser: optax.GradientTransformation,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    every: int = 100,
    key: Array | None = None,
    sharding: Any = None,
    checkpoint: Any = None,
) -> Iterator[State]:
    """The loop behind `fit`, with the same arguments: yields a `State` each `every` steps and at the end.

    What should happen between steps (plots, early stopping, schedules of one's own) is written in the `for` loop.
    """
    blocks, run = _start(model, loss, data, optimiser, steps, seconds, every, key, sharding, checkpoint)
    last = None
    for state in blocks:
        if state.step % every == 0 or state.stopped:
            last = state.step
            yield state
    if run.stopped and last is None:
        return


def _start(model, loss, data, optimiser, steps, seconds, every, key, sharding, checkpoint):
    if steps is None and seconds is None:
        raise ValueError("give a budget: steps=... or seconds=...")
    if (steps is not None and steps < 0) or (seconds is not None and not seconds > 0) or every < 1:
        raise ValueError(f"steps, seconds and every must be positive, got {steps}, {seconds}, {every}")
    key = jax.random.key(0) if key is None else key
    _, static = eqx.partition(model, eqx.is_inexact_array)
    path = None if checkpoint is None else Path(checkpoint)
    run = _Run(static, loss, key, steps, seconds, every, path, time.perf_counter())
    optimiser = optax.with_extra_args_support(optimiser)
    if isinstance(data, Stream) or callable(data):
        stream = data if isinstance(data, Stream) else _Function(data)
        return _scanned(run, model, stream, optimiser, sharding), run
    if not isinstance(data, Iterable):
        raise TypeError(
            f"data must be a function key -> batch, a Stream or an iterable of batches, got {type(data).__name__}"
        )
    if hasattr(data, "from_step"):
        resumable: Any = data
        resumable = resumable if sharding is None else resumable.sharded(sharding)
        run.data = resumable.fingerprint
        return _iterated(run, model, resumable, optimiser, None), run
    return _iterated(run, model, data, optimiser, sharding), run


# One step, shared by both ways of feeding data.


def _make_step(run: _Run, optimiser):
    """`(params, state, batch, fresh) -> (params, state, terms, ok)`; a bad step keeps the old parameters."""

    def terms_of(params, batch):
        return run.loss(eqx.combine(params, run.static), batch)

    def step(params, state, batch, fresh):
        is_scalar = not isinstance(jax.eval_shape(terms_of, params, batch), dict)

        def value_fn(p, batch=batch, residual_fn=None, fresh=None):
            # Optax's line searches pass on the extra arguments that this signature names, and refuse others.
            return total(terms_of(p, batch))

        def value_and_terms(p):
            terms = terms_of(p, batch)
            return total(terms), mean_squares(terms)

        (value, terms), grad = jax.value_and_grad(value_and_terms, has_aux=True)(params)
        extra = {
            "value": value,
            "grad": grad,
            "value_fn": value_fn,
            "residual_fn": None if is_scalar else terms_of,
            "batch": batch,
            "fresh": fresh,
        }
        updates, new_state = optimiser.update(grad, state, params, **extra)
        new = eqx.apply_updates(params, updates)
        ok = jnp.all(jnp.stack([jnp.all(jnp.isfinite(p)) for p in jax.tree.leaves(new)]))
        new = constrain_like(jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, params), run.shardings)
        return new, new_state, terms, ok

    return step


def _params_of(model):
    params, _ = eqx.partition(model, eqx.is_inexact_array)
    if not jax.tree.leaves(params):
        raise ValueError("the model has no floating-point arrays to train")
    return params


def _report_losses(run: _Run):
    @jax.jit
    def losses(params, batch):
        return mean_squares(run.loss(eqx.combine(params, run.static), batch))

    def read(params, batch) -> dict[str, float]:
        return _with_sum({n: float(v) for n, v in losses(params, batch).items()})

    return read


def _with_sum(terms: dict[str, float]) -> dict[str, float]:
    return terms if "loss" in terms else terms | {"loss": sum(terms.values())}


# Data as a function of a key: compiled, many steps at a time.


def _scanned(run: _Run, model, stream: Stream, optimiser, sharding) -> Generator[State, None, None]:
    params = _params_of(model)
    take_step, read_losses = _make_step(run, optimiser), _report_losses(run)

    def place(batch):
        return batch if sharding is None else jax.lax.with_sharding_constraint(batch, sharding)

    def advance(carry, until):
        def one(carry):
            params, state, batch, step, _ = carry
            model = eqx.combine(params, run.static)
            batch, fresh = stream.next(jax.random.fold_in(run.key, step), step, model, batch)
            batch = place(batch)
            params, state, _, ok = take_step(params, state, batch, fresh)
            # A step that fails is not counted.
            return params, state, batch, step + ok, ok

        return jax.lax.while_loop(lambda c: (c[3] < until) & c[4], one, carry)

    first = eqx.filter_jit(lambda m: place(stream.init(jax.random.fold_in(run.key, 0), m)))(model)
    carry = (params, optimiser.init(params), first, jnp.zeros((), jnp.int32), jnp.array(True))
    carry = _as_strong(_resume(run, carry, model))
    step = int(carry[3])
    if step == 0:
        _refuse_bad_start(read_losses(params, carry[2]))
    advance = jax.jit(advance)
    losses: dict[str, float] = {}
    try:
        while not run.stopped:
            until = _next_stop(run, step)
            begin = time.perf_counter()
            new = jax.block_until_ready(advance(carry, until))
            took = time.perf_counter() - begin
            _measure_rate(run, int(new[3]) - step, took, step)
            carry, step = new, int(new[3])
            at_report = step % run.every == 0
            if not bool(carry[4]):
                run.stopped = _blame(run, carry[0], carry[2], step)
            elif run.steps is not None and step >= run.steps:
                run.stopped = "steps"
            elif _time_is_up(run):
                run.stopped = "time"
            if at_report or run.stopped or not losses:
                losses = read_losses(carry[0], carry[2])
            if (at_report or run.stopped) and step > 0:
                _record(run, step, losses)
            _maybe_save(run, carry, model)
            yield _state(run, carry, losses)
    except KeyboardInterrupt:
        run.stopped = "interrupted"
        _record(run, step, losses)
        _maybe_save(run, carry, model)
        yield _state(run, carry, losses)


def _as_strong(tree):
    """Without weak types, which would make the second call of a compiled loop a new program."""
    return jax.tree.map(lambda a: jax.lax.convert_element_type(a, a.dtype) if _plain(a) else a, tree)


def _plain(a) -> bool:
    return eqx.is_array(a) and not jnp.issubdtype(a.dtype, jax.dtypes.prng_key)


def _next_stop(run: _Run, step: int) -> int:
    """The step at which the next compiled block ends: the next entry of the history, or sooner if that is far."""
    until = (step // run.every + 1) * run.every
    if run.steps is not None:
        until = min(until, run.steps)
    if not run.rate:
        return min(until, step + 1)
    seconds = BLOCK_SECONDS
    if run.seconds is not None:
        seconds = min(seconds, max(0.0, run.seconds - run.elapsed()))
    return max(step + 1, min(until, step + int(run.rate * seconds)))


def _measure_rate(run: _Run, done: int, took: float, step: int) -> None:
    # The first block is compilation.
    if done and (run.rate or took < BLOCK_SECONDS or step > 0):
        run.rate = done / max(took, 1e-9)


def _time_is_up(run: _Run) -> bool:
    one_step = 1 / run.rate if run.rate else 0.0
    return run.seconds is not None and agreed(run.elapsed() + one_step > run.seconds)


def _state(run: _Run, carry, losses) -> State:
    model = eqx.combine(_result(carry[1], carry[0]), run.static)
    waiting = run.waited / max(run.elapsed(), 1e-9)
    return State(int(carry[3]), model, carry[1], dict(losses), run.elapsed(), run.rate, run.stopped, waiting)


def _result(state, params):
    """The parameters that the optimiser holds to be the result: those that the first part of its state with a method
    `result` makes of the present ones; as a rule these.
    """

    def decides(part):
        return hasattr(part, "result")

    parts = [part for part in jax.tree.leaves(state, is_leaf=decides) if decides(part)]
    return parts[0].result(params) if parts else params


def _record(run: _Run, step: int, losses: dict[str, float]) -> None:
    if losses and not (run.history and run.history[-1][0] == step):
        run.history.append((step, run.elapsed(), dict(losses)))


def _as_dataset(run: _Run):
    import xarray as xr

    names = list(run.history[-1][2]) if run.history else []
    data = {n: ("step", np.array([losses.get(n, np.nan) for _, _, losses in run.history])) for n in names}
    coords = {
        "step": np.array([step for step, _, _ in run.history], int),
        "seconds": ("step", np.array([s for _, s, _ in run.history], float), {"units": "s"}),
    }
    waiting = run.waited / max(run.elapsed(), 1e-9)
    return xr.Dataset(data, coords=coords, attrs={"stopped": run.stopped, "waiting": waiting})


# What to do when numbers are not finite.


def _refuse_bad_start(losses: dict[str, float]) -> None:
    bad = [n for n, v in losses.items() if n != "loss" and not np.isfinite(v)] or [
        n for n, v in losses.items() if not np.isfinite(v)
    ]
    if bad:
        raise ValueError(
            f"the term '{bad[0]}' is {losses[bad[0]]} before the first step: check the loss and the data for "
            "divisions by zero, roots of negative numbers and missing values"
        )


def _blame(run: _Run, params, batch, step: int) -> str:
    """Names the term whose value or gradient is not finite at the last good parameters."""

    def terms(p):
        return mean_squares(run.loss(eqx.combine(p, run.static), batch))

    values = terms(params)
    culprit = next((n for n, v in values.items() if not np.isfinite(float(v))), None)
    for name in values if culprit is None else ():
        grad = jax.grad(lambda p, n=name: terms(p)[n])(params)
        if not all(bool(jnp.all(jnp.isfinite(g))) for g in jax.tree.leaves(grad)):
            culprit = name
            break
    # Both are fine at the last good model: it was the step beyond it that failed.
    where = f"in term '{culprit}'" if culprit is not None else "in the update of the optimiser"
    message = f"non-finite at step {step + 1} {where}"
    warnings.warn(f"{message}; the model of step {step} is kept", NonFiniteWarning, stacklevel=2)
    return message


# Data as an iterable of batches: one compiled step per batch.


def _iterated(run: _Run, model, data: Iterable, optimiser, sharding) -> Generator[State, None, None]:
    mesh = _mesh(model, data, sharding)
    params = _params_of(model) if mesh is None else on_mesh(_params_of(model), mesh)
    run.shardings = shardings_of(params)
    take_step = eqx.filter_jit(_make_step(run, optimiser))
    carry = (params, optimiser.init(params), (), jnp.zeros((), jnp.int32), jnp.array(True))
    carry = _as_strong(_resume(run, carry, model))
    carry = carry if mesh is None else on_mesh(carry, mesh)
    step, losses = int(carry[3]), {}
    sums: dict[str, list] = {name: list(jnp.asarray(values, float)) for name, values in run.since.items()}
    batches = _batches(data, step, sharding)
    began, counted = time.perf_counter(), 0

    def entry():
        """Ends an entry of the history: the means since the last one."""
        nonlocal losses
        if sums:
            losses = _with_sum({n: float(jnp.mean(jnp.stack(v))) for n, v in sums.items()})
            _record(run, step, losses)
        if step % run.every == 0:
            sums.clear()
        run.since = {n: [float(value) for value in v] for n, v in sums.items()}
        _maybe_save(run, carry, model)
        return _state(run, carry, losses)

    try:
        while not run.stopped:
            if run.steps is not None and step >= run.steps:
                run.stopped = "steps"
                break
            asked = time.perf_counter()
            batch = next(batches, None)
            run.waited += time.perf_counter() - asked
            if batch is None:
                run.stopped = f"the data ended after {step} batches"
                remedy = "pass an iterable that can be repeated (a list, or a class with __iter__), or fewer steps"
                warnings.warn(f"{run.stopped}: {remedy}", stacklevel=2)
                break
            new_params, state, terms, ok = take_step(carry[0], carry[1], batch, jnp.array(True))
            if step == 0:
                _refuse_bad_start(_with_sum({n: float(v) for n, v in terms.items()}))
                began = time.perf_counter()
            if not bool(ok):
                run.stopped = _blame(run, carry[0], batch, step)
                break
            carry = (new_params, state, (), carry[3] + 1, ok)
            step, counted = step + 1, counted + 1
            run.rate = counted / max(time.perf_counter() - began, 1e-9) if counted > 1 else 0.0
            for name, value in terms.items():
                sums.setdefault(name, []).append(value)
            if _time_is_up(run):
                run.stopped = "time"
            elif step % run.every == 0:
                yield entry()
    except KeyboardInterrupt:
        run.stopped = "interrupted"
    finally:
        # Data that read ahead have threads to end.
        batches.close()
    yield entry()


def _mesh(model, data, sharding):
    """The devices that training runs on: those of the batches, or of a model that is cut over them."""
    mesh = getattr(sharding, "mesh", None) or getattr(data, "mesh", None)
    return mesh if mesh is not None and mesh.devices.size > 1 else mesh_of(model)


def _batches(data: Any, skip: int, sharding) -> Generator:
    """Epoch after epoch, from batch number `skip` on."""
    if hasattr(data, "from_step"):
        stream = data.from_step(skip)
        try:
            yield from stream
        finally:
            stream.close()
        return

    def endless():
        while True:
            empty = True
            for batch in data:
                empty = False
                yield batch
            if empty or iter(data) is data:
                return

    for batch in itertools.islice(endless(), skip, None):
        arrays = jax.tree.map(jnp.asarray, batch)
        yield arrays if sharding is None else jax.device_put(arrays, sharding)


# Checkpoints.


def _fingerprint(carry, model, run: _Run) -> dict:
    return {
        "format": CHECKPOINT,
        "model": describe(model),
        "state": [str(getattr(a, "dtype", type(a).__name__)) + str(jnp.shape(a)) for a in jax.tree.leaves(carry)],
        "structure": str(jax.tree.structure(carry[1])),
        "key": np.asarray(_key_words(run.key)).tolist(),
        "every": run.every,
        "data": run.data,
    }


def _key_words(key):
    return jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key


def _maybe_save(run: _Run, carry, model) -> None:
    if run.checkpoint is None:
        return
    if not agreed(bool(run.stopped) or time.perf_counter() - run.saved >= CHECKPOINT_SECONDS):
        return
    run.saved = time.perf_counter()
    config = _fingerprint(carry, model, run) | {"seconds": run.elapsed(), "history": run.history, "since": run.since}
    arrays = arrays_of(whole(carry[:4]))
    if jax.process_index() == 0:
        write_archive(run.checkpoint, config, arrays)
    wait_for_all()


def _resume(run: _Run, carry, model):
    """The saved state if there is one, else the one given."""
    if run.checkpoint is None:
        return carry
    run.saved = time.perf_counter()
    exists = run.checkpoint.exists()
    if agreed(exists) != exists:
        raise ValueError(
            f"process {jax.process_index()} {'sees' if exists else 'does not see'} {run.checkpoint}, the first process "
            f"{'does not' if exists else 'does'}: checkpoints must lie in a folder that all processes share"
        )
    if not exists:
        return carry
    config, arrays = read_archive(run.checkpoint)
    expected = _fingerprint(carry, model, run)
    refuse_difference(run.checkpoint, {k: config.get(k) for k in expected}, expected)
    run.history = [tuple(entry) for entry in config["history"]]
    run.before, run.since = float(config["seconds"]), config["since"]
    if run.history and run.history[-1][0] % run.every:
        # The entry that an early end left; the uninterrupted run would not have it.
        run.history.pop()
    return (*put_like(put_arrays(carry[:4], arrays), carry[:4]), jnp.array(True))
