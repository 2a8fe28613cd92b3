"""The linear encoders: principal components of blurred pictures, and of these less distances."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SIZE

from gbp_agent import (
    DynamicsConfig,
    InitializerConfig,
    PretrainConfig,
    RepresentationConfig,
    TrajectoryDataset,
    WorldModelMPCAgent,
    load_checkpoint,
    pretrain,
)
from gbp_agent.data.latents import encode_frames
from gbp_agent.diagnostics import StateProbe
from gbp_agent.networks import ChamferEncoder, distance_transform, gaussian_blur
from gbp_agent.training.pretrain import standardize_latents
from gbp_agent.training.principal import fit_principal_components

EPISODES = np.arange(10)
PARTS = ("pixels", "proprio")
FIELD = 0.05


def darkness_of(data: TrajectoryDataset) -> np.ndarray:
    return 1.0 - data.array("pixels", EPISODES) / 255.0


def latents_of(model: Any, data: TrajectoryDataset) -> np.ndarray:
    pixels, proprio = (data.array(key, EPISODES) for key in PARTS)
    return encode_frames(model, pixels, proprio)[:, :4].double().numpy()


@pytest.fixture(params=["linear", "chamfer"])
def encoder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fitted(wall_data: TrajectoryDataset, make_model: Any, encoder: str) -> Any:
    model = make_model(encoder=encoder)
    fit_principal_components(model, wall_data, EPISODES, blur=1.5, field=FIELD, progress=False)
    return model


def test_blur_is_a_gaussian() -> None:
    matrix = gaussian_blur(32, 2.0).double()
    assert torch.allclose(matrix, matrix.T)
    row, place = matrix[16], torch.arange(32)
    assert row.sum().item() == pytest.approx(1.0, abs=1e-3)
    assert (row * (place - 16.0).square()).sum().sqrt().item() == pytest.approx(2.0, rel=1e-2)
    assert matrix[0].sum() < 0.7  # what is blurred over the edge is gone
    assert torch.equal(gaussian_blur(3, 0.0), torch.eye(3))


def test_latents_keep_the_greatest_variance(
    fitted: Any, wall_data: TrajectoryDataset, encoder: str
) -> None:
    grey = darkness_of(wall_data).mean(-1)
    smooth = gaussian_blur(SIZE, 1.5).double().numpy()
    blurred = np.stack([smooth @ picture @ smooth.T for picture in grey]).reshape(len(grey), -1)
    if encoder == "chamfer":
        things = torch.from_numpy(grey > grey.max() / 2)
        distance = distance_transform(things).flatten(1).numpy()
        blurred -= FIELD * grey.max() * distance
    greatest = np.linalg.eigvalsh(np.cov(blurred.T))[::-1][:4]
    covariance = np.cov(latents_of(fitted, wall_data).T)
    assert np.allclose(np.diag(covariance), greatest, rtol=1e-3)
    assert np.allclose(covariance - np.diag(np.diag(covariance)), 0, atol=1e-3 * greatest[0])


def test_decoder_is_the_least_squares_picture(fitted: Any, wall_data: TrajectoryDataset) -> None:
    latents, wanted = latents_of(fitted, wall_data), darkness_of(wall_data)
    with_one = np.column_stack([latents, np.ones(len(latents))])
    flat = wanted.transpose(0, 3, 1, 2).reshape(len(wanted), -1)
    best = with_one @ np.linalg.lstsq(with_one, flat, rcond=None)[0]
    with torch.no_grad():
        decoded = fitted.decoder(torch.from_numpy(latents).float(), torch.zeros(len(latents), 2))
    assert np.allclose(decoded.flatten(1).numpy(), best, atol=2e-3)
    assert np.std(best - flat) < 0.95 * np.std(flat - flat.mean(0))  # it is worth something


def test_standardizing_changes_no_picture(fitted: Any, wall_data: TrajectoryDataset) -> None:
    def decoded() -> torch.Tensor:
        with torch.no_grad():
            visual = torch.from_numpy(latents_of(fitted, wall_data)).float()
            pictures: torch.Tensor = fitted.decoder(visual, torch.zeros(len(visual), 2))
            return pictures

    before = decoded()
    standardize_latents(fitted, wall_data, EPISODES, 0.5)
    assert torch.allclose(decoded(), before, atol=1e-3)
    latents = latents_of(fitted, wall_data)
    assert np.allclose(latents.mean(0), 0, atol=1e-2)
    assert np.diag(np.cov(latents.T)).mean() == pytest.approx(1.0, rel=1e-2)


def test_distance_transform_is_exact() -> None:
    things = torch.rand(40, 9, 14, generator=torch.Generator().manual_seed(0)) < 0.05
    things[0] = False
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(14.0), indexing="ij")
    place = torch.stack([rows, columns], -1).flatten(0, 1)
    for found, thing in zip(distance_transform(things), things.flatten(1), strict=True):
        apart = torch.cdist(place, place[thing]) if thing.any() else torch.full((126, 1), 23.0)
        assert torch.allclose(found.flatten(), apart.min(1).values, atol=1e-5)


def test_distance_field_tells_how_far_beyond_the_blur() -> None:
    pictures = torch.full((5, 64, 64, 3), 255, dtype=torch.uint8)
    for i in range(5):
        pictures[i, 30:34, 4 + 12 * i : 8 + 12 * i] = 0
    encoder = ChamferEncoder(64, 4)
    encoder.smooth.copy_(gaussian_blur(64, 1.5))

    def apart() -> np.ndarray:
        first, *others = encoder.features(pictures)
        return np.array([(first - other).square().sum().item() for other in others])

    assert np.allclose(apart(), apart()[0], rtol=1e-3)
    encoder.field.fill_(1e-3)
    more = apart()
    encoder.field.fill_(-1e-3)
    chamfer = (more - apart()) / 4e-3  # the middle term
    assert np.allclose(np.diff(chamfer), 2 * 16 * 12, rtol=0.1)  # 16 px each, 12 px further
    assert np.all(np.diff(more) > 0)


def test_pretrained_with_a_linear_encoder(
    wall_data: TrajectoryDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    monkeypatch.setattr(StateProbe, "fit", partialmethod(StateProbe.fit, steps=20))
    shape = {"encoder": encoder, "latent_dim": 4, "predictor_width": 8, "predictor_depth": 1}
    config = PretrainConfig(
        data=wall_data.folder, out=tmp_path, progress=False, precision="fp32",
        model={**shape, "frameskip": 2, "proposals": 3, "proposal_steps": 6},
        dynamics=DynamicsConfig(steps=3, windows=8), initializer=InitializerConfig(steps=3),
    )  # fmt: skip
    model = pretrain(config)
    card = (tmp_path / "checkpoint" / "README.md").read_text()
    assert "principal components" in card
    assert '"blur": 4.0' in card
    assert "foreground_weight" not in card  # of encoders that are trained
    loaded, _ = load_checkpoint(tmp_path / "checkpoint")
    episode = wall_data.episode(0)
    pixels, proprio = (torch.from_numpy(episode[key].copy()) for key in PARTS)
    one, other = model.encode(pixels, proprio), loaded.encode(pixels, proprio)
    assert torch.allclose(one.visual, other.visual, atol=1e-2)
    assert loaded.decode(other).shape == pixels.shape
    agent = WorldModelMPCAgent.from_pretrained(tmp_path / "checkpoint", "mppi")
    frame = {"pixels": pixels[0].numpy(), "proprio": proprio[0].numpy()}
    goal = {"goal_pixels": pixels[-1].numpy(), "goal_proprio": proprio[-1].numpy()}
    assert agent.act({**frame, **goal}).shape == (2,)


def test_bad_settings(wall_data: TrajectoryDataset, make_model: Any) -> None:
    with pytest.raises(ValueError, match="unknown encoder 'curved'; known: keypoints, linear"):
        make_model(encoder="curved")
    with pytest.raises(TypeError, match="linear encoders are fitted, not ConvEncoder"):
        fit_principal_components(make_model(), wall_data, EPISODES, 1.0, 0.0, False)
    with pytest.raises(ValueError, match="blur must be at least 0, got -1"):
        RepresentationConfig(blur=-1)
    with pytest.raises(ValueError, match="31 frames have fewer than 40 principal components"):
        fit_principal_components(
            make_model(encoder="linear", latent_dim=40), wall_data, EPISODES[:1], 1.0, 0.0, False
        )
