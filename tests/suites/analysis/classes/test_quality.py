"""Qualities of a grouping, against closed forms and against sums over every pair of pixels."""

import math

import numpy as np
import pytest
import torch

from suites.analysis.classes import orders, quality

pytestmark = pytest.mark.usefixtures("one_thread")


def test_entropy_of_even_use_is_the_logarithm_of_the_classes():
    assert quality.entropy(np.full(64, 7)) == pytest.approx(math.log(64))
    assert quality.entropy(np.array([5, 0, 0])) == 0.0
    assert quality.entropy(np.array([[1, 1], [0, 2]])) == pytest.approx(1.5 * math.log(2))


def test_mutual_information_of_the_same_and_of_independent_groupings():
    one = np.arange(60) % 4
    same = quality.contingency(one, (3 - one), (4, 4))  # other names of the same groups
    assert quality.mutual_information(same) == pytest.approx(1.0)
    independent = quality.contingency(np.arange(60) % 4, np.arange(60) % 5, (4, 5))
    assert quality.mutual_information(independent) == pytest.approx(0.0, abs=1e-12)
    halves = quality.contingency(one, one // 2, (4, 2))  # I = log 2, entropies log 4 and log 2
    assert quality.mutual_information(halves) == pytest.approx(math.log(2) / (1.5 * math.log(2)))
    assert quality.mutual_information(np.array([[9]])) == 1.0


def test_contingency_counts_pixels():
    table = quality.contingency(np.array([[0, 1], [1, 1]]), np.array([[2, 0], [0, 1]]), (2, 3))
    assert table.tolist() == [[0, 0, 1], [2, 1, 0]]


def test_effective_rank_of_known_spectra():
    assert quality.effective_rank(torch.eye(8)[:5]) == pytest.approx(5.0)
    assert quality.effective_rank(torch.ones(6, 3)) == pytest.approx(1.0)
    spread = torch.diag(torch.tensor([3.0, 1.0]))
    assert quality.effective_rank(spread) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    assert quality.effective_rank(torch.zeros(3, 2)) == 0.0


def test_two_groups_apart_are_as_good_as_can_be():
    rows = orders.unit(torch.tensor([[1.0, 0.0]] * 5 + [[-1.0, 2.0]] * 5))
    classes = torch.tensor([3] * 5 + [0] * 5)
    assert quality.silhouette(rows, classes, 4) == pytest.approx(1.0, abs=1e-5)
    assert quality.similarities(rows, classes, 4) == pytest.approx((1.0, -1.0), abs=1e-5)
    assert quality.silhouette(rows, torch.tensor([0, 1] * 5), 2) < 0.05  # mixed


@pytest.mark.parametrize("seed", range(3))
def test_similarities_and_silhouette_are_those_of_every_pair(seed):
    generator = torch.Generator().manual_seed(seed)
    rows = orders.unit(torch.randn(40, 6, generator=generator))
    classes = torch.randint(0, 7, (40,), generator=generator)
    classes[0], classes[classes == 5] = 6, 4  # a class without pixels
    classes[1:][classes[1:] == 6] = 2  # and one of a single pixel
    cosine = (rows.double() @ rows.double().T).numpy()
    same, different = classes[:, None] == classes, classes[:, None] != classes
    same.fill_diagonal_(False)
    assert quality.similarities(rows, classes, 8) == pytest.approx((cosine[same].mean(), cosine[different].mean()))
    scores = []
    for i in range(40):
        others = torch.arange(40) != i
        means = {c: (1 - cosine[i][(others & (classes == c)).numpy()]).mean() for c in set(classes[others].tolist())}
        a = means.pop(int(classes[i]), None)  # None: alone in its class
        b = min(means.values())
        scores.append(0.0 if a is None else (b - a) / max(a, b))
    assert quality.silhouette(rows, classes, 8) == pytest.approx(np.mean(scores), abs=1e-5)


def test_one_class_has_no_silhouette_and_no_other_class():
    rows = orders.unit(torch.randn(9, 3, generator=torch.Generator().manual_seed(0)))
    classes = torch.zeros(9, dtype=torch.int64)
    assert math.isnan(quality.silhouette(rows, classes, 2))
    own, across = quality.similarities(rows, classes, 2)
    assert not math.isnan(own) and math.isnan(across)
    alone = quality.similarities(rows, torch.arange(9), 9)
    assert math.isnan(alone[0]) and quality.silhouette(rows, torch.arange(9), 9) == 0.0
