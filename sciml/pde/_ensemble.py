"""Solutions of one problem by several keys as one, with their spread."""

from collections.abc import Sequence

from ..nn import Ensemble
from ._solution import Solution


def ensemble_of(solutions: Sequence[Solution]) -> Solution:
    """The mean of solutions of one problem, such as `[solve(pde, key=jax.random.key(k)) for k in range(5)]`. They may
    have been found in different ways; an ensemble counts with all its members.

    `spread(...)` of the result is the standard deviation over the members: of random features or networks that are
    drawn independently it is about the error of one of them, as far as their errors have nothing in common. What they
    have in common, such as too few features at a layer, it does not show. `history` is that of the first.

    Raises ValueError for fewer than two solutions and for solutions of different problems.
    """
    if len(solutions) < 2:
        raise ValueError(f"ensemble_of: expected two solutions or more, got {len(solutions)}")
    first = solutions[0]
    for other in solutions[1:]:
        if other.pde is not first.pde:
            raise ValueError("ensemble_of: the solutions are of different problems; solve one PDE with several keys")
    members = [member for solution in solutions for member in _members(solution)]
    methods = dict.fromkeys(str(s.chosen.get("method", "not known")) for s in solutions)
    choice = {"method": f"mean of {len(members)} solutions", "members": list(methods)}
    seconds = sum(s.seconds for s in solutions)
    return Solution(first.pde, Ensemble(tuple(members)), first.history, choice, seconds)


def _members(solution: Solution) -> list:
    model = solution.model
    return [model.member(i) for i in range(len(model))] if isinstance(model, Ensemble) else [model]
