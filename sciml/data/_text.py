"""Tables in text files: CSV, TSV and columns between blanks."""

import csv
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from ._dataset import TIME_NAMES
from ._numpy import Arrays
from ._source import DataError, Variable

SUFFIXES = (".csv", ".tsv", ".txt", ".dat")
COMMENTS = ("#", "%")
DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:?\d\d)?)?")
DECIMAL = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
MISSING = ("", "na", "nan", "n/a", "null", "none", "-", ".")


class Text(Arrays):
    """The columns of a table as variables along one dimension, `row`. A column of increasing times (named time, t, ...)
    is the dimension instead. Cells that are empty or say NA are missing (NaN).

    Cells are separated by commas, tabs, semicolons or blanks; between semicolons numbers may have decimal commas. Lines
    that begin with # or % are comments, but for one right above the numbers with as many words as columns: that names
    them, as a first line without numbers does. Without one they are column_1, column_2, ... A column of dates
    (2026-03-31, 2026-03-31 14:00, 2026-03-31T14:00:00+02:00) holds days since the first of them, with CF's attribute
    `units`. One of other words holds their numbers in alphabetical order, and the words in CF's attribute
    `flag_meanings`.

    Raises DataError for files that are not text, lines with another number of cells, and no rows.
    """

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        names, rows, first = _table(self.path)
        width = len(names)
        for number, row in enumerate(rows):
            if len(row) != width:
                raise DataError(
                    f"{self.path}: line {first[number]} has {len(row)} cells, expected {width} ({', '.join(names)})"
                )
        columns = {name: _column([row[i] for row in rows]) for i, name in enumerate(names)}
        dim = next((n for n, (v, _) in columns.items() if n.lower() in TIME_NAMES and _increases(v)), "row")
        for name, (values, attributes) in columns.items():
            self._variables[name] = Variable((dim,), values.shape, values.dtype, attributes=attributes)
            self._makers[name] = lambda values=values: values


def _table(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """The names of the columns, the rows, and the line of each."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error.reason} at byte {error.start})") from None
    kept = [(i, line) for i, line in enumerate(lines, 1) if line.strip() and not line.startswith(COMMENTS)]
    if not kept:
        raise DataError(f"{path}: holds no rows")
    separator = _separator(kept[0][1])
    rows = [_cells(line, separator) for _, line in kept]
    first = [i for i, _ in kept]
    above = lines[first[0] - 2].strip() if first[0] > 1 else ""
    if not any(_is_number(cell) for cell in rows[0]):
        names, rows, first = rows[0], rows[1:], first[1:]
        if not rows:
            raise DataError(f"{path}: holds no rows below the names {', '.join(names)}")
    elif above.startswith(COMMENTS) and len(_cells(above.lstrip("#% "), separator)) == len(rows[0]):
        names = _cells(above.lstrip("#% "), separator)
    else:
        names = [f"column_{i + 1}" for i in range(len(rows[0]))]
    names = [name or f"column_{i + 1}" for i, name in enumerate(names)]
    if repeated := {n for n in names if names.count(n) > 1}:
        raise DataError(f"{path}: two columns are called '{repeated.pop()}'; rename one of them")
    return names, rows, first


def _separator(line: str) -> str | None:
    return next((s for s in "\t;," if s in line), None)


def _cells(line: str, separator: str | None) -> list[str]:
    cells = [c.strip() for c in (line.split() if separator is None else next(csv.reader([line], delimiter=separator)))]
    # Where semicolons separate cells, a comma is the decimal point.
    return [c.replace(",", ".") if DECIMAL.fullmatch(c) else c for c in cells] if separator == ";" else cells


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _column(cells: list[str]) -> tuple[np.ndarray, dict[str, Any]]:
    missing = [cell.lower() in MISSING for cell in cells]
    if all(m or _is_number(c) for c, m in zip(cells, missing)):
        return np.array([np.nan if m else float(c) for c, m in zip(cells, missing)]), {}
    if all(m or DATE.fullmatch(c) for c, m in zip(cells, missing)):
        dates = _dates(["NaT" if m else c for c, m in zip(cells, missing)])
        if dates is not None:
            first = np.nanmin(dates)
            units = {"units": f"days since {str(first)[:19].replace('T', ' ')}"}
            return (dates - first) / np.timedelta64(1, "D"), units
    words = sorted(set(cells))
    meanings = " ".join(word.replace(" ", "_") or "missing" for word in words)
    return np.searchsorted(words, cells).astype(float), {"flag_meanings": meanings}


def _dates(cells: list[str]) -> np.ndarray | None:
    """In universal time, where zones are given."""
    try:
        return np.array([_universal(c) for c in cells], "M8[us]")
    except ValueError:
        # Such as the 31st of June.
        return None


def _universal(cell: str) -> np.datetime64:
    zone = re.search(r":\d\d(?:\.\d+)?(Z|([+-])(\d\d):?(\d\d))$", cell)
    if not zone:
        return np.datetime64(cell, "us")
    local = np.datetime64(cell[: zone.start(1)], "us")
    if zone[1] == "Z":
        return local
    return local - int(zone[2] + "1") * (np.timedelta64(int(zone[3]), "h") + np.timedelta64(int(zone[4]), "m"))


def _increases(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (np.diff(values) > 0).all())
