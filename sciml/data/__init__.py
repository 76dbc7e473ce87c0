"""Files to sharded batches: sources, data sets, windows, shuffling, batches, statistics, recipes and writers."""

from ._batches import Batches as Batches
from ._batches import DataWarning as DataWarning
from ._chunking import suggest_chunks as suggest_chunks
from ._dataset import Coordinate as Coordinate
from ._dataset import Dataset as Dataset
from ._fetch import fetch as fetch
from ._fetch import find_local as find_local
from ._inspect import Report as Report
from ._inspect import inspect as inspect
from ._open import open as open
from ._recipe import Recipe as Recipe
from ._solvers import dealiasing as dealiasing
from ._solvers import etdrk4 as etdrk4
from ._solvers import neumann_gaussian as neumann_gaussian
from ._solvers import periodic_gaussian as periodic_gaussian
from ._solvers import sample_keys as sample_keys
from ._solvers import wavenumbers as wavenumbers
from ._solvers import whole_steps as whole_steps
from ._source import Chunk as Chunk
from ._source import DataError as DataError
from ._source import Source as Source
from ._source import Variable as Variable
from ._statistics import Moments as Moments
from ._statistics import Statistics as Statistics
from ._statistics import statistics as statistics
from ._write import write as write
