"""Orders and their neighbours, against closed forms and against counting every pair."""

import numpy as np
import pytest
import torch

from suites.analysis.classes import orders

pytestmark = pytest.mark.usefixtures("one_thread")
HEIGHT, WIDTH = 6, 9


def features(length: int = HEIGHT * WIDTH, seed: int = 0) -> torch.Tensor:
    return torch.randn(length, 5, generator=torch.Generator().manual_seed(seed))


def means(order: torch.Tensor, rows: torch.Tensor, width: int, steps: int = 1) -> tuple[float, float]:
    cosine, distance = orders.neighbours(order, rows, width, steps)
    return cosine / (len(order) - steps), distance / (len(order) - steps)


def test_unit_features_have_no_mean_before_they_are_scaled_and_length_one():
    x = features() + 7
    rows = orders.unit(x)
    assert torch.allclose(rows.norm(dim=1), torch.ones(len(x)))
    expected = torch.nn.functional.normalize(x.double() - x.double().mean(0), dim=1)
    assert torch.allclose(rows.double(), expected, atol=1e-5)


def test_raster_neighbours_are_one_pixel_apart_but_for_the_ends_of_rows():
    _, distance = means(torch.arange(HEIGHT * WIDTH), orders.unit(features()), WIDTH)
    ends = HEIGHT - 1
    expected = (HEIGHT * (WIDTH - 1) + ends * np.hypot(1, WIDTH - 1)) / (HEIGHT * WIDTH - 1)
    assert distance == pytest.approx(expected, rel=1e-6)
    _, down = means(torch.arange(HEIGHT * WIDTH), orders.unit(features()), WIDTH, steps=WIDTH)
    assert down == pytest.approx(1.0)  # a whole row further


def test_pixels_at_random_are_as_far_apart_as_the_mean_pair():
    height, width = 40, 30
    y, x = np.divmod(np.arange(height * width), width)
    apart = np.hypot(y[:, None] - y, x[:, None] - x)
    expected = apart.sum() / (height * width * (height * width - 1))
    rows = orders.unit(features(height * width))
    found = [means(orders.at_random(height * width, seed), rows, width) for seed in range(20)]
    similarity, distance = np.mean(found, axis=0)
    assert distance == pytest.approx(expected, rel=0.01)
    every = (rows @ rows.T).double()
    assert similarity == pytest.approx(float((every.sum() - every.trace()) / (len(every) * (len(every) - 1))), abs=0.01)


def test_sums_are_those_of_every_pair_at_any_number_of_steps():
    rows, order = orders.unit(features()), orders.at_random(HEIGHT * WIDTH, 3)
    for steps in (1, 5, HEIGHT * WIDTH - 1, HEIGHT * WIDTH, 999):
        pairs = list(zip(order.tolist(), order.tolist()[steps:], strict=False))
        cosine = sum(float(rows[i] @ rows[j]) for i, j in pairs)
        distance = sum(float(np.hypot(i // WIDTH - j // WIDTH, i % WIDTH - j % WIDTH)) for i, j in pairs)
        assert orders.neighbours(order, rows, WIDTH, steps) == pytest.approx((cosine, distance), abs=1e-4)


def test_sorting_is_stable():
    key = torch.tensor([2, 0, 1, 0, 2, 1])
    assert orders.by_key(key).tolist() == [1, 3, 2, 5, 0, 4]


def test_the_greedy_order_takes_the_most_similar_pixel_that_is_left():
    rows = orders.unit(features())
    order, left = [0], set(range(1, len(rows)))
    while left:
        order.append(max(left, key=lambda j: float(rows[order[-1]] @ rows[j])))
        left.remove(order[-1])
    assert orders.by_nearest(rows).tolist() == order


def test_the_greedy_order_goes_round_a_circle():
    angle = torch.linspace(0, 2 * torch.pi, 33)[:-1]
    shuffled = orders.at_random(32, 0)
    points = torch.stack([angle.cos(), angle.sin()], 1)[shuffled]
    similarity, _ = means(orders.by_nearest(orders.unit(points)), orders.unit(points), 32)
    assert similarity == pytest.approx(np.cos(2 * np.pi / 32), abs=1e-5)
    assert similarity > means(torch.arange(32), orders.unit(points), 32)[0]


def test_a_window_keeps_its_pixels_in_their_order():
    order = orders.at_random(HEIGHT * WIDTH, 1)
    pixels, own, width = orders.within(order, HEIGHT, WIDTH, 4)
    assert width == 4 and pixels.reshape(4, 4).tolist() == [[WIDTH * y + x for x in range(2, 6)] for y in range(1, 5)]
    inside = set(pixels.tolist())
    assert pixels[own].tolist() == [pixel for pixel in order.tolist() if pixel in inside]
    pixels, own, width = orders.within(order, HEIGHT, WIDTH, 100)  # larger than the image
    assert pixels.tolist() == list(range(HEIGHT * WIDTH)) and own.tolist() == order.tolist() and width == WIDTH
