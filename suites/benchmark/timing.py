"""Timing of calls, and statistics of the readings: quantiles, and ratios of candidates timed in common rounds."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import stats
from torch.utils import benchmark

LEVEL = 0.95
RESAMPLES = 2000  # of the bootstrap
CACHE = 2**28  # bytes written before a call on a GPU: more than any second-level cache holds
SHORTEST_MS = 20.0  # of one reading on a CPU: faster calls are repeated within it


class StopWatch:
    """Milliseconds of a call on one device.

    On a GPU the time between two CUDA events, with the cache overwritten before (as triton.testing does) and the device
    idle at the start. So the time that the host needs to launch kernels counts where the device waits for it. With
    `wait=False` the host does not wait for the device to be idle, and that time is hidden as far as it can be. On a
    CPU the wall clock, a mean over `calls` calls.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cache = torch.empty(CACHE, dtype=torch.int8, device=device) if device.type == "cuda" else None

    def calls(self, milliseconds: float) -> int:
        """Calls in one reading, for a call that takes about this long."""
        return 1 if self.cache is not None else max(1, math.ceil(SHORTEST_MS / max(milliseconds, 1e-3)))

    def read(self, call: Callable[[], object], calls: int = 1, wait: bool = True) -> float:
        if self.cache is None:
            start = benchmark.timer()
            for _ in range(calls):
                call()
            return (benchmark.timer() - start) * 1e3 / calls
        self.cache.zero_()
        if wait:
            torch.cuda.synchronize(self.device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / calls


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile of readings in milliseconds, under the names that rows have."""
    low, median, high = np.quantile(times, (0.1, 0.5, 0.9)).tolist()
    return {"median_ms": median, "p10_ms": low, "p90_ms": high}


def ratio(times: Sequence[float], baseline: Sequence[float]) -> dict[str, float | None]:
    """Median over rounds of time / baseline's time in the same round, with its 95 % bootstrap interval over rounds.

    What slows down a whole round cancels out. The ends are None below 5 rounds, which are too few to resample.
    """
    each = np.asarray(times) / np.asarray(baseline)
    row = {"ratio": float(np.median(each)), "ratio_low": None, "ratio_high": None}
    if len(each) >= 5:
        drawn = stats.bootstrap(
            (each,), np.median, n_resamples=RESAMPLES, confidence_level=LEVEL, method="percentile", rng=0
        )
        row |= {"ratio_low": float(drawn.confidence_interval.low), "ratio_high": float(drawn.confidence_interval.high)}
    return row
