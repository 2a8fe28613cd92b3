"""Trained baselines: one file each, weights in safetensors with a description in its header.

Nothing is ever unpickled, which Stable-Baselines3's own .zip files ask for.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .cloning import CloningAgent

SUFFIX = ".safetensors"


def baseline_names() -> list[str]:
    """Names of the baselines that are shipped with the library."""
    return sorted(path.stem for path in _shipped().glob(f"*{SUFFIX}"))


def load_baseline(name_or_path: str | Path) -> tuple[Any, dict[str, Any]]:
    """A trained baseline, which has Stable-Baselines3's `predict`, and its description.

    name_or_path: a shipped name, such as "wall-sac", or a file.

    The description has `kind` ("sac", "ppo" or "bc"), `env_id`, `env_kwargs` (to make the
    environment with), `env_steps` (taken for its training) and `curve`, a list of
    {env_steps, success_rate, episodes} along the training where it was recorded.

    Raises:
        KeyError: neither a shipped name nor a file.
        ValueError: the file is damaged or holds something else.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = _shipped() / f"{name_or_path}{SUFFIX}"
    if not path.is_file():
        raise KeyError(
            f"{str(name_or_path)!r} is neither a file nor a shipped baseline; shipped: "
            f"{', '.join(baseline_names())}"
        )
    weights, about = read_weights(path)
    if about["kind"] == "bc":
        return CloningAgent.from_weights(weights, about), about
    from .sb3 import policy_from_weights  # it writes its files with this module

    return policy_from_weights(weights, about), about


def write_weights(path: Path, weights: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write a baseline's file, under a temporary name first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    save_file(tensors, temporary, metadata={"about": json.dumps(about)})
    temporary.replace(path)


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description; a ValueError for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["about"])
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        about["kind"], about["env_id"], about["env_kwargs"]
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is no trained baseline ({type(error).__name__}: {error}); "
            "write one with examples/train_baseline.py"
        ) from error
    return weights, about


def _shipped() -> Path:
    return Path(str(resources.files("gbp_agent"))) / "pretrained" / "baselines"
