"""Neural operators: functions from fields to fields, on grids, spheres, meshes and point clouds."""

from ._axes import Axis as Axis
from ._axes import Bounded as Bounded
from ._axes import Cosine as Cosine
from ._axes import Periodic as Periodic
from ._axes import Sine as Sine
from ._axes import centres as centres
from ._axes import ends as ends
from ._axes import interior as interior
from ._axes import left as left
from ._baselines import kernel_ridge as kernel_ridge
from ._baselines import linear as linear
from ._baselines import linear_multiplier as linear_multiplier
from ._baselines import linear_stencil as linear_stencil
from ._baselines import mean as mean
from ._baselines import persistence as persistence
from ._figures import field_figure as field_figure
from ._fno import FNO as FNO
from ._resample import at_resolution as at_resolution
from ._resample import resample as resample
from ._spectral import SpectralConvolution as SpectralConvolution
from ._spectral import with_active_modes as with_active_modes
from ._uno import UNO as UNO
from ._weights import CP as CP
from ._weights import Dense as Dense
from ._weights import Separable as Separable
from ._weights import Tucker as Tucker
