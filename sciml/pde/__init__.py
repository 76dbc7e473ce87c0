"""Partial differential equations: domains, equations and conditions, and their solution by networks."""

from ._condition import condition as condition
from ._condition import derived as derived
from ._condition import flux as flux
from ._condition import observe as observe
from ._condition import periodic as periodic
from ._condition import value as value
from ._derivatives import Laplacian as Laplacian
from ._derivatives import derivatives as derivatives
from ._differences import grid_derivative as grid_derivative
from ._domain import Box as Box
from ._domain import Domain as Domain
from ._domain import Region as Region
from ._grid import grid_residuals as grid_residuals
from ._pde import PDE as PDE
from ._points import adaptive as adaptive
from ._shapes import Ball as Ball
from ._shapes import Cloud as Cloud
from ._shapes import Polygon as Polygon
from ._solution import Solution as Solution
from ._solve import solve as solve
from ._unknown import Unknown as Unknown
