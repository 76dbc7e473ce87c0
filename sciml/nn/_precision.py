"""Less memory and time for a model: half precision inside, and values computed again in the backward pass."""

import abc
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp


class _Around(eqx.Module):
    """A module in place of another, whose methods are those of the other, called in its own way."""

    module: eqx.AbstractVar[Any]

    @abc.abstractmethod
    def _run(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Calls a method of the module."""

    def __getattr__(self, name: str) -> Any:
        # While it is being built or copied there may be no module yet.
        if name == "module" or name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self.module, name)
        is_method = callable(value) and callable(getattr(type(self.module), name, None))
        is_field = name in getattr(self.module, "__dataclass_fields__", {})
        return functools.partial(self._run, name) if is_method and not is_field else value


class MixedPrecision(_Around):
    """What `mixed_precision` returns: the model with its own parameters, as they are trained and saved."""

    module: Any
    compute: Any = eqx.field(static=True)
    keep: tuple[type, ...] = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run("__call__", *args, **kwargs)

    def _run(self, method, *args, **kwargs):
        dtype = _dtype_of((args, kwargs)) or _dtype_of(self.module)

        def is_kept(node):
            return isinstance(node, self.keep) or getattr(node, "full_precision", False) is True

        def lowered(node):
            return _FullPrecision(node, self.compute) if is_kept(node) else _cast(node, self.compute)

        model = jax.tree.map(lowered, self.module, is_leaf=is_kept)
        args, kwargs = _cast((args, kwargs), self.compute)
        return _cast(getattr(model, method)(*args, **kwargs), dtype)


class _FullPrecision(_Around):
    """A module in the precision of its own parameters among others in `compute`."""

    module: Any
    compute: Any = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run("__call__", *args, **kwargs)

    def _run(self, method, *args, **kwargs):
        args, kwargs = _cast((args, kwargs), _dtype_of(self.module) or jnp.float32)
        return _cast(getattr(self.module, method)(*args, **kwargs), self.compute)


def mixed_precision(model: Callable, compute: Any = jnp.bfloat16, keep: tuple[type, ...] | type = ()) -> MixedPrecision:
    """The model computed in `compute` (Micikevicius et al., 2018): parameters stay as they are, usually float32, as do
    their gradients and the optimiser's steps; in a call they and the floating-point arguments are cast, and the result
    is cast back to the type of the arguments.

    Modules of the types `keep`, and those of a class with the attribute `full_precision = True`, run in the type of
    their own parameters: their arguments are cast up, their results down. (Fourier transforms have no bfloat16, and
    sums over a grid lose small modes in it.) bfloat16 has the range of float32, so that no scaling of the loss is
    needed; of float16 the user takes care.

    Normalise in float32, outside: `normalised(mixed_precision(model), ...)`. bfloat16 has 8 bits: relative errors of
    4e-3 in each operation. It saves memory everywhere, time only on hardware that computes in it, as CPUs seldom do;
    there XLA may also add up in it, so that gradients of biases, sums over all points, were 2 to 8 % off on a grid of
    16 x 16 where those of matrices were 0.5 % off.

    Raises ValueError where `compute` is no floating-point type.
    """
    if not jnp.issubdtype(jnp.dtype(compute), jnp.floating):
        raise ValueError(f"mixed_precision: compute must be a floating-point type such as jnp.bfloat16, got {compute}")
    return MixedPrecision(model, jnp.dtype(compute), (keep,) if isinstance(keep, type) else tuple(keep))


class _Remat(_Around):
    """A module whose values in between are not kept for the backward pass."""

    module: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._run("__call__", *args, **kwargs)

    def _run(self, method, *args, **kwargs):
        return eqx.filter_checkpoint(lambda module, *a, **k: getattr(module, method)(*a, **k))(
            self.module, *args, **kwargs
        )


def remat(model: Any, where: Callable[[Any], Any] | None = None) -> Any:
    """The model with values computed again in the backward pass instead of kept (`jax.checkpoint`): less memory for
    about a third more time, the same numbers to rounding.

    `where` picks the submodules to treat so, as in `eqx.tree_at`: `remat(model, lambda m: m.blocks)` keeps what enters
    each block, and nothing of its inside. Without it the whole model is one such unit: what a rollout wants of its
    step, but a single call then saves nothing.

    Raises ValueError where `where` picks something that cannot be called.
    """
    if where is None:
        return _rematerialised(model)
    picked = where(model)
    many = isinstance(picked, list | tuple)
    return eqx.tree_at(lambda m: list(where(m)) if many else where(m), model, replace_fn=_rematerialised)


def _rematerialised(module: Any) -> _Remat:
    if not callable(module):
        raise ValueError(f"remat: where must pick modules that can be called, got {type(module).__name__}")
    return _Remat(module)


def _is_floating(leaf: Any) -> bool:
    return eqx.is_array_like(leaf) and hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)


def _dtype_of(tree: Any) -> Any:
    """The type of the floating-point arrays; None where there are none."""
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(tree) if _is_floating(leaf)]
    return jnp.result_type(*dtypes) if dtypes else None


def _cast(tree: Any, dtype: Any) -> Any:
    """With all floating-point arrays in this type, if there is one."""
    if dtype is None:
        return tree
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if _is_floating(leaf) else leaf, tree)
