"""Effective receptive fields of convolutions, whose fields are known."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from suites.analysis import erf

pytestmark = pytest.mark.usefixtures("one_thread")
DOUBLE = {"dtype": torch.float64}


def picture(side: int = 32) -> np.ndarray:
    return np.random.default_rng(0).random((3, side, side))


def box(kernel: int, times: int = 1):
    """A network of `times` convolutions of every channel with a k x k kernel of ones."""

    def network(x: torch.Tensor) -> torch.Tensor:
        for _ in range(times):
            x = F.conv2d(x, x.new_ones(3, 1, kernel, kernel), padding=kernel // 2, groups=3)
        return x

    return network


@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_a_convolution_has_a_field_of_its_kernel(kernel):
    field = erf.contributions(box(kernel), picture(), **DOUBLE)["replknet"]
    expected, half = np.zeros((32, 32)), kernel // 2
    expected[16 - half : 17 + half, 16 - half : 17 + half] = 3  # one of every channel
    np.testing.assert_array_equal(field, expected)


@pytest.mark.parametrize("times", [1, 2, 5])
def test_a_stack_of_3x3_convolutions_grows_by_two_a_layer(times):
    field = erf.contributions(box(3, times), picture(), **DOUBLE)["mambair"]
    line = np.ones(1)
    for _ in range(times):
        line = np.convolve(line, np.ones(3))
    expected = np.zeros((32, 32))
    expected[16 - times : 17 + times, 16 - times : 17 + times] = 3 * np.outer(line, line)
    np.testing.assert_allclose(field, expected, rtol=1e-12)
    assert (field > 0).sum() == (2 * times + 1) ** 2


def test_the_centre_of_an_enlarged_output_looks_at_the_centre_of_the_input():
    field = erf.contributions(lambda x: F.interpolate(x, scale_factor=2), picture(), **DOUBLE)["replknet"]
    assert field[16, 16] == 3 and field.sum() == 3


def test_procedures_differ_where_a_central_value_is_negative():
    sign = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
    found = erf.contributions(lambda x: -x * sign, picture(), **DOUBLE)  # -x, x, -x
    assert found["replknet"][16, 16] == 1  # the one channel that is positive
    assert found["mambair"][16, 16] == 1  # negative gradients count for nothing either
    found = erf.contributions(lambda x: x - 2, picture(), **DOUBLE)
    assert found["replknet"].sum() == 0 and found["mambair"][16, 16] == 3


@pytest.mark.parametrize(
    ("share", "side"),
    [(0.2, 5), (0.3, 5), (0.5, 5), (0.52, 7), (0.99, 7)],  # of 49 equal pixels 9 are 18 %, 25 are 51 %
)
def test_squares_of_a_uniform_field(share, side):
    field = np.zeros((32, 32))
    field[13:20, 13:20] = 2.0
    assert erf.square(field, share) == (side, side**2 / 32**2)


def test_a_field_over_the_whole_image_is_in_no_square():
    side, area = erf.square(np.ones((32, 32)), 0.99)
    assert np.isnan(side) and np.isnan(area)
    assert erf.square(np.ones((32, 32)), 0.5)[0] == 23  # 529 of 1024; 21 x 21 are 43 %


def test_fields_are_shown_as_published():
    field = np.array([[0.0, 9.0], [99.0, 0.0]])
    np.testing.assert_allclose(erf.shown(field, "replknet"), [[0, 0.5], [1, 0]])
    np.testing.assert_allclose(erf.shown(field, "mambair"), [[0, (9 / 99) ** 0.25], [1, 0]])


def test_images_are_resized_by_nearest_neighbours():
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    np.testing.assert_array_equal(erf.resized(image, 2)[0], [[0, 2], [4, 6]])
