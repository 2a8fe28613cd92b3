"""Saving and loading: a folder with config.json, model.safetensors and a model card (README.md).

Nothing is ever unpickled. A name is a shipped model, a folder, or `hf://owner/repo`. A finetuned
model may be saved as what differs from a shipped parent.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .compact import CompactConfig, CompactWorldModel
from .hub import download
from .patch import PatchConfig, PatchWorldModel
from .vector import StateConfig, StateWorldModel
from .world_model import LatentWorldModel, WorldModelConfig

FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
PLANNING_PARTS = ("mpc", "objective", "planners", "open_loop", "keys")
FAMILIES: dict[str, tuple[type[WorldModelConfig], Callable[..., LatentWorldModel]]] = {
    "compact": (CompactConfig, CompactWorldModel),
    "patch": (PatchConfig, PatchWorldModel),
    "state": (StateConfig, StateWorldModel),
}


def pretrained_names() -> list[str]:
    """Names of the models that are shipped with the library."""
    root = resources.files(__package__) / "pretrained"
    if not root.is_dir():
        return []
    return sorted(p.name for p in root.iterdir() if (p / CONFIG_FILE).is_file())


def save_checkpoint(
    folder: str | Path,
    model: LatentWorldModel,
    *,
    planning: dict[str, Any] | None = None,
    card: str = "",
    half: bool = False,
    parent: str | None = None,
) -> None:
    """Write a checkpoint folder; a folder of that name is replaced once the new one is whole.

    planning: settings that the agent takes up unless it is told otherwise; JSON values.
    card: Markdown of the model card.
    half: store weights in float16, which halves the file and rounds them to 3 digits; statistics
        and biases stay as they are, see `halved`, and loading gives float32 again. Planning of few
        plans is faster with such weights on a processor, see networks/frozen_linear.py.
    parent: a shipped model that this one was finetuned from: tensors that it stores alike, such as
        the frozen encoder's, are left out, and loading takes them from it.

    Raises:
        KeyError: no model of the parent's name is shipped.
        ValueError: the parent has a parent itself, or the folder holds other things than a
            checkpoint, which is replaced as a whole.
    """
    folder = Path(folder).resolve()
    check_replaceable(folder)
    known: dict[str, Tensor] = {}
    if parent is not None:
        if "parent" in _read_config(_shipped(parent) / CONFIG_FILE):
            raise ValueError(f"{parent!r} has a parent itself, expected a model of its own")
        known = _read_weights(_shipped(parent))
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    config = {
        "format_version": FORMAT_VERSION,
        "family": next(name for name, (_, kind) in FAMILIES.items() if type(model) is kind),
        "model": asdict(model.config),
        "planning": planning or {},
    }
    if parent is not None:
        config["parent"] = {"name": parent, "sha256": _digest(_shipped(parent))}
    (temporary / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    if half:
        weights = {k: v.half() if halved(k, v) else v for k, v in weights.items()}
    weights = {k: v for k, v in weights.items() if not _same(v, known.get(k))}
    save_file(weights, temporary / WEIGHTS_FILE)
    (temporary / CARD_FILE).write_text(card, encoding="utf-8")
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    for hidden in old.glob(".*"):  # such as .git
        hidden.rename(folder / hidden.name)
    shutil.rmtree(old, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Raise ValueError if there is anything but a checkpoint, or what hides beside one."""
    if not folder.exists():
        return
    others = ["a file"] if folder.is_file() else sorted(path.name for path in folder.iterdir())
    known = (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE)
    others = [name for name in others if name not in known and not name.startswith(".")]
    if others:
        some = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise ValueError(
            f"{folder} is no checkpoint's alone ({some}); give a folder that is not there yet"
        )


def halved(name: str, weight: Tensor) -> bool:
    """Whether a weight is among those that may be stored in float16: not a vector, such as a bias,
    which takes no space, and no statistics."""
    return weight.ndim >= 2 and "normalizer" not in name and not name.endswith(".center")


def load_checkpoint(
    name_or_path: str | Path, *, revision: str | None = None
) -> tuple[LatentWorldModel, dict[str, Any]]:
    """A model in eval mode and its planning settings.

    name_or_path: a shipped name, a folder, or "hf://owner/repo" (huggingface_hub; `revision` pins
        a commit, tag or branch).

    Raises:
        KeyError: neither a shipped name nor a folder.
        FileNotFoundError: a file is missing, or there is no such model on the hub; see hub.py.
        ValueError: a file is damaged or of another format, or holds what differs from a parent that
            is of another version here.
    """
    folder = find_checkpoint(name_or_path, revision)
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            place = name_or_path if str(name_or_path).startswith("hf://") else folder
            inside = (folder / "checkpoint" / CONFIG_FILE).is_file()
            hint = f"; did you mean {place}/checkpoint?" if inside else ""
            raise FileNotFoundError(f"{place}/{name} is missing: not a gbp_agent checkpoint{hint}")
    config = _read_config(folder / CONFIG_FILE)
    model_config, model_class = FAMILIES[config["family"]]
    known = {f.name for f in fields(model_config)}
    if set(config["model"]) - known:
        raise ValueError(
            f"{folder / CONFIG_FILE} has unknown model settings "
            f"{sorted(set(config['model']) - known)}; it is from a newer version, update gbp_agent"
        )
    try:
        # The first weights are drawn, for nothing; and tensors of inference mode cannot be planned
        # through.
        with torch.random.fork_rng([]), torch.inference_mode(False), _float32():
            model = model_class(model_config(**config["model"]))
    except TypeError as error:
        raise ValueError(f"{folder / CONFIG_FILE} lacks a model setting: {error}") from error
    weights = _read_weights(folder)
    if "parent" in config:
        weights = {**_parent_weights(config["parent"], folder), **weights}
    _load_weights(model, weights, folder / WEIGHTS_FILE)
    return model.eval().requires_grad_(False), config["planning"]


@contextmanager
def _float32() -> Iterator[None]:
    """In which new tensors are float32, as models are, whatever the user's default."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def find_checkpoint(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The local folder of a checkpoint, downloaded if it is on the hub."""
    name = str(name_or_path)
    if name.startswith("hf://"):
        return download(name, revision, [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE])
    # Data and runs are often in a folder that is called as a shipped model.
    shipped_name = name in pretrained_names()
    if Path(name).is_dir() and not (shipped_name and not (Path(name) / CONFIG_FILE).is_file()):
        return Path(name)
    return _shipped(name)


def _shipped(name: str) -> Path:
    if name in pretrained_names():
        return Path(str(resources.files(__package__) / "pretrained" / name))
    raise KeyError(
        f"unknown model {name!r}: no such folder, and the shipped models are "
        f"{', '.join(pretrained_names())}"
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); get the checkpoint again") from error
    wanted = {"format_version", "family", "model", "planning"}
    if not isinstance(config, dict) or not wanted <= set(config):
        raise ValueError(f"{path} is of another format, expected the keys {sorted(wanted)}")
    parent = config.get("parent", {"name": "", "sha256": ""})
    if not isinstance(parent, dict) or set(parent) != {"name", "sha256"}:
        raise ValueError(f"{path} names no parent, expected its name and sha256 there")
    planning = config["planning"]
    parts = {"model": config["model"], "planning": planning}
    if isinstance(planning, dict):
        parts |= {part: planning[part] for part in PLANNING_PARTS if part in planning}
    if bad := [part for part, settings in parts.items() if not isinstance(settings, dict)]:
        raise ValueError(f"{path}: {bad[0]!r} is {parts[bad[0]]!r}, expected settings by name")
    if config["format_version"] != FORMAT_VERSION or config["family"] not in FAMILIES:
        raise ValueError(
            f"{path} has format version {config['format_version']!r} and family "
            f"{config['family']!r}, expected {FORMAT_VERSION} and one of {sorted(FAMILIES)}"
        )
    return config


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = folder / WEIGHTS_FILE
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated or no safetensors file ({error}); get it again"
        ) from error


def _parent_weights(parent: dict[str, str], folder: Path) -> dict[str, Tensor]:
    """Those of the shipped model that a checkpoint holds the differences to."""
    name = parent["name"]
    if name not in pretrained_names() or _digest(_shipped(name)) != parent["sha256"]:
        raise ValueError(
            f"{folder} holds what differs from another version of the shipped model {name!r}; "
            "take the version of gbp_agent that it was made with"
        )
    return _read_weights(_shipped(name))


def _digest(folder: Path) -> str:
    return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def _same(weight: Tensor, known: Tensor | None) -> bool:
    return known is not None and torch.equal(weight.double(), known.double())


def _load_weights(model: LatentWorldModel, weights: dict[str, Tensor], path: Path) -> None:
    expected = model.state_dict()
    if set(weights) != set(expected):
        odd = sorted(set(weights) ^ set(expected))
        raise ValueError(
            f"{path} does not hold this model: {len(odd)} tensors differ, the first is {odd[0]!r}"
        )
    for key, value in weights.items():
        if value.shape != expected[key].shape:
            raise ValueError(
                f"{path}: {key!r} has shape {tuple(value.shape)}, "
                f"expected {tuple(expected[key].shape)} by {CONFIG_FILE}"
            )
    model.load_state_dict({k: v.to(expected[k].dtype) for k, v in weights.items()})
