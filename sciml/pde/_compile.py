"""Compilation of programs that run a few times only."""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer


def compiled_quickly(function: Callable) -> Callable:
    """As `eqx.filter_jit`, with little optimisation by the compiler of CPUs: for long programs at few points. The
    derivatives of exact conditions of a flow in three dimensions and time are compiled in 5 s instead of 14 s and run
    as fast.
    """

    @functools.cache
    def compiled() -> Callable:
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        return eqx.filter_jit(function, compiler_options=options)  # pyright: ignore[reportCallIssue]

    @functools.wraps(function)
    def call(*args):
        # JAX takes options of the outermost program only. Which backend there is must not be asked for on import.
        return function(*args) if _is_traced() else compiled()(*args)

    return call


def _is_traced() -> bool:
    """Whether this is part of a program that is being compiled: numbers have no values then."""
    return isinstance(jnp.zeros(()), Tracer)
