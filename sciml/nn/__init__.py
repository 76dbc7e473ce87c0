"""Networks that several families of models share."""

from ._embeddings import fourier_features as fourier_features
from ._embeddings import harmonics as harmonics
from ._embeddings import periodic_embedding as periodic_embedding
from ._factorised import factorised as factorised
from ._factorised import least_squares_output as least_squares_output
from ._features import RandomFeatures as RandomFeatures
from ._features import TanhFeatures as TanhFeatures
from ._features import WaveFeatures as WaveFeatures
from ._features import Window as Window
from ._features import WindowedFeatures as WindowedFeatures
from ._features import random_features as random_features
from ._gated import ModifiedMLP as ModifiedMLP
from ._gated import PirateNet as PirateNet
from ._gated import modified_mlp as modified_mlp
from ._gated import piratenet as piratenet
from ._mlp import mlp as mlp
from ._normaliser import Normalised as Normalised
from ._normaliser import Normaliser as Normaliser
from ._normaliser import normalised as normalised
from ._normaliser import normaliser as normaliser
from ._normaliser import scaled_misfit as scaled_misfit
from ._precision import mixed_precision as mixed_precision
from ._precision import remat as remat
from ._separable import Separable as Separable
from ._separable import separable as separable
from ._siren import siren as siren
