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
