"""Learning curves: Welch's interval by hand, the deciding seeds, and the committed official curve's published means."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from reports.figures import curve
from results.measured import FOLDER


def made(offsets, iterations=curve.DECIDING) -> pd.DataFrame:
    rows = [(s, i, "Set14", 30 + i / 1000 + o) for s, o in enumerate(offsets) for i in iterations]
    return pd.DataFrame(rows, columns=["seed", "iteration", "dataset", "psnr"])


def test_interval_is_welchs():
    ours, theirs = pd.Series([1.0, 2.0, 4.0]), pd.Series([0.0, 0.5])
    a, b = ours.var() / 3, theirs.var() / 2
    freedom = (a + b) ** 2 / (a**2 / 2 + b**2 / 1)

    half = t.ppf(0.975, freedom) * math.sqrt(a + b)
    difference = ours.mean() - theirs.mean()
    assert curve.interval(ours, theirs) == pytest.approx((difference, difference - half, difference + half))
    assert all(map(math.isnan, curve.interval(ours[:1], theirs)[1:]))


def test_only_whole_seeds_decide():
    official = made([0.0, 0.01, 0.02])
    ours = pd.concat([made([0.5, 0.51]), made([9.0], curve.DECIDING[:3]).assign(seed=2)])
    found = curve.decide(ours, official)
    assert found["seeds"] == 2 and found["difference"] == pytest.approx(0.495) and found["low"] > 0
    assert "differs" in curve.markdown({"official": official, "ours": ours})[-2]
    assert "no difference" in curve.markdown({"official": official, "ours": made([0.0, 0.03])})[-2]
    assert curve.decide(made([0.5]), official) is None and curve.decide(official, made([0.5])) is None
    assert "no verdict yet" in curve.markdown({"official": official, "ours": made([0.5])})[-2]
    two = curve.markdown({"official": official, "tf32x3": made([0.0, 0.02]), "bf16": made([0.1, 0.12])})
    assert two[-2].startswith("bf16 against tf32x3") and "+0.100 dB" in two[-2]


def test_committed_official_curve_has_its_published_means(tmp_path):
    curves = curve.load(FOLDER)
    table = curve.points({"official": curves["official"]}).set_index(["dataset", "iteration"])
    published = {  # mean and standard deviation of three seeds
        ("Set5", 100): (31.19, 0.34),
        ("Set14", 1000): (31.31, 0.10),
        ("Set14", 3000): (32.28, 0.06),
    }
    for key, (mean, sd) in published.items():
        assert abs(table.loc[key, "mean"] - mean) < 0.0051 and abs(table.loc[key, "sd"] - sd) < 0.0051
    curve.draw({"official": curves["official"]}, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000


def test_scores_of_images_become_means(tmp_path):
    (tmp_path / "official-curve.csv").write_text("seed,iteration,dataset,psnr\n0,100,Set5,31\n")
    header = "seed,iteration,dataset,image,psnr,ssim\n"
    (tmp_path / "curve-bf16.csv").write_text(header + "0,100,Set5,a,30,0.9\n0,100,Set5,b,33,0.9\n")
    assert np.isclose(curve.load(tmp_path)["bf16"]["psnr"], 31.5).all()


def test_curves_of_all_machines_are_found_once_and_the_exact_ones_first(tmp_path):
    with pytest.raises(FileNotFoundError, match="official-curve"):
        curve.load(tmp_path)
    names = ("a/official-curve.csv", "a/curve-bf16.csv", "b/curve-tf32.csv", "b/curve-tf32x3.csv")
    for path in map(tmp_path.joinpath, names):
        path.parent.mkdir(exist_ok=True)
        path.write_text("seed,iteration,dataset,psnr\n0,100,Set5,31\n")
    assert list(curve.load(tmp_path)) == ["official", "tf32x3", "tf32", "bf16"]
    (tmp_path / "b" / "curve-bf16.csv").write_text("seed,iteration,dataset,psnr\n0,100,Set5,31\n")
    with pytest.raises(ValueError, match="another curve called bf16"):
        curve.load(tmp_path)
    (tmp_path / "b" / "curve-bf16.csv").rename(tmp_path / "b" / "official-curve.csv")
    with pytest.raises(ValueError, match="another curve called official"):
        curve.load(tmp_path)
