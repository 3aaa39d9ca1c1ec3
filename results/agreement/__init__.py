"""When two measurements of one picture by the same weights agree, and what becomes of both.

On one machine by one commit (and one PyTorch and Triton) scores are equal to `limits.EXACT`. Otherwise they may differ
by what was measured between the two kinds of backend at that precision (`limits.between`); what differs more is a
contradiction, and is said (`rule`). What is nearer is kept: the first in `scores.parquet`, which tables go by, others
with their machine beside it (`other_machines`). `pairs` lists what has been scored on two machines.
"""

from results.agreement.rule import Comparison, compare, contradiction, merge_rows

__all__ = ["Comparison", "compare", "contradiction", "merge_rows"]
