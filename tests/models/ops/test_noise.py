"""Routing noise: published words of Philox, the distribution, and independence of everything but key and place."""

import math

import pytest
import torch

from models.ops.noise import PhiloxGumbel, noise_key
from models.ops.noise.reference import MASK, gumbel, integers, philox

KNOWN = [  # counter, key, words: known answers that come with the Random123 library
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK,) * 4, (MASK,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    result = philox([torch.tensor(c) for c in counter], [torch.tensor(k) for k in key])
    assert tuple(int(word) for word in result) == words


def python_word(key, layer, pixel, klass):
    """The definition with Python's own integers."""
    c, k = [pixel & MASK, klass // 4, layer, pixel >> 32], [key & MASK, key >> 32]
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(second >> 32) ^ c[1] ^ k[0], second & MASK, (first >> 32) ^ c[3] ^ k[1], first & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c[klass % 4]


@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 1, 1), (3, 130, 64), (1, 67, 30)])
def test_integers_follow_the_definition_in_both_implementations(shape):
    keys = [2**64 - 1, 0x0123456789ABCDEF, 5][: shape[0]]
    source = PhiloxGumbel(keys)
    words = source.integers(4, shape)
    assert words.dtype == torch.int64 and tuple(words.shape) == shape
    assert torch.equal(words, integers(source.keys, 4, shape))
    for b, pixel, klass in {(0, 0, 0), tuple(s - 1 for s in shape), (0, shape[1] // 2, shape[2] // 2)}:
        assert int(words[b, pixel, klass]) == python_word(keys[b], 4, pixel, klass)


def test_noise_is_gumbel_of_the_integers_and_depends_on_key_layer_and_place_only():
    source = PhiloxGumbel([11, 22])
    small, large = source(3, (2, 40, 6)), source(3, (2, 90, 20))
    assert small.dtype == torch.float32
    assert torch.equal(small, large[:, :40, :6])
    torch.testing.assert_close(small, gumbel(integers(torch.tensor([11, 22]), 3, (2, 40, 6))), rtol=1e-6, atol=1e-6)
    assert torch.equal(PhiloxGumbel([22])(3, (1, 40, 6))[0], small[1])
    assert torch.equal(PhiloxGumbel(torch.tensor([11, 22]))(3, (2, 40, 6)), small)
    assert not torch.equal(source(4, (2, 40, 6)), small)
    assert not torch.equal(small[0], small[1])


def test_one_key_serves_a_whole_batch_and_other_counts_are_refused():
    both = PhiloxGumbel([7])(0, (2, 10, 4))
    assert torch.equal(both[0], both[1])
    with pytest.raises(ValueError, match="2 keys for a batch of 3"):
        PhiloxGumbel([1, 2])(0, (3, 10, 4))
    with pytest.raises(ValueError, match="at least one key"):
        PhiloxGumbel([])


def test_negative_int64_keys_are_their_bits():
    assert torch.equal(PhiloxGumbel(torch.tensor([-1]))(0, (1, 9, 4)), PhiloxGumbel([2**64 - 1])(0, (1, 9, 4)))


def test_the_extreme_integers_give_finite_noise():
    noise = gumbel(torch.tensor([0, 1, 2**31, 2**32 - 2, 2**32 - 1]))
    assert torch.isfinite(noise).all() and (noise.diff() >= 0).all()
    assert float(noise[0]) == pytest.approx(-math.log(33 * math.log(2)), rel=1e-6)
    assert float(noise[2]) == pytest.approx(-math.log(math.log(2)), rel=1e-6)
    assert float(noise[-1]) == pytest.approx(24 * math.log(2), rel=1e-6)


def test_moments_are_those_of_the_gumbel_distribution():
    noise = PhiloxGumbel([3])(0, (1, 20000, 16)).double()
    count = noise.numel()
    assert float(noise.mean()) == pytest.approx(0.5772156649, abs=4 * 1.2825 / count**0.5)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=4 * (5.4 - 1) ** 0.5 * 1.645 / count**0.5)
    # classes and pixels do not resemble each other
    assert torch.corrcoef(noise[0].T).fill_diagonal_(0).abs().max() < 5 / 20000**0.5


def test_keys_are_the_start_of_a_hash_of_canonical_json():
    # sha256('[0,1,"butterfly",2]') begins with these bytes
    assert noise_key(0, 1, "butterfly", 2) == int("122d8b42e46a984b", 16)
    assert noise_key(0, 11) != noise_key(0, 1, 1) != noise_key(1, 0, 1)
