"""Columns: equally long lists of numbers by name, kept as compact arrays and bounded in memory.

A column of floats takes 4 bytes a value where float32 says all of it exactly, as it does what the device makes, else 8.
Beyond `limit` values in all neighbouring rows become one, so any run fits and keeps its extremes; see `FOLDS`.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

LIMIT = 2**25  # values, 134 MB of float32: 10^5 steps of 32 rewards stay whole

Fold = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def _later(first: np.ndarray, second: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(second), first, second) if second.dtype.kind == "f" else second


def _average(first: np.ndarray, second: np.ndarray, _: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(first), second, np.where(np.isnan(second), first, (first + second) / 2))


def _further(first: np.ndarray, second: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return, of each pair, the value further from the middle of the column: a spike of one step survives as it was."""
    known = column[~np.isnan(column)]
    middle = np.median(known) if known.size else 0.0
    chosen = np.where(np.abs(second - middle) > np.abs(first - middle), second, first)
    return np.where(np.isnan(first), second, np.where(np.isnan(second), first, chosen))


FOLDS: Mapping[str, Fold] = {  # by what follows the last slash of a name; of anything else the later value is kept
    **dict.fromkeys(("mean", "std", "frac_zero_std"), _further),
    **dict.fromkeys(("p10", "p25", "median", "p75", "p90"), _average),
    "min": lambda first, second, _: np.fmin(first, second),
    "max": lambda first, second, _: np.fmax(first, second),
    "count": lambda first, second, _: first + second,
    "alerts": lambda first, second, _: first | second,
}
_WHOLE = {"step": "q", "count": "q", "alerts": "H"}  # columns of integers, where no data is 0


class Columns(Mapping[str, list[Any]]):
    """Reads as lists by name, None where there is no data; `array(name)` is faster.

    Args:
      limit: values that may be kept, over all columns.
      rows: rows that may be kept.

    Attributes:
      stride: how many rows that were appended make one that is kept, the newest excepted; 1 until a limit is reached.
    """

    def __init__(self, limit: int = LIMIT, rows: int = LIMIT) -> None:
        self._columns: dict[str, array[Any]] = {}
        self._limit, self._row_limit = limit, rows
        self.stride, self._coarse = 1, 0  # rows that have been folded, at the start

    def __getitem__(self, name: str) -> list[Any]:
        column = self._columns[name]
        if column.typecode in "fd":
            return [None if math.isnan(value) else value for value in column]
        return column.tolist()

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    @property
    def rows(self) -> int:
        """How long the columns are."""
        return max(map(len, self._columns.values()), default=0)

    def array(self, name: str) -> np.ndarray:
        """Return a copy of a column, float64 with NaN where there is no data, or int64.

        A name that is unknown has no data in any row.
        """
        column = self._columns.get(name)
        if column is None:
            return np.full(self.rows, np.nan)
        stored = np.frombuffer(column.tobytes(), column.typecode)  # a view of the array itself would hinder its writer
        return stored.astype(np.float64 if column.typecode in "fd" else np.int64)

    def row(self, index: int, prefix: str) -> dict[str, Any]:
        """Return one row of the columns whose names begin with a prefix, by the rest of their names."""
        found = {name: column[index] for name, column in self._columns.items() if name.startswith(prefix)}
        return {name.removeprefix(prefix): None if value != value else value for name, value in found.items()}

    def append(self, given: Mapping[str, Iterable[Any]]) -> None:
        """Append rows, given as a list per name; a name that is new, or missing here, has no data elsewhere."""
        before = self.rows
        for name, values in given.items():
            self._extend(name, list(values), before)
        after = self.rows
        for name in [name for name, column in self._columns.items() if len(column) < after]:
            self._extend(name, [], after)
        if after > self._most():
            self._thin()

    def set(self, name: str, values: Iterable[Any]) -> None:
        """Put other values, as many, in the place of a column."""
        self._columns.pop(name, None)
        self._extend(name, list(values), 0)

    def replace_last(self, given: Mapping[str, Iterable[Any]]) -> None:
        """Put one row in the place of the last."""
        for column in self._columns.values():
            del column[-1:]
        self.append(given)

    def copy(self) -> "Columns":
        """Return a copy."""
        copy = Columns(self._limit, self._row_limit)
        copy._columns = {name: column[:] for name, column in self._columns.items()}
        copy.stride, copy._coarse = self.stride, self._coarse
        return copy

    def _extend(self, name: str, values: list[Any], start: int) -> None:
        """Make a column `start` long, then append to it."""
        kind = _WHOLE.get(name.rpartition("/")[2], "f")
        column = self._columns.setdefault(name, array(kind))
        values = [None] * (start - len(column)) + values
        if kind != "f":
            column.extend(0 if value is None else int(value) for value in values)
            return
        floats = _floats(values)
        if column.typecode == "f":
            narrow = array("f", floats)
            if array("d", narrow).tobytes() == floats.tobytes():  # bytes, since NaN equals nothing
                column.extend(narrow)
                return
            column = self._columns[name] = array("d", column)
        column.extend(floats)

    def _thin(self) -> None:
        """Bring the newest rows to the stride of the old ones, and all to twice of it where that is not enough."""
        while self._coarse + (self.rows - self._coarse) // self.stride > self._most() * 3 // 4:
            self._fold(0, self._coarse)
            self._coarse = -(-self._coarse // 2)
            self.stride *= 2
        fresh = (self.rows - self._coarse) // self.stride
        left = fresh * self.stride
        while left > fresh:
            self._fold(self._coarse, left)
            left //= 2
        self._coarse += fresh

    def _most(self) -> int:
        """Return how many rows are allowed."""
        return min(self._limit // max(len(self._columns), 1), self._row_limit)

    def _fold(self, start: int, count: int) -> None:
        """Make one row of every two among `count` rows; an odd last one stays."""
        end = start + count // 2 * 2
        for name, column in self._columns.items():
            values = np.array(column)
            fold = FOLDS.get(name.rpartition("/")[2], _later)
            folded = fold(values[start:end:2], values[start + 1 : end : 2], values)
            kept = np.concatenate([values[:start], folded, values[end:]]).astype(values.dtype)
            self._columns[name] = array(column.typecode, kept.tobytes())


def _floats(values: list[Any]) -> "array[float]":
    try:
        return array("d", values)
    except TypeError:
        return array("d", [math.nan if value is None else value for value in values])
