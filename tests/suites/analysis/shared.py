"""An analysis that other processes can import."""

import pandas as pd

from suites.analysis.spec import Analysis, Measured


def measure(network, pair, context):
    return Measured(pd.DataFrame({"seed": list(context.seeds), "mean": float(pair.lq.mean())}))


def make(network):
    return [Analysis("mean", "how bright is it?", measure, {"mean": "of the degraded image, 0..1"})]
