"""Networks that several families of models share."""

from ._features import RandomFeatures as RandomFeatures
from ._features import random_features as random_features
from ._mlp import mlp as mlp
