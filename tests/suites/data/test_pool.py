"""Batches: pairs lie on top of each other under every symmetry, on the host and by the device's gather alike."""

import numpy as np
import pytest
import torch

from suites.data import degradations
from suites.data import pool as pools
from suites.data.pool import Batch, Pool
from suites.spec import Task

CPU = torch.device("cpu")
SR2, SR3 = Task("sr", 2), Task("sr", 3)


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Smooth random colour images uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    waves = []
    for height, width in sizes:
        y, x = np.mgrid[:height, :width]
        phase = rng.uniform(0, 0.4, (3, 2)) @ np.stack([y.ravel(), x.ravel()])
        waves.append((127.5 + 120 * np.sin(phase.T + rng.uniform(0, 6, 3))).reshape(height, width, 3))
    return [np.round(wave).astype(np.uint8) for wave in waves]


def batches(pool: Pool, count: int) -> list[Batch]:
    return [pool.batch(pool.fetch(step)) for step in range(1, count + 1)]


@pytest.mark.parametrize("task", [SR2, SR3, Task("sr", 4)])
def test_pairs_are_aligned_exactly(task, monkeypatch):
    """Images whose s x s blocks carry the coordinates of their LR pixel: the GT patch is the LR patch enlarged."""
    s = task.scale
    images = []
    for number, (height, width) in enumerate([(30, 41), (25, 24), (33, 60)]):
        y, x = np.mgrid[:height, :width].astype(np.uint8)
        coordinates = np.stack([y, x, np.full_like(y, number)], axis=-1)
        full = np.kron(coordinates, np.ones((s, s, 1), dtype=np.uint8))
        images.append(np.pad(full, ((0, s - 1), (0, s - 1), (0, 0)), constant_values=255))  # what modcrop takes off
    monkeypatch.setattr(degradations, "lr_matlab", lambda gt, scale: gt[::scale, ::scale])
    pool = Pool(images, task, 24, 16, 0, CPU)
    seen = set()
    for batch in batches(pool, 12):
        assert batch.lq.shape == (16, 3, 24, 24) and batch.gt.shape == (16, 3, 24 * s, 24 * s)
        enlarged = batch.lq.repeat_interleave(s, dim=2).repeat_interleave(s, dim=3)
        assert torch.equal(enlarged, batch.gt)
        for y, x, number in (batch.lq * 255).round().int().numpy():
            assert len(np.unique(number)) == 1 and number[0, 0] < 3  # one image, and never its padding
            steps = {(int(c[0, 1] - c[0, 0]), int(c[1, 0] - c[0, 0])) for c in (y, x)}
            seen.add((int(y[0, 1] - y[0, 0]), int(y[1, 0] - y[0, 0]), int(x[0, 1] - x[0, 0]), int(x[1, 0] - x[0, 0])))
            assert steps <= {(0, 1), (0, -1), (1, 0), (-1, 0)}
    assert len(seen) == 8


def test_gt_patch_scaled_down_is_the_lr_patch():
    """The LR is made once from the whole image; away from the border a patch's own LR is the same, to rounding."""
    pool = Pool(pictures((100, 90), (77, 131)), SR2, 24, 16, 0, CPU)
    for batch in batches(pool, 4):
        for lq, gt in zip(batch.lq, batch.gt, strict=True):
            own = degradations.lr_matlab((gt * 255).round().byte().permute(1, 2, 0).numpy(), 2)
            stored = (lq * 255).round().byte().permute(1, 2, 0).numpy()
            difference = np.abs(own.astype(int) - stored)[4:-4, 4:-4]
            assert difference.max() <= 1  # rounded rows first, so a transposed patch may round otherwise


@pytest.mark.parametrize("task", [SR2, Task("denoise", 25), Task("jpeg", 10)])
def test_gather_equals_cut(task):
    pool = Pool(pictures((64, 70), (81, 66)), task, 16, 8, 0, CPU, "slic" if task.kind != "denoise" else None, 8)
    assert set(pool.planes) == ({"gt"} if task.kind == "denoise" else {"gt", "lq", "labels"})
    for step in (1, 2, 3):
        patches = pools.draw_patches(0, step, 8, pool.heights, pool.widths, 16)
        for plane in pool.planes.values():
            views = patches.strides(pool.offsets, pool.widths, 16, plane.factor)
            side = 16 * plane.factor
            assert torch.equal(plane.cut(views, side), plane.gather(torch.from_numpy(views), side))


def test_denoising_gets_fresh_noise_of_the_right_size():
    pool = Pool(pictures((64, 70), (81, 66)), Task("denoise", 25), 32, 16, 0, CPU)
    first, second = batches(pool, 2)
    noise = torch.cat([first.lq - first.gt, second.lq - second.gt]) * 255
    assert noise.std().item() == pytest.approx(25, rel=0.01)
    assert noise.mean().item() == pytest.approx(0, abs=0.3)
    assert abs(torch.corrcoef(torch.stack([noise[:16].ravel(), noise[16:].ravel()]))[0, 1]) < 0.02
    assert first.lq.min() < 0 and first.lq.max() > 1  # not clipped
    levels = first.gt * 255
    assert torch.allclose(levels, levels.round(), atol=1e-4)  # the ground truth stays the image


def test_jpeg_is_made_once_for_the_whole_gray_image():
    image = pictures((64, 80))[0]
    pool = Pool([image], Task("jpeg", 10), 16, 8, 0, CPU)
    gray = degradations.luma_uint8(image)
    compressed = degradations.jpeg(gray, 10)
    assert torch.equal(pool.planes["gt"].pixels.view(64, 80), torch.from_numpy(gray))
    assert torch.equal(pool.planes["lq"].pixels.view(64, 80), torch.from_numpy(compressed))
    batch = batches(pool, 1)[0]
    assert batch.lq.shape == batch.gt.shape == (8, 1, 16, 16)
    repeated = np.repeat(gray[..., None], 3, axis=-1)
    assert np.array_equal(pools.training_pair(Task("jpeg", 10), repeated)[1][..., 0], gray)  # gray files as they are


def test_values_and_memory_layout():
    """uint8 over 255, float32, channels last: what the official loader feeds, without a copy on the way to a GPU."""
    image = pictures((32, 32))[0]
    batch = batches(Pool([image], Task("denoise", 15), 32, 8, 0, CPU), 1)[0]
    for gt in batch.gt:
        assert torch.equal(
            (gt * 255).round().byte().flatten().sort().values, torch.from_numpy(image).flatten().sort().values
        )
    assert batch.gt.dtype == batch.lq.dtype == torch.float32
    assert batch.gt.is_contiguous(memory_format=torch.channels_last)
    assert batch.lq.is_contiguous(memory_format=torch.channels_last)


def test_labels_follow_their_patch():
    """The labels of a patch are those of the whole LR image at the same pixels, under every symmetry."""
    images = pictures((96, 100), (64, 90))
    lrs = [degradations.lr_matlab(image, 2) for image in images]
    pool = Pool(images, SR2, 16, 16, 0, CPU, "kmeans", 6)
    table = {}
    for lr in lrs:
        labels = pools.semantics.make("kmeans", lr.astype(np.float32) / 255, 6)
        for y in range(lr.shape[0] - 1):
            for x in range(lr.shape[1] - 1):
                table.setdefault(lr[y : y + 2, x : x + 2].tobytes(), set()).add(labels[y, x])
    plain = [  # samples that were not flipped; the others are tested by their coordinates above
        (batch, sample)
        for step, batch in enumerate(batches(pool, 8), 1)
        for sample, patches in enumerate(
            np.stack(list(vars(pools.draw_patches(0, step, 16, pool.heights, pool.widths, 16)).values()), 1)
        )
        if not patches[3:].any()
    ]
    assert len(plain) > 5
    for batch, sample in plain:
        pixels = (batch.lq[sample] * 255).round().byte().permute(1, 2, 0).numpy()
        assert batch.labels.dtype == torch.int64 and batch.labels.shape == (16, 16, 16)
        for y in range(15):
            for x in range(15):
                assert int(batch.labels[sample, y, x]) in table[pixels[y : y + 2, x : x + 2].tobytes()]


def test_small_images_are_left_out_and_counted():
    images = pictures((64, 64), (40, 64), (64, 47), (48, 48))
    with pytest.warns(UserWarning, match=r"^2 of 4 training images are smaller than the patch \(24 LR pixels\)"):
        pool = Pool(images, SR2, 24, 4, 0, CPU)
    assert list(pool.heights) == [32, 24] and list(pool.widths) == [32, 24]
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no training image is as large"):
        Pool(images, SR2, 33, 4, 0, CPU)


def test_labels_of_a_denoising_task_are_refused():
    with pytest.raises(ValueError, match="denoise-25 has a new one each time"):
        Pool(pictures((64, 64)), Task("denoise", 25), 16, 4, 0, CPU, "slic", 8)


def test_parts_keep_every_draw():
    whole = batches(Pool(pictures((64, 64)), SR2, 16, 8, 0, CPU), 1)[0]
    parts = whole.parts(4)
    assert [part.lq.shape[0] for part in parts] == [2] * 4
    for name in ("lq", "gt", "keys"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_seeds_and_steps_have_keys_of_their_own():
    images = pictures((64, 64))
    keys = [batch.keys for seed in (0, 1) for batch in batches(Pool(images, SR2, 16, 8, seed, CPU), 3)]
    assert len(set(torch.cat(keys).tolist())) == 2 * 3 * 8
    assert keys[0][5].item() % 2**64 == pools.noise_key(0, 1, 5)
