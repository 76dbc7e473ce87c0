"""Optimisers that use curvature, as Optax transformations."""

from ._average import accumulated as accumulated
from ._average import averaged as averaged
from ._gauss_newton import GaussNewtonState as GaussNewtonState
from ._gauss_newton import gauss_newton as gauss_newton
from ._gauss_newton import normal_equations as normal_equations
from ._quasi_newton import QuasiNewtonState as QuasiNewtonState
from ._quasi_newton import self_scaled_bfgs as self_scaled_bfgs
from ._quasi_newton import self_scaled_broyden as self_scaled_broyden
