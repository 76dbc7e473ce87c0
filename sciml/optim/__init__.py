"""Optimisers that use curvature, as Optax transformations."""

from ._average import accumulated as accumulated
from ._average import averaged as averaged
from ._equations import Residuals as Residuals
from ._equations import normal_equations as normal_equations
from ._gauss_newton import GaussNewtonState as GaussNewtonState
from ._gauss_newton import gauss_newton as gauss_newton
from ._members import by_member as by_member
from ._natural_gradient import NaturalGradientState as NaturalGradientState
from ._natural_gradient import energy_natural_gradient as energy_natural_gradient
from ._quasi_newton import QuasiNewtonState as QuasiNewtonState
from ._quasi_newton import self_scaled_bfgs as self_scaled_bfgs
from ._quasi_newton import self_scaled_broyden as self_scaled_broyden
from ._soap import SoapState as SoapState
from ._soap import scale_by_soap as scale_by_soap
from ._soap import soap as soap
from ._solvers import Solver as Solver
from ._solvers import Step as Step
from ._solvers import System as System
from ._solvers import cholesky as cholesky
from ._solvers import choose as choose
from ._solvers import conjugate_gradients as conjugate_gradients
from ._solvers import qr as qr
from ._solvers import woodbury as woodbury
