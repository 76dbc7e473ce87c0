"""Networks that several families of models share."""

from ._features import RandomFeatures as RandomFeatures
from ._features import WindowedFeatures as WindowedFeatures
from ._features import random_features as random_features
from ._mlp import mlp as mlp
from ._normaliser import Normalised as Normalised
from ._normaliser import Normaliser as Normaliser
from ._normaliser import normalised as normalised
from ._normaliser import normaliser as normaliser
from ._normaliser import scaled_misfit as scaled_misfit
from ._precision import mixed_precision as mixed_precision
from ._precision import remat as remat
