"""Files to sharded batches: sources, data sets, windows, shuffling, batches, statistics."""

from ._dataset import Coordinate as Coordinate
from ._dataset import Dataset as Dataset
from ._source import Chunk as Chunk
from ._source import DataError as DataError
from ._source import Source as Source
from ._source import Variable as Variable
from ._batches import Batches as Batches
from ._batches import DataWarning as DataWarning
