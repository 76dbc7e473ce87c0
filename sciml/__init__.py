"""Scientific machine learning on JAX: a model is a function, physics is what you get by differentiating it, training
drives named residuals to zero."""

from . import nn as nn
from . import optim as optim
from . import pde as pde
from ._fit import NonFiniteWarning as NonFiniteWarning
from ._fit import State as State
from ._fit import Stream as Stream
from ._fit import fit as fit
from ._fit import hold as hold
from ._fit import train as train
from ._loss import Groups as Groups
from ._loss import combine as combine
from ._loss import misfit as misfit
from ._loss import relative_misfit as relative_misfit
from ._loss import weighted as weighted
from ._precision import double_precision as double_precision
from ._save import load as load
from ._save import save as save
from .pde import PDE as PDE
from .pde import Ball as Ball
from .pde import Box as Box
from .pde import Cloud as Cloud
from .pde import Polygon as Polygon
from .pde import Solution as Solution
from .pde import Unknown as Unknown
from .pde import adaptive as adaptive
from .pde import condition as condition
from .pde import derived as derived
from .pde import flux as flux
from .pde import observe as observe
from .pde import periodic as periodic
from .pde import solve as solve
from .pde import value as value
