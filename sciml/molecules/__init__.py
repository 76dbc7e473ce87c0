"""Molecules and materials: structures of atoms, potentials whose forces are their derivatives, and dynamics."""

from ._egnn import EGNN as EGNN
from ._neighbours import Neighbours as Neighbours
from ._neighbours import neighbour_list as neighbour_list
from ._radial import bessel_basis as bessel_basis
from ._radial import cosine_cutoff as cosine_cutoff
from ._radial import gaussian_basis as gaussian_basis
from ._radial import polynomial_cutoff as polynomial_cutoff
from ._schnet import SchNet as SchNet
from ._structure import Edges as Edges
from ._structure import Structure as Structure
from ._structure import edges as edges
from ._structure import exchanged as exchanged
from ._structure import stack as stack
from ._structure import strained as strained
from ._structure import to_neighbours as to_neighbours
from ._structure import volume as volume
