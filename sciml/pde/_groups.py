"""Batches of several kinds of examples in one training: a loss for each kind, and their streams read together."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

from .._fit import Stream, _batches
from .._loss import Groups
from ._domain import nearest


def by_group(**losses: Callable) -> Callable:
    """A loss on batches that are `Groups`: each group has the loss of its name, and all their terms count.

    `by_group(labelled=sciml.misfit, unlabelled=physics(pde))` learns from 50 samples with a target and from many inputs
    without one, in batches `Groups(labelled=(a, u), unlabelled=(a,))`; `together` makes them. Residuals are averaged
    within a group, so that the terms' weights do not depend on the sizes of the groups.

    Raises ValueError for a group without a loss, and where two losses have a term of one name; TypeError for a batch
    that is no mapping and a loss without names.
    """
    if not losses:
        raise ValueError("by_group needs a loss for each group, as in by_group(labelled=misfit)")

    def loss(model: Any, batch: Any) -> dict[str, Any]:
        if not isinstance(batch, Mapping):
            raise TypeError(f"by_group: expected a batch that is Groups, got {type(batch).__name__}; see together")
        out: dict[str, Any] = {}
        for group, examples in batch.items():
            if group not in losses:
                raise ValueError(f"by_group: no loss for '{group}'; {nearest(group, losses)}give {group}=...")
            terms = losses[group](model, examples)
            if not isinstance(terms, Mapping):
                raise TypeError(f"by_group: the loss of '{group}' must return a dict of residuals")
            repeated = set(out) & set(terms)
            if repeated:
                raise ValueError(f"by_group: two groups have a term called '{repeated.pop()}'; rename one of them")
            out |= terms
        return out

    return loss


def together(**streams: Any) -> Any:
    """Data whose batches are `Groups`: at every step a batch of each stream, by name.

    All streams are functions `key -> batch`, and so is the result, or all are iterables of batches (lists,
    `Dataset.batches`): each is repeated by itself, so that they may differ in length. The result is then an iterable
    without an end, that a checkpoint resumes at its step.

    Raises TypeError for other data or a mixture, ValueError without a stream.
    """
    if not streams:
        raise ValueError("together needs streams by name, as in together(labelled=..., unlabelled=...)")
    functions = [callable(s) and not isinstance(s, Stream) for s in streams.values()]
    if all(functions):
        return lambda key: Groups({n: s(jax.random.fold_in(key, i)) for i, (n, s) in enumerate(streams.items())})
    for name, stream in streams.items():
        if any(functions) or isinstance(stream, Stream) or not isinstance(stream, Iterable):
            raise TypeError(
                f"together: all streams must be functions key -> batch, or all of them iterables; '{name}' is a "
                f"{type(stream).__name__}"
            )
    return Joined(streams, lambda step, parts: Groups(parts))


class Joined:
    """An endless iterable: at every step a batch of each stream, made into one by `join(step, batches by name)`."""

    def __init__(self, streams: Mapping[str, Any], join: Callable[[int, dict], Any], sharding: Any = None):
        self.streams, self.join, self.sharding = dict(streams), join, sharding

    def __iter__(self) -> Iterator:
        return self.from_step(0)

    def from_step(self, step: int) -> Iterator:
        """The batches from a step on."""
        streams = {
            n: _batches(s, step, None if hasattr(s, "from_step") else self.sharding) for n, s in self.streams.items()
        }
        try:
            while True:
                parts = {n: next(s, None) for n, s in streams.items()}
                if any(p is None for p in parts.values()):
                    return
                yield self.join(step, parts)
                step += 1
        finally:
            for stream in streams.values():
                stream.close()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must agree for a checkpoint to fit: that of the streams that have one."""
        return {n: getattr(s, "fingerprint", None) for n, s in self.streams.items()}

    @property
    def mesh(self) -> Any:
        """The mesh that batches lie on; None for a single device."""
        found = [getattr(s, "mesh", None) for s in self.streams.values()] + [getattr(self.sharding, "mesh", None)]
        return next((m for m in found if m is not None), None)

    def sharded(self, sharding: Any) -> "Joined":
        """The same batches on other devices."""
        streams = {n: s.sharded(sharding) if hasattr(s, "sharded") else s for n, s in self.streams.items()}
        return Joined(streams, self.join, sharding)
