"""The table of docs/scaling.md on two machines: how far scores of one picture differ, and what is allowed."""

from functools import cache

from reports.tables.render import text_grid
from results.agreement import limits, pairs

HEADER = (
    *("precision", "routing", "between", "pairs", "equal", "median, dB", "99 % within", "largest", "allowed"),
    *("with SSIM", "largest", "allowed"),
)


@cache
def table() -> str:
    """A line per row of `pairs.table`, of what is committed."""
    rows = []
    for row in pairs.table(pairs.pairs()).itertuples():
        allowed = limits.of(row.precision, row.routing, row.kinds)
        psnr = [f"{value:.6f}" for value in (row.median, row.most, row.psnr, allowed.psnr)]
        ssim = [str(row.with_ssim), *(f"{value:.1e}" for value in (row.ssim, allowed.ssim))]
        kinds = ", ".join(one.partition(" ")[0] for one in row.kinds)
        rows.append([row.precision, row.routing, kinds, str(row.pairs), str(row.equal), *psnr])
        rows[-1] += ssim if row.with_ssim else [""] * 3
    return text_grid(HEADER, rows, 3)
