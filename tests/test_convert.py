"""Foreign checkpoints and data: what comes over is the same, and nothing of theirs is run."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
import yaml
from test_patch import plain_transformer
from torch import Tensor, nn

from gbp_agent import TrajectoryDataset, WorldModelMPCAgent, load_checkpoint
from gbp_agent.convert import convert_checkpoint, convert_data
from gbp_agent.convert import dino_wm as converter
from gbp_agent.convert.unpickle import load_inert

HISTORY, TOKENS, WIDTH, DEPTH, HEADS = 2, 4, 8, 2, 2
SETTINGS: dict[str, Any] = {
    "env": {"name": "pusht", "kwargs": {}},
    "img_size": 32,
    "frameskip": 5,
    "num_hist": HISTORY,
    "concat_dim": 1,
    "action_emb_dim": 3,
    "proprio_emb_dim": 3,
    "encoder": {"name": "dinov2_vits14", "feature_key": "x_norm_patchtokens"},
}


# Modules with the class paths, attributes and parameter names of the published code. They exist
# while a checkpoint is written and are gone when it is read.


class Attention(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.heads = HEADS
        self.norm = nn.LayerNorm(width)
        self.attend = nn.Softmax(dim=-1)
        self.dropout = nn.Dropout(0.1)
        self.to_qkv = nn.Linear(width, 3 * HEADS * 4, bias=False)
        self.to_out = nn.Sequential(nn.Linear(HEADS * 4, width), nn.Dropout(0.1))
        self.register_buffer("bias", torch.ones(1, 1, 8, 8))


class FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 16), nn.GELU(), nn.Dropout(0.1),
            nn.Linear(16, width), nn.Dropout(0.1),
        )  # fmt: skip


class Transformer(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.ModuleList([Attention(width), FeedForward(width)]) for _ in range(DEPTH)
        )


class ViTPredictor(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, HISTORY * TOKENS, width))
        self.dropout = nn.Dropout(0.1)
        self.transformer = Transformer(width)


class ProprioceptiveEmbedding(nn.Module):
    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.patch_embed = nn.Conv1d(inputs, width, 1)


class DinoV2Encoder(nn.Module):
    def __init__(self, base_model: nn.Module):
        super().__init__()
        self.name = "dinov2_vits14"
        self.base_model = base_model


class Backbone(nn.Module):
    """Holds a state dict under its names."""

    def __init__(self, weights: dict[str, Tensor]):
        super().__init__()
        for name, value in weights.items():
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]  # type: ignore[assignment]
            module.register_parameter(last, nn.Parameter(value))


PLACES = {
    "models.vit": [Attention, FeedForward, Transformer, ViTPredictor],
    "models.proprio": [ProprioceptiveEmbedding],
    "models.dino": [DinoV2Encoder],
    "dinov2.models.vision_transformer": [Backbone],
}


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The classes above can be pickled as those of the published code."""
    with monkeypatch.context() as patch:
        for parent in ("models", "dinov2", "dinov2.models"):
            patch.setitem(sys.modules, parent, types.ModuleType(parent))
        for place, classes in PLACES.items():
            module = types.ModuleType(place)
            patch.setitem(sys.modules, place, module)
            for kind in classes:
                patch.setattr(kind, "__module__", place)
                patch.setattr(module, kind.__name__, kind, raising=False)
        yield


@pytest.fixture
def small_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """DINOv2's place is taken by a tiny transformer: 4 tokens of 8 numbers."""
    options = {"patch_size": 14, "embed_dim": WIDTH, "depth": 1, "num_heads": 2}

    class Small(converter.PatchConfig):
        def __post_init__(self) -> None:
            object.__setattr__(self, "encoder_options", options)
            super().__post_init__()

    monkeypatch.setattr(converter, "PatchConfig", Small)


def write(folder: Path, settings: dict[str, Any], saved: Any) -> Path:
    file = folder / "run" / "checkpoints" / "model_latest.pth"
    file.parent.mkdir(parents=True, exist_ok=True)
    (file.parent.parent / "hydra.yaml").write_text(yaml.safe_dump(settings))
    torch.save(saved, file)
    return file


def published(grid: int = 2) -> dict[str, Any]:
    """A checkpoint's content, with an encoder whose position embeddings are grid × grid."""
    torch.manual_seed(0)
    encoder = {
        "cls_token": torch.randn(1, 1, WIDTH),
        "pos_embed": torch.randn(1, 1 + grid**2, WIDTH),
        "mask_token": torch.randn(1, WIDTH),
        "patch_embed.proj.weight": torch.randn(WIDTH, 3, 14, 14) / 14,
        "patch_embed.proj.bias": torch.randn(WIDTH),
    }
    shapes = {
        "norm1": (WIDTH,), "attn.qkv": (3 * WIDTH, WIDTH), "attn.proj": (WIDTH, WIDTH),
        "norm2": (WIDTH,), "mlp.fc1": (4 * WIDTH, WIDTH), "mlp.fc2": (WIDTH, 4 * WIDTH),
    }  # fmt: skip
    for name, shape in shapes.items():
        encoder[f"blocks.0.{name}.weight"] = torch.randn(shape)
        encoder[f"blocks.0.{name}.bias"] = torch.randn(shape[0])
    encoder |= {f"blocks.0.ls{i}.gamma": torch.randn(WIDTH) for i in (1, 2)}
    encoder |= {"norm.weight": torch.randn(WIDTH), "norm.bias": torch.randn(WIDTH)}
    return {
        "encoder": DinoV2Encoder(Backbone(encoder)),
        "predictor": ViTPredictor(WIDTH + 6),
        "proprio_encoder": ProprioceptiveEmbedding(4, 3),
        "action_encoder": ProprioceptiveEmbedding(10, 3),
        "decoder": None,
        "predictor_optimizer": torch.optim.AdamW([nn.Parameter(torch.zeros(2))]),
        "epoch": 7,
    }


def their_rollout(
    saved: dict[str, Any], visual: Tensor, proprio: Tensor, actions: Tensor, steps: int
) -> Tensor:
    """Plain formulas of the published loop: tokens | proprioception | action, the action of each
    predicted frame overwritten by the plan's. visual (N, T, P, D), proprio (N, T, p) z-scored."""

    def embed(module: Any, x: Tensor) -> Tensor:
        return x @ module.patch_embed.weight[..., 0].T + module.patch_embed.bias

    theirs = saved["predictor"]
    vit = types.SimpleNamespace(
        position=theirs.pos_embedding[0].unflatten(0, (HISTORY, TOKENS)),
        attention=[
            types.SimpleNamespace(norm=a.norm, heads=a.heads, to_qkv=a.to_qkv, out=a.to_out[0])
            for a, _ in theirs.transformer.layers
        ],
        mlp=[f.net for _, f in theirs.transformer.layers],
        norm=theirs.transformer.norm,
    )
    acts = embed(saved["action_encoder"], actions)
    own = embed(saved["proprio_encoder"], proprio)

    def spread(x: Tensor) -> Tensor:
        return x.unsqueeze(-2).expand(*x.shape[:-1], TOKENS, x.shape[-1])

    z = torch.cat([visual, spread(own), spread(acts[:, :HISTORY])], -1)
    for step in range(steps):
        new = plain_transformer(vit, z[:, -HISTORY:])[:, -1:]  # type: ignore[arg-type]
        if step + 1 < steps:
            new = torch.cat([new[..., :-3], spread(acts[:, HISTORY + step, None])], -1)
        z = torch.cat([z, new], 1)
    return z[:, HISTORY:]


@pytest.fixture
def checkpoint(elsewhere: None, small_encoder: None, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    saved = published()
    return write(tmp_path, SETTINGS, saved), saved


def test_rollouts_equal_the_originals(
    checkpoint: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, saved = checkpoint
    for place in (*PLACES, "models", "dinov2", "dinov2.models"):
        monkeypatch.delitem(sys.modules, place)
    convert_checkpoint(file.parent.parent, tmp_path / "out")
    model, planning = load_checkpoint(tmp_path / "out")
    assert planning["objective"] == {"frames": "last", "proprio_weight": 1.0}
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (3, HISTORY, 32, 32, 3), dtype=torch.uint8, generator=generator)
    proprio = 300 * torch.rand(3, HISTORY, 4, generator=generator)
    actions = torch.randn(3, HISTORY + 3, 10, generator=generator)
    start = model.encode(pixels, proprio)
    found = model.rollout(start, actions[:, : HISTORY - 1], actions[:, HISTORY - 1 :])
    scored = (proprio - torch.tensor(converter.PUSHT_PROPRIO[0])) / torch.tensor(
        converter.PUSHT_PROPRIO[1]
    )
    with torch.no_grad():
        expected = their_rollout(saved, start.visual, scored, actions, 4)
    torch.testing.assert_close(found.visual, expected[..., :WIDTH], rtol=1e-5, atol=1e-5)
    first = expected[..., 0, WIDTH : WIDTH + 3]
    torch.testing.assert_close(found.proprio, first, rtol=1e-5, atol=1e-5)


def test_the_agent_plans_with_it(checkpoint: tuple[Path, Any], tmp_path: Path) -> None:
    convert_checkpoint(checkpoint[0], tmp_path / "out")
    agent = WorldModelMPCAgent.from_pretrained(tmp_path / "out", "cem")
    frame = np.zeros((32, 32, 3), np.uint8)
    agent.planner.config.__dict__.update(samples=4, iterations=1, elites=2)
    parts = {"pixels": frame, "proprio": np.zeros(4, np.float32)}
    action = agent.act(parts | {f"goal_{key}": value for key, value in parts.items()})
    assert action.shape == (2,)
    assert np.all(np.abs(action) <= 1)


def test_position_embeddings_are_resized_as_dinov2_does(
    elsewhere: None, small_encoder: None, tmp_path: Path
) -> None:
    saved = published(grid=5)
    model = convert_checkpoint(write(tmp_path, SETTINGS, saved), tmp_path / "out")
    theirs = saved["encoder"].base_model.pos_embed.detach()
    grid = theirs[:, 1:].reshape(1, 5, 5, WIDTH).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, scale_factor=(2.1 / 5,) * 2, mode="bicubic")
    found = model.encoder.network.pos_embed
    torch.testing.assert_close(found[:, :1], theirs[:, :1])
    torch.testing.assert_close(found[0, 1:], expected[0].flatten(1).T)


def test_command_line(checkpoint: tuple[Path, Any], tmp_path: Path) -> None:
    """The command, as far as the first error that the real encoder meets here."""
    (checkpoint[0].parent.parent / "hydra.yaml").unlink()
    run = subprocess.run(
        [sys.executable, "-m", "gbp_agent.convert", "dino-wm", str(checkpoint[0]), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "no hydra.yaml beside" in run.stderr


# What is refused ------------------------------------------------------------------------------


class Hostile:
    """Would make a file, if it were unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_is_not_run(elsewhere: None, tmp_path: Path) -> None:
    file = write(tmp_path, SETTINGS, {"predictor": Hostile(tmp_path / "made")})
    with pytest.raises(ValueError, match=r"asks for .*, which is not part of a known") as caught:
        load_inert(file)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_reduce_of_a_known_name_is_inert(tmp_path: Path) -> None:
    """A call of a function in a torch module is taken down, not made."""
    file = tmp_path / "model.pth"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", b"ctorch.nn.modules.utils\n_pair\n(I1\ntR.")
    assert type(load_inert(file)).__name__ == "Inert"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "truncated"), (b"PK\x03\x04 no more", "truncated"), (pickle.dumps({}), "truncated")],
)
def test_damaged_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_inert(tmp_path / "model.pth")
    with pytest.raises(FileNotFoundError, match="is not there"):
        load_inert(tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": {"name": "rope"}}, "expected one of pusht"),
        ({"num_action_repeat": 2}, "num_action_repeat=2"),
        ({"encoder": {"name": "r3m"}}, "expected x_norm_patchtokens of one of"),
        ({"num_hist": 3}, "has 8 positions, expected 3 frames of 4"),
        ({"img_size": 48}, "has 8 positions, expected 2 frames of 9"),
        ({"action_emb_dim": 4}, "does not fit its hydra.yaml"),
        ({"env": {"name": "wall"}}, "statistics of wall's data are not known"),
    ],
)
def test_settings_that_do_not_fit(
    change: dict[str, Any], message: str, checkpoint: tuple[Path, Any], tmp_path: Path
) -> None:
    file = checkpoint[0].parent.parent / "hydra.yaml"
    file.write_text(yaml.safe_dump({**SETTINGS, **change}))
    with pytest.raises(ValueError, match=message) as caught:
        convert_checkpoint(checkpoint[0], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_parts_that_are_missing(elsewhere: None, small_encoder: None, tmp_path: Path) -> None:
    saved = published()
    del saved["action_encoder"]
    with pytest.raises(ValueError, match="has no 'action_encoder'"):
        convert_checkpoint(write(tmp_path, SETTINGS, saved), tmp_path / "out")
    saved = published()
    del saved["encoder"]
    with pytest.raises(FileNotFoundError, match=r"weights\.pt is not there"):
        convert_checkpoint(
            write(tmp_path, SETTINGS, saved), tmp_path / "out", encoder=tmp_path / "weights.pt"
        )


# Data -----------------------------------------------------------------------------------------

LENGTHS = [4, 6, 5]


def write_data(folder: Path, env: str) -> np.ndarray:
    """A small data folder; returns the pictures of all episodes."""
    generator = np.random.default_rng(0)
    (folder / "obses").mkdir(parents=True)
    pictures = np.repeat(
        np.repeat(generator.integers(0, 256, (3, 6, 4, 4, 3), np.uint8), 16, 2), 16, 3
    )
    numbers = {"pusht": 5, "point_maze": 4, "wall": 2}[env]
    torch.save(torch.rand(3, 6, numbers), folder / "states.pth")
    if env == "pusht":
        torch.save(torch.rand(3, 6, 2), folder / "velocities.pth")
        torch.save(100 * torch.rand(3, 6, 2), folder / "rel_actions.pth")
        (folder / "seq_lengths.pkl").write_bytes(pickle.dumps(LENGTHS))
        for i, frames in enumerate(pictures):
            imageio.mimwrite(
                folder / "obses" / f"episode_{i:03d}.mp4", list(frames[: LENGTHS[i]]), fps=10
            )
        return pictures
    torch.save(torch.rand(3, 6, 2), folder / "actions.pth")
    if env == "point_maze":
        torch.save(torch.tensor(LENGTHS), folder / "seq_lengths.pth")
    else:
        torch.save(torch.full((3,), 30.0), folder / "wall_locations.pth")
        torch.save(torch.full((3,), 20.0), folder / "door_locations.pth")
    for i, frames in enumerate(pictures):
        saved = torch.from_numpy(frames)
        saved = saved if env == "point_maze" else saved.permute(0, 3, 1, 2).float() / 255
        torch.save(saved, folder / "obses" / f"episode_{i:03d}.pth")
    return pictures


@pytest.mark.parametrize("env", ["pusht", "point_maze", "wall"])
def test_data_come_over(env: str, tmp_path: Path) -> None:
    pictures = write_data(tmp_path / "theirs", env)
    found = convert_data(tmp_path / "theirs", tmp_path / "ours", env, progress=False)
    lengths = LENGTHS if env != "wall" else [6, 6, 6]
    assert [len(found.episode(i)["proprio"]) for i in range(3)] == lengths
    states = torch.load(tmp_path / "theirs" / "states.pth", weights_only=True).double().numpy()
    name = "rel_actions" if env == "pusht" else "actions"
    actions = torch.load(tmp_path / "theirs" / f"{name}.pth", weights_only=True).numpy()
    actions = actions / (100 if env == "pusht" else 1)
    for i, length in enumerate(lengths):
        episode = found.episode(i)
        np.testing.assert_array_equal(episode["state"][:, : states.shape[-1]], states[i, :length])
        np.testing.assert_allclose(episode["action"][:-1], actions[i, : length - 1], rtol=1e-6)
        assert not episode["action"][-1].any()
        if env == "pusht":  # the video is lossy
            difference = np.abs(episode["pixels"].astype(int) - pictures[i, :length])
            assert difference.mean() < 12
        else:
            np.testing.assert_array_equal(episode["pixels"], pictures[i, :length])
    if env == "pusht":
        velocities = torch.load(tmp_path / "theirs" / "velocities.pth", weights_only=True)
        np.testing.assert_allclose(found.episode(1)["proprio"][:, 2:], velocities[1].numpy())
    if env == "wall":
        assert found.metadata["wall_locations"] == [30.0] * 3
    assert isinstance(convert_data(tmp_path / "theirs", tmp_path / "ours", env), TrajectoryDataset)


def test_killed_data_conversion_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gbp_agent.convert import dino_wm_data

    monkeypatch.setattr(dino_wm_data, "EPISODES_PER_PART", 2)
    write_data(tmp_path / "theirs", "wall")
    last = tmp_path / "theirs" / "obses" / "episode_002.pth"
    kept = last.read_bytes()
    last.write_bytes(kept[:100])
    with pytest.raises(ValueError, match="damaged"):
        convert_data(tmp_path / "theirs", tmp_path / "ours", "wall", progress=False)
    stamp = (tmp_path / "ours" / "part-00000").stat().st_mtime_ns
    last.write_bytes(kept)
    found = convert_data(tmp_path / "theirs", tmp_path / "ours", "wall", progress=False)
    assert len(found) == 3
    assert (tmp_path / "ours" / "part-00000").stat().st_mtime_ns == stamp


def test_data_that_are_not_theirs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"states\.pth is missing"):
        convert_data(tmp_path, tmp_path / "ours", "wall")
    with pytest.raises(ValueError, match="env must be one of"):
        convert_data(tmp_path, tmp_path / "ours", "rope")
    write_data(tmp_path / "theirs", "wall")
    with pytest.raises(ValueError, match=r"expected \(N, T, 4\)"):
        convert_data(tmp_path / "theirs", tmp_path / "ours", "point_maze")
    torch.save(Hostile(tmp_path / "made"), tmp_path / "theirs" / "states.pth")
    with pytest.raises(ValueError, match="holds more than a tensor"):
        convert_data(tmp_path / "theirs", tmp_path / "ours", "wall")
    write_data(tmp_path / "others", "pusht")
    (tmp_path / "others" / "seq_lengths.pkl").write_bytes(pickle.dumps(Hostile(tmp_path / "made")))
    with pytest.raises(ValueError, match="holds more than numbers"):
        convert_data(tmp_path / "others", tmp_path / "ours", "pusht")
    assert not (tmp_path / "made").exists()


def test_folder_with_other_data(tmp_path: Path) -> None:
    write_data(tmp_path / "theirs", "wall")
    convert_data(tmp_path / "theirs", tmp_path / "ours", "wall", progress=False)
    metadata = json.loads((tmp_path / "ours" / "metadata.json").read_text())
    (tmp_path / "ours" / "metadata.json").write_text(json.dumps({**metadata, "episodes": 9}))
    with pytest.raises(ValueError, match="holds other data"):
        convert_data(tmp_path / "theirs", tmp_path / "ours", "wall")
