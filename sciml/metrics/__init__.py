"""Metrics of fields in the units of the data, and losses whose mean squares are norms of fields.

Metrics are functions `(prediction, target, ...) -> array` on batches `(sample, [time], [channel], *grid)`, of NumPy
or JAX arrays; they may be compiled and differentiated. `Options` says how axes are named, weighted and masked.
"""

from . import pdebench as pdebench
from . import the_well as the_well
from ._conserved import drift as drift
from ._conserved import total as total
from ._evaluate import evaluate as evaluate
from ._fields import Kept as Kept
from ._fields import Options as Options
from ._fields import Weighted as Weighted
from ._fields import latitude_weights as latitude_weights
from ._losses import h1_misfit as h1_misfit
from ._losses import weighted_misfit as weighted_misfit
from ._pointwise import anomaly_correlation as anomaly_correlation
from ._pointwise import bias as bias
from ._pointwise import mae as mae
from ._pointwise import max_error as max_error
from ._pointwise import nrmse as nrmse
from ._pointwise import relative_l2 as relative_l2
from ._pointwise import rmse as rmse
from ._pointwise import vrmse as vrmse
from ._sobolev import relative_h1 as relative_h1
from ._sobolev import relative_sobolev as relative_sobolev
from ._spectrum import band_rmse as band_rmse
from ._spectrum import spectrum as spectrum
from ._spectrum import spectrum_error as spectrum_error
