"""RewardStats: the figures of one reward as the original document names them."""

import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass
class RewardStats:
    """Statistics of one reward over its window; averages are over steps. NaN where there is no data."""

    name: str
    mean: float = math.nan
    std: float = math.nan
    min: float = math.nan
    max: float = math.nan
    median: float = math.nan
    count: int = 0
    sum: float = 0.0
    p25: float = math.nan
    p75: float = math.nan
    p90: float = math.nan
    p99: float = math.nan
    ema_short: float = math.nan
    ema_long: float = math.nan
    zeros_fraction: float = math.nan
    negative_fraction: float = math.nan
    positive_fraction: float = math.nan
    p10: float = math.nan

    @classmethod
    def of(cls, name: str, scalars: Mapping[str, float]) -> "RewardStats":
        """Read the stats of a reward out of a record's scalars."""
        found = {key: scalars[f"{name}/{key}"] for key in _LOGGED if f"{name}/{key}" in scalars}
        count = int(found.pop("count", 0))
        return cls(name, count=count, sum=count * found.get("mean", 0.0), **found)

    def to_dict(self) -> dict[str, float]:
        """Return the figures as `<name>/mean` and so on, without the sum."""
        return {f"{self.name}/{field}": getattr(self, field) for field in _LOGGED}


_LOGGED = tuple(field.name for field in dataclasses.fields(RewardStats) if field.name not in ("name", "sum"))
