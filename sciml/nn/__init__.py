"""Networks that several families of models share."""

from ._mlp import mlp as mlp
