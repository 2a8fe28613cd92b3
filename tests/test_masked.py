"""Patch tokens from scratch: the masked autoencoder, and a whole tiny run."""

from __future__ import annotations

from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import SIZE

from gbp_agent import (
    DynamicsConfig,
    FinetuneConfig,
    GradientConfig,
    GradientPlanner,
    MaskedConfig,
    PatchWorldModel,
    PretrainConfig,
    TrajectoryDataset,
    WorldModelMPCAgent,
    collect,
    finetune,
    load_checkpoint,
    pretrain,
)
from gbp_agent.diagnostics import StateProbe
from gbp_agent.training.masked import standardize_tokens, train_patch_representation

PATCH = 4  # px
SHAPE: dict[str, Any] = {
    "encoder": "vit_tiny_patch16_224", "frameskip": 2, "history": 1, "placement": "tokens",
    "residual": True, "depth": 1, "heads": 2, "head_width": 4, "mlp_width": 16, "dropout": 0.0,
    "encoder_options": {"patch_size": PATCH, "embed_dim": 8, "depth": 1, "num_heads": 2},
    "decoder_width": 4, "proposals": 3, "proposal_steps": 6, "blur": 2.0, "centered": True,
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _quick_probe() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StateProbe, "fit", partialmethod(StateProbe.fit, steps=20))
        yield


def configuration(data: Path, out: Path, **changes: Any) -> PretrainConfig:
    return PretrainConfig(
        data=data, out=out, family="patch", model={**SHAPE, **changes}, precision="fp32",
        masked=MaskedConfig(steps=3, frames=8, decoder_steps=2), progress=False,
        dynamics=DynamicsConfig(steps=3, windows=4, horizon=2),
    )  # fmt: skip


def test_hidden_patches_are_not_seen(make_patch_model: Any) -> None:
    encoder = make_patch_model().encoder
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (2, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
    hidden = torch.tensor([[True, False, False, False], [False] * 4])
    changed = pixels.clone()
    changed[0, :8, :8] = 255 - changed[0, :8, :8]  # the first of four patches of 8 px
    assert torch.equal(encoder(pixels, hidden)[0], encoder(changed, hidden)[0])
    assert torch.allclose(encoder(pixels, hidden)[1], encoder(pixels)[1], atol=1e-5)
    assert not torch.allclose(encoder(pixels)[0], encoder(changed)[0])


class Greys(gym.Env):
    """Every episode has a grey of its own, all over its pictures."""

    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    observation_space = gym.spaces.Dict(
        pixels=gym.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8),
        proprio=gym.spaces.Box(-1, 1, (1,), np.float32),
    )

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        grey = self.np_random.integers(256)
        self.seen = {
            "pixels": np.full((SIZE, SIZE, 3), grey, np.uint8),
            "proprio": np.zeros(1, np.float32),
        }
        return self.seen, {}

    def step(self, action: Any) -> Any:
        return self.seen, 0.0, False, False, {}


@pytest.fixture
def greys(tmp_path: Path) -> Any:
    """200 episodes of 2 frames."""
    gym.register(id="Greys-v0", entry_point=Greys)
    yield collect(
        "Greys-v0", 200, 0, tmp_path / "greys", steps=1, episodes_per_part=200, workers=1,
        progress=False,
    )  # fmt: skip
    del gym.registry["Greys-v0"]


def test_what_is_hidden_is_told_by_the_rest(
    greys: TrajectoryDataset, make_patch_model: Any, tmp_path: Path
) -> None:
    model = make_patch_model()
    config = MaskedConfig(steps=300, frames=32, learning_rate=5e-3, decoder_steps=150)
    train_patch_representation(
        model, greys, np.arange(180), config, tmp_path, 0, False, progress=False
    )
    pixels = torch.from_numpy(greys.array("pixels", range(180, 200)))
    wanted = 1 - pixels.permute(0, 3, 1, 2).float() / 255
    hidden = torch.tensor([True, False, True, False]).expand(len(pixels), 4)
    with torch.no_grad():
        for tokens in (model.encoder(pixels), model.encoder(pixels, hidden)):
            error = (model.decoder(tokens) - wanted).square().mean()
            assert error < 0.1 * wanted.var()
    assert not any(weight.requires_grad for weight in model.encoder.parameters())


def test_blurred_pictures_differ_the_more_the_further_things_are_apart(
    make_patch_model: Any,
) -> None:
    size = 32
    places = torch.tensor([6, 8, 12, 18, 26])
    pixels = torch.full((len(places), size, size, 3), 255, dtype=torch.uint8)
    pixels[torch.arange(len(places)), 16, places] = 0
    options = {"encoder_size": size, "pixel_mean": (1.0,) * 3, "pixel_std": (2.0,) * 3}
    blurred, sharp = (make_patch_model(blur=b, **options).encoder for b in (5.0, 0.0))
    away = (torch.arange(size)[None] - places[:, None]).float()
    across = torch.exp(-0.5 * (away / 5) ** 2)
    down = torch.exp(-0.5 * ((torch.arange(size) - 16) / 5) ** 2)
    wanted = -(down[:, None] * across[:, None]) / (2 * torch.pi * 5**2) / 2
    for channel in blurred.picture(pixels).unbind(1):
        assert torch.allclose(channel, wanted, atol=1e-6)
    seen = [encoder.picture(pixels) for encoder in (blurred, sharp)]
    near, flat = ((s[1:] - s[:1]).square().sum((1, 2, 3)) for s in seen)
    assert (near.diff() > 0).all()
    assert torch.allclose(flat, flat[:1].expand(4))


@pytest.mark.parametrize("centered", [False, True])
def test_standardized_tokens(
    make_patch_model: Any, wall_data: TrajectoryDataset, centered: bool
) -> None:
    model = make_patch_model(centered=centered)
    pixels = torch.from_numpy(wall_data.array("pixels"))
    before = model.encoder(pixels)
    standardize_tokens(model, model.encoder.network.norm, pixels)
    tokens = model.encoder(pixels)
    # Each token for itself, or all of them together.
    before, tokens = (t if centered else t.flatten(0, 1) for t in (before, tokens))
    assert torch.allclose(tokens.mean(0), torch.zeros_like(tokens[0]), atol=1e-3)
    assert tokens.var(0).mean().item() == pytest.approx(1.0, rel=1e-3)
    gain = (tokens.var(0).mean() / before.var(0).mean()).sqrt()  # distances keep their shape
    moved = before - before.mean(0)
    assert torch.allclose(tokens, gain * moved, atol=1e-3)


def test_pretrained_and_finetuned(wall_data: TrajectoryDataset, tmp_path: Path) -> None:
    out = tmp_path / "run"
    model = pretrain(configuration(wall_data.folder, out))
    assert isinstance(model, PatchWorldModel)
    assert np.load(out / "latents.npy").dtype == np.float16
    loaded, _ = load_checkpoint(out / "checkpoint")
    episode = wall_data.episode(0)
    pixels, proprio = (torch.from_numpy(episode[key].copy()) for key in ("pixels", "proprio"))
    expected, latent = model.encode(pixels, proprio), loaded.encode(pixels, proprio)
    assert torch.allclose(latent.visual, expected.visual, atol=1e-4)
    scores = loaded.proprio_normalizer.normalize(proprio)
    assert torch.allclose(latent.proprio[:, :2], scores, atol=1e-3)
    assert not latent.proprio[:, 2:].any()
    card = (out / "checkpoint" / "README.md").read_text()
    assert "16 tokens of 8 numbers" in card
    assert "frame-causal transformer" in card
    assert '"hidden": 0.5' in card
    assert "foreground_weight" in card
    assert "straightening" not in card  # of another family's first phase

    tuned = finetune(
        FinetuneConfig(
            method="adversarial", model=str(out / "checkpoint"), data=wall_data.folder,
            out=tmp_path / "tuned", latents=out / "latents.npy", steps=2, windows=4,
            progress=False, precision="fp32",
        )
    )  # fmt: skip
    moved = [
        not torch.equal(one, other)
        for one, other in zip(tuned.predictor.parameters(), loaded.predictor.parameters(),
                              strict=True)
    ]  # fmt: skip
    assert any(moved)
    agent = WorldModelMPCAgent(tuned, GradientPlanner(GradientConfig(steps=2)))
    frame = {"pixels": pixels[0].numpy(), "proprio": proprio[0].numpy()}
    goal = {"goal_pixels": pixels[-1].numpy(), "goal_proprio": proprio[-1].numpy()}
    assert agent.act({**frame, **goal}).shape == (2,)


def test_a_finished_run_gives_the_same_model_again(
    wall_data: TrajectoryDataset, tmp_path: Path
) -> None:
    config = configuration(wall_data.folder, tmp_path / "one")
    first = pretrain(config).state_dict()
    again = pretrain(config).state_dict()
    other = pretrain(replace(config, out=tmp_path / "two")).state_dict()
    for key, value in first.items():
        assert torch.equal(again[key], value), key
        assert torch.allclose(other[key], value, atol=1e-5), key


def test_bad_settings(wall_data: TrajectoryDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hidden must lie in 0…1, got 1\.0"):
        MaskedConfig(hidden=1.0)
    with pytest.raises(ValueError, match="blur must be at least 0, got -1"):
        pretrain(configuration(wall_data.folder, tmp_path / "blur", blur=-1))
    with pytest.raises(ValueError, match="give encoder_size=16"):
        pretrain(configuration(wall_data.folder, tmp_path / "size", encoder_size=24))
    narrow = {"placement": "concat", "proprio_width": 1}
    with pytest.raises(ValueError, match="give proprio_width=0"):
        pretrain(configuration(wall_data.folder, tmp_path / "narrow", **narrow))
