"""Option files of the official code as cells: the official recipe is the suite's own cell, and every key counts."""

from pathlib import Path

import pytest
import yaml

from results import records
from suites import recipes
from suites.recipes import paper
from suites.spec import SpecError

LIGHT = {
    **{"type": "MambaIRv2Light", "upscale": 2, "in_chans": 3, "img_size": 64, "img_range": 1.0, "embed_dim": 48},
    **{"d_state": 8, "depths": [5, 5, 5, 5], "num_heads": [4, 4, 4, 4], "window_size": 16, "inner_rank": 32},
    **{"num_tokens": 64, "convffn_kernel_size": 5, "mlp_ratio": 1.0, "upsampler": "pixelshuffledirect"},
}


def official() -> dict:
    """The recipe of light x2 (options/train/mambairv2 of csguoh/MambaIR), as its keys and values."""
    train = {"task": "SR", "name": "DF2K", "type": "PairedImageDataset", "dataroot_gt": ["/d/DIV2K/DIV2K_train_HR"]}
    train |= {"dataroot_lq": ["/d/DIV2K/LR/X2"], "filename_tmpl": "{}x2", "io_backend": {"type": "disk"}}
    train |= {"gt_size": 128, "use_hflip": True, "use_rot": True, "use_shuffle": True, "batch_size_per_gpu": 16}
    train |= {"num_worker_per_gpu": 8, "dataset_enlarge_ratio": 100, "prefetch_mode": None}
    sets = {f"val_{i}": {"name": name, "dataroot_gt": f"/d/SR/{name}/HR"} for i, name in enumerate(paper.TEST_SETS)}
    schedule = {"type": "MultiStepLR", "milestones": [250000, 400000, 450000, 475000], "gamma": 0.5}
    optimizer = {"type": "Adam", "lr": 2e-4, "weight_decay": 0, "betas": [0.9, 0.99]}
    loss = {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"}
    psnr = {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True}
    return {
        **{"name": "light", "model_type": "MambaIRv2LightModel", "scale": 2, "num_gpu": 2, "manual_seed": 10},
        "datasets": {"train": train, **sets},
        "network_g": dict(LIGHT),
        "path": {"pretrain_network_g": None, "strict_load_g": True, "resume_state": None},
        "train": {"optim_g": optimizer, "scheduler": schedule, "total_iter": 500000, "warmup_iter": -1}
        | {"pixel_opt": loss},
        "val": {"val_freq": 5e3, "save_img": False, "metrics": {"psnr": psnr}},
        "logger": {"print_freq": 200, "save_checkpoint_freq": 5e3, "wandb": {"project": None}},
        "dist_params": {"backend": "nccl", "port": 29500},
    }


def changed(*keys: str, to: object) -> dict:
    tree = official()
    branch = tree
    for key in keys[:-1]:
        branch = branch.setdefault(key, {})
    branch[keys[-1]] = to
    return tree


def suite(tmp_path: Path, tree: dict, **choices):
    (tmp_path / "train.yml").write_text(yaml.safe_dump(tree))
    return recipes.choose(None, file=tmp_path / "train.yml", **choices)


def test_the_official_recipe_is_the_cell_of_the_suite(tmp_path: Path) -> None:
    (cell,) = suite(tmp_path, official(), seeds="0").cells
    (own,) = recipes.SUITES["paper-light-x2"]("paper", (0,)).cells
    assert records.key_of(cell.config()) == records.key_of(own.config())
    assert [one.seed for one in suite(tmp_path, official()).cells] == [10]


def test_other_tasks_networks_and_schedules(tmp_path: Path) -> None:
    tree = official() | {"scale": 1}
    tree["datasets"]["train"] |= {"task": "denoising_color", "noise": 25, "dataroot_gt": "/d/Mine/HQ"}
    tree["datasets"] = {"train": tree["datasets"]["train"], "val": {"task": "denoising_color", "noise": 25}}
    tree["datasets"]["val"] |= {"name": "CBSD68", "dataroot_gt": "/d/CBSD68HQ"}
    tree["network_g"] |= {"upscale": 1, "upsampler": "", "num_tokens": 16, "depths": [3, 3, 3, 3]}
    tree["train"]["pixel_opt"] = {"type": "CharbonnierLoss", "eps": "1e-3"}
    tree["val"]["metrics"]["psnr"] |= {"crop_border": 0, "test_y_channel": False}
    (cell,) = suite(tmp_path, tree, changes=["iterations=7"]).cells
    assert (cell.task.name, cell.train_sets, cell.test_sets) == ("denoise-25", ("Mine",), ("CBSD68",))
    assert cell.variant.overrides == {"num_tokens": 16, "depths": (3, 3, 3, 3)}
    budget = cell.budget
    assert (budget.name, budget.iterations, budget.patch, budget.loss) == ("reduced", 7, 128, "charbonnier")
    tree["scale"], tree["datasets"]["train"]["task"] = 1, "CAR"
    with pytest.raises(SpecError, match=r"datasets\.train\.dataroot_lq ends in 'X2'"):
        suite(tmp_path, tree)


def test_the_older_network_of_the_official_code(tmp_path: Path) -> None:
    """Its class takes any key; these three are in the official files and read by nothing."""
    network = {"type": "MambaIR", "upscale": 2, "in_chans": 3, "img_size": 64, "img_range": 1.0, "embed_dim": 60}
    network |= {"d_state": 10, "depths": [6] * 4, "mlp_ratio": 1.2, "upsampler": "pixelshuffledirect"}
    unread = {"window_size": 8, "interval": [4] * 4, "num_heads": [6] * 4}
    (cell,) = suite(tmp_path, official() | {"network_g": network | unread}).cells
    assert (cell.variant.model, cell.variant.overrides) == ("mambair-light", {})


@pytest.mark.parametrize(
    ("keys", "value", "told"),
    [
        (("train", "ema_decay"), 0.999, "train.ema_decay is 0.999; here it is 0"),
        (("train", "perceptual_opt"), {"type": "PerceptualLoss"}, "train.perceptual_opt.type"),
        (("train", "optim_g", "type"), "AdamW", "train.optim_g.type is 'AdamW'"),
        (("train", "scheduler", "type"), "CosineAnnealingRestartLR", "train.scheduler.type"),
        (("train", "pixel_opt", "type"), "MSELoss", "train.pixel_opt.type"),
        (("train", "optim_g", "lr"), "fast", "train.optim_g.lr is 'fast', not a number"),
        (("datasets", "train", "use_rot"), False, "datasets.train.use_rot is False; here it is True"),
        (("datasets", "train", "meta_info_file"), "list.txt", "datasets.train.meta_info_file is 'list.txt'"),
        (("datasets", "train", "gt_size"), 129, "datasets.train.gt_size"),
        (("network_g", "window"), 8, "network_g MambaIRv2 has no argument 'window'"),
        (("network_g", "type"), "SwinIR", "network_g network type 'SwinIR'"),
        (("network_d",), {"type": "VGG"}, "network_d.type"),
        (("num_gpu",), "auto", "num_gpu is 'auto', not a number"),
        (("scale",), 4, "network_g.upscale is 2, and sr-x4 needs another"),
        (("path", "pretrain_network_g"), "x2.pth", "path.pretrain_network_g names weights to start from"),
        (("val", "metrics", "psnr", "crop_border"), 0, "val.metrics.psnr.crop_border is 0; here it is 2"),
    ],
)
def test_what_cannot_be_honoured_is_named(tmp_path: Path, keys: tuple, value: object, told: str) -> None:
    with pytest.raises(SpecError) as error:
        suite(tmp_path, changed(*keys, to=value))
    assert told in str(error.value)


def test_mistakes_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="leave out smoke"):
        recipes.choose("smoke", file=tmp_path / "train.yml")
    with pytest.raises(SpecError, match="name a suite"):
        recipes.choose(None)
    with pytest.raises(SpecError, match="cannot be read as YAML"):
        recipes.choose(None, file=tmp_path / "none.yml")
    (tmp_path / "lr.yml").write_text("train: {optim_g: {lr: !!float }}")
    with pytest.raises(SpecError, match="cannot be read as YAML: string index"):
        recipes.choose(None, file=tmp_path / "lr.yml")


@pytest.mark.parametrize(
    ("path", "name", "found"),
    [
        ("/d/DIV2K/DIV2K_train_HR", "DF2K", "DIV2K"),
        ("/d/DIV2K/HR", "DF2K", "DIV2K"),
        ("/d/Flickr2K/Flickr2K_train_HR", "DF2K", "Flickr2K"),
        ("/d/ColorDN/CBSD68HQ", "val", "CBSD68"),
        ("/d/CAR/classic5/Classic5_HQ", "val", "Classic5"),
        ("/d/b100/GTmod12", "val", "BSD100"),
        ("/d/DFWB/HQ", "DFWB", "DFWB"),
        ("/d/crops/HR", "Set5", "crops"),  # the folder decides, not what the file calls it
        ("HR", "Set5", "Set5"),
    ],
)
def test_the_innermost_folder_says_which_set_is_meant(tmp_path: Path, path: str, name: str, found: str) -> None:
    (cell,) = suite(tmp_path, trained_on(path, name)).cells
    assert cell.train_sets == (found,)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/d/DIV2K/my_crops/HR", "my_crops is no folder that DIV2K is known to have"),
        ("/home/Set5/holdout", "holdout is no folder that Set5 is known to have"),
        ("/d/DIV2K/DIV2K_valid_HR", "DIV2K_valid_HR is no folder that DIV2K is known to have"),
        ("../GT", "which names no dataset"),
    ],
)
def test_other_pictures_inside_a_known_set_are_not_that_set(tmp_path: Path, path: str, told: str) -> None:
    tree = trained_on(path, "train")
    with pytest.raises(SpecError, match=f"dataroot_gt is {path}, .*{told}: .* --set train_sets=NAME"):
        suite(tmp_path, tree)
    (cell,) = suite(tmp_path, tree, changes=["train_sets=Mine"]).cells
    assert cell.train_sets == ("Mine",)


def trained_on(path: str, name: str) -> dict:
    tree = official()
    tree["datasets"]["train"] |= {"dataroot_gt": path, "name": name}
    return tree
