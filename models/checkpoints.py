"""Weights in and out: official .pth files and safetensors, weights only, strict."""

import hashlib
import io
import pickle
import re
import textwrap
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from models.errors import ModelError

# Where training code keeps a network: BasicSR under the first two, of which the averaged weights win, others elsewhere.
KEYS = ("params_ema", "params", "state_dict", "model")
PARALLEL = "module."  # DistributedDataParallel and DataParallel put it before every name
DERIVED = "relative_position_index_SA"  # in official state dicts, though every network computes it
SHARED = 16  # how often tensors of a file may share one memory
SHOWN = 3  # tensors named in a message
SHOWN_TEXT = 40  # letters of a text file


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The state dict in a safetensors or PyTorch file: under one of KEYS or the tensors themselves, without `module.`.

    Nothing in a file is ever executed. Raises OSError for a file that cannot be opened and ModelError for one that is
    damaged, holds code or other objects than tensors, or is of another kind.
    """
    content = Path(path).read_bytes()
    try:
        # A safetensors file is the length of its header, then the header's JSON.
        state = load(content) if content[8:9] == b"{" else _tensors(_unpickle(content), str(path))
    except ModelError:
        raise
    except Exception as error:  # whatever a parser trips over in bytes that are already read
        raise ModelError(f"{path}: {_what(content, error)}") from error
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if size > SHARED * len(content):  # views that repeat one number cost nothing until they are copied
        raise ModelError(f"{path}: its tensors would take {size} bytes, and the file has {len(content)}: refused")
    return state


def _what(content: bytes, error: Exception) -> str:
    """What a file of this content is, which could not be read as weights."""
    refused = re.search(r"(?:GLOBAL|class|function) ([\w.]+\.[\w.]+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and refused:
        return f"it holds {refused[1]}, not only weights: refused"
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if text and text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        return f"a text file, not a file of weights; it begins with {text.splitlines()[0][:SHOWN_TEXT]!r}"
    if not content:
        return "an empty file"
    if content[8:9] == b"{" or (content[:2] == b"PK" and not zipfile.is_zipfile(io.BytesIO(content))):
        return f"it is cut short or damaged: {len(content):,} bytes; get it again"
    why = "" if isinstance(error, pickle.UnpicklingError) else f" ({_first_line(error)})"
    return f"not a file of weights, or damaged{why}"


def _unpickle(content: bytes) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickle protocols: what matters is whether it loads
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _tensors(content: object, source: str) -> dict[str, Tensor]:
    """The state dict in what a file held, or in what was handed over in its place."""
    if isinstance(content, Mapping):
        content = next((content[key] for key in KEYS if isinstance(content.get(key), Mapping)), content)
    if _is_state(content):
        parallel = all(name.startswith(PARALLEL) for name in content)
        return {name.removeprefix(PARALLEL) if parallel else name: tensor for name, tensor in content.items()}
    found = [key for key, value in content.items() if _is_state(value)] if isinstance(content, Mapping) else []
    if found:
        there = " and ".join(map(repr, found))
        raise ModelError(
            f"{source}: no state dict at the top or under {', '.join(KEYS)}, but under {there}: "
            f"save the one that you mean as a file of its own, torch.save(torch.load(FILE)[{found[0]!r}], NEW)"
        )
    raise ModelError(f"{source}: no state dict (names and tensors, at the top or under {', '.join(KEYS)})")


def _is_state(value: object) -> bool:
    """Whether it is a mapping of names to tensors, and not empty."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def load_weights(model: nn.Module, weights: Path | str | Mapping[str, Tensor], source: str = "the state dict") -> None:
    """Loads a file or a state dict into `model`: every tensor, no other, each of its own shape; or nothing at all.

    `relative_position_index_SA` may be missing (it is computed), but must be right where it is there. Floating types
    are converted to the model's. Raises as `read_state`, and ModelError for the weights of another network: it names
    what is missing, unexpected or of another shape, and what the weights look like. source: what a state dict is called
    in it.
    """
    given = isinstance(weights, Mapping)
    source = source if given else str(weights)
    state = _tensors(weights, source) if given else read_state(weights)
    own = model.state_dict()
    missing = [name for name in own if name not in state and name != DERIVED]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {list(state[name].shape)} in place of {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    found = [f"{len(names)} {what} ({_some(names)})" for what, names in problems if names]
    if found:
        raise ModelError(
            f"{source} looks like {describe(state)}, the network is {describe(own)}; misfits: {'; '.join(found)}"
        )
    if DERIVED in own and DERIVED in state and not torch.equal(state[DERIVED].cpu(), own[DERIVED].cpu()):
        raise ModelError(f"{source}: {DERIVED} is not what a window of this size has; the file is damaged")
    foreign = [
        name for name in own if name in state and own[name].is_floating_point() > state[name].is_floating_point()
    ]
    if foreign:
        raise ModelError(f"{source}: {len(foreign)} tensors are not floating point ({_some(foreign)})")
    model.load_state_dict(state | ({DERIVED: own[DERIVED]} if DERIVED in own else {}))


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _first_line(error: Exception) -> str:
    return textwrap.shorten(str(error).strip().split("\n")[0], 200, placeholder=" ...")


def describe(state: Mapping[str, Tensor]) -> str:
    """What network a state dict belongs to, in words, as far as its names and shapes tell."""
    layer = r"layers\.(\d+)\.residual_group\.(?:layers|blocks)\.(\d+)\."
    members = {(int(m[1]), int(m[2])) for name in state if (m := re.match(layer, name))}
    if not members or "conv_first.weight" not in state:
        return f"no network of this family ({len(state)} tensors, the first is {next(iter(state), 'none')})"
    names = [name for name in state if name.startswith("layers.0.residual_group.")]
    if any("self_attention" in name for name in names):
        family = "MambaIR"
    else:
        family = "MambaIRv2Light" if any(".sg." in name for name in names) else "MambaIRv2"
    depths = [sum(group == i for group, _ in members) for i in range(1 + max(group for group, _ in members))]
    dim, channels = state["conv_first.weight"].shape[:2]
    scale, channels = scale_of(state) or (1, channels)
    head = f"x{scale:g}" if scale > 1 else f"same size, {channels} channels"
    return ", ".join([family, f"embed_dim {dim}", f"depths {'+'.join(map(str, depths))}", head])


def scale_of(state: Mapping[str, Tensor]) -> tuple[float, int] | None:
    """By how much the network of a state dict enlarges, and its channels; None for no network of this family."""
    if "conv_first.weight" not in state:
        return None
    channels = state["conv_first.weight"].shape[1]
    ups = [state[name].shape for name in state if re.fullmatch(r"upsample\.\d+\.weight", name)]
    scale = 1.0
    for out, inner, *_ in ups:
        scale *= (out / (inner if "conv_last.weight" in state else channels)) ** 0.5
    return scale, channels


def weights_hash(weights: nn.Module | Path | str | Mapping[str, Tensor]) -> str:
    """SHA-256 of name, type, shape and bytes of every tensor in sorted order: equal for a network and its file.

    `relative_position_index_SA` is left out: files may hold it or not. Raises as `read_state`.
    """
    if isinstance(weights, nn.Module):
        state = weights.state_dict()
    else:
        state = _tensors(weights, "the state dict") if isinstance(weights, Mapping) else read_state(weights)
    digest = hashlib.sha256()
    for name in sorted(state):
        if name != DERIVED:
            tensor = state[name].detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
