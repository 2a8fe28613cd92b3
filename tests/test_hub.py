"""Models on the hub: fetched, pinned, cached, uploaded; a stand-in answers, nothing leaves here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_hub import TOKEN, FakeHub
from huggingface_hub import ModelCard, constants
from test_agent import observations

from gbp_agent import (
    EvaluationReport,
    RandomAgent,
    WorldModelMPCAgent,
    evaluate,
    load_checkpoint,
    pretrained_names,
    save_checkpoint,
)
from gbp_agent.checkpoint import find_checkpoint
from gbp_agent.hub import complete_card, front_matter

REPO = "someone/model"


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with nothing on it, and an empty cache."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with FakeHub().serving() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield served


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Called, it takes the hub from the network."""

    def go() -> None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")

    return go


@pytest.fixture
def put(hub: FakeHub, make_model: Any, tmp_path: Path) -> Any:
    """Puts a model on the hub and returns the commit and the model."""

    def put(seed: int = 0, ref: str = "main", repo: str = REPO) -> tuple[str, Any]:
        model = make_model(seed=seed)
        save_checkpoint(tmp_path / "source", model, card="# A card\n")
        files = {p.name: p.read_bytes() for p in (tmp_path / "source").iterdir()}
        return hub.commit(repo, {**files, "huge.bin": b"never fetched"}, ref), model

    return put


def weights(model: Any) -> torch.Tensor:
    return model.predictor.output.weight


# Fetching -------------------------------------------------------------------------------------


def test_download(put: Any, hub: FakeHub) -> None:
    _, model = put()
    agent = WorldModelMPCAgent.from_pretrained(f"hf://{REPO}")
    for key, value in model.state_dict().items():
        assert torch.equal(agent.model.state_dict()[key], value)
    folder = find_checkpoint(f"hf://{REPO}")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert not any("huge.bin" in request for request in hub.requests)


@pytest.mark.parametrize("by", ["branch", "tag", "hash"])
def test_revision_is_pinned(by: str, put: Any, hub: FakeHub) -> None:
    first, model = put(seed=1, ref="v1")
    second, newer = put(seed=2)
    hub.refs[REPO]["t1"] = first
    pinned, _ = load_checkpoint(
        f"hf://{REPO}", revision={"branch": "v1", "tag": "t1"}.get(by, first)
    )
    latest, _ = load_checkpoint(f"hf://{REPO}")
    assert torch.equal(weights(pinned), weights(model))
    assert torch.equal(weights(latest), weights(newer))
    assert not torch.equal(weights(pinned), weights(latest))
    assert first != second


@pytest.mark.parametrize("pinned", [True, False])
def test_second_load_is_from_the_cache(pinned: bool, put: Any, hub: FakeHub, gone: Any) -> None:
    sha, model = put()
    revision = sha if pinned else None
    load_checkpoint(f"hf://{REPO}", revision=revision)
    hub.requests.clear()
    gone()
    again, _ = load_checkpoint(f"hf://{REPO}", revision=revision)
    assert torch.equal(weights(again), weights(model))
    assert not hub.requests


def test_a_new_commit_is_seen(put: Any) -> None:
    put(seed=1)
    old, _ = load_checkpoint(f"hf://{REPO}")
    _, model = put(seed=2)
    new, _ = load_checkpoint(f"hf://{REPO}")
    assert torch.equal(weights(new), weights(model))
    assert not torch.equal(weights(new), weights(old))


def test_environment_variables(
    put: Any, hub: FakeHub, gone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is told of another hub fetches there; offline, nobody is asked again."""
    _, model = put()
    cache = str(tmp_path / "own")
    done = subprocess.run(
        [sys.executable, "-c", f"import gbp_agent; gbp_agent.load_checkpoint('hf://{REPO}')"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": cache},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert any(request.endswith("/model.safetensors") for request in hub.requests)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again, _ = load_checkpoint(f"hf://{REPO}")
    assert torch.equal(weights(again), weights(model))
    assert not hub.requests


# What is not there ----------------------------------------------------------------------------


def assert_one_line(error: type[Exception], message: str, *name: Any, **options: Any) -> None:
    with pytest.raises(error, match=message) as caught:
        load_checkpoint(*name, **options)
    assert "\n" not in str(caught.value)


def test_unknown_repository() -> None:
    assert_one_line(
        FileNotFoundError,
        "there is no hf://someone/nothing on the hub, or it is private; .*log in",
        "hf://someone/nothing",
    )


def test_unknown_revision(put: Any) -> None:
    put()
    assert_one_line(
        FileNotFoundError, "hf://someone/model has no revision 'v9'", f"hf://{REPO}", revision="v9"
    )


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_repository_without_a_file(missing: str, put: Any, hub: FakeHub) -> None:
    sha, _ = put()
    del hub.commits[sha][missing]
    assert_one_line(
        FileNotFoundError,
        f"hf://someone/model/{missing} is missing: not a gbp_agent checkpoint",
        f"hf://{REPO}",
    )


def test_repository_of_something_else(hub: FakeHub) -> None:
    hub.commit(REPO, {"pytorch_model.bin": b"pickle"})
    assert_one_line(FileNotFoundError, "hf://someone/model/config.json is missing", f"hf://{REPO}")


@pytest.mark.parametrize("name", ["hf://model", "hf://", "hf://a/b/c", "hf://a b/c", "hf://-a/.b"])
def test_names_of_no_repository(name: str) -> None:
    assert_one_line(ValueError, "expected hf://owner/repo", name)


def test_never_fetched_and_no_network(gone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "is not in the cache and the hub cannot be reached; .*HF_HUB_OFFLINE"
    gone()
    assert_one_line(FileNotFoundError, message, f"hf://{REPO}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_one_line(FileNotFoundError, message, f"hf://{REPO}")


# Uploading ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report() -> EvaluationReport:
    return evaluate(
        RandomAgent.for_env("gbp/Wall-v0"), "gbp/Wall-v0", 3, num_envs=3, progress=False,
        max_episode_steps=5,
    )  # fmt: skip


def pushed(hub: FakeHub, repo: str = REPO) -> dict[str, bytes]:
    return hub.commits[hub.refs[repo]["main"]]


def test_push_and_fetch(make_agent: Any, hub: FakeHub) -> None:
    agent = make_agent()
    address = agent.push_to_hub(REPO, token=TOKEN)
    assert address == f"{hub.url}/{REPO}/commit/{hub.refs[REPO]['main']}"
    assert set(pushed(hub)) == {"config.json", "model.safetensors", "README.md"}
    again = WorldModelMPCAgent.from_pretrained(f"hf://{REPO}")
    assert again.settings() == agent.settings()
    observation = observations(2)
    assert np.array_equal(again.plan(observation).actions, agent.plan(observation).actions)


def test_pushing_again_to_a_branch(make_agent: Any, hub: FakeHub) -> None:
    make_agent().push_to_hub(REPO, token=TOKEN)
    hub.refs[REPO]["dev"] = hub.refs[REPO]["main"]
    make_agent(seed=3).push_to_hub(REPO, token=TOKEN, revision="dev", commit_message="better")
    main, dev = (load_checkpoint(f"hf://{REPO}", revision=r)[0] for r in ("main", "dev"))
    assert not torch.equal(weights(main), weights(dev))


def test_card_has_what_the_hub_reads(
    make_agent: Any, hub: FakeHub, report: EvaluationReport
) -> None:
    make_agent().push_to_hub(REPO, token=TOKEN, reports=report, license="apache-2.0")
    card = ModelCard(pushed(hub)["README.md"].decode())
    assert card.data.library_name == "gbp_agent"
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "reinforcement-learning"
    assert {"world-model", "gymnasium", "gbp/Wall-v0"} <= set(card.data.tags)
    assert card.data.model_name == "model"
    success, reward = card.data.eval_results
    assert success.dataset_type == reward.dataset_type == "gbp/Wall-v0"
    assert success.metric_type == "success_rate"
    assert success.metric_value == report.success_rate
    assert success.metric_args["episodes"] == 3
    assert success.metric_args["max_episode_steps"] == 5
    assert re.fullmatch(r"-\d\.\d\d \+/- \d\.\d\d", reward.metric_value)
    assert 'from_pretrained("hf://someone/model")' in card.text


def test_a_card_of_ones_own_keeps_its_words(make_agent: Any, hub: FakeHub, tmp_path: Path) -> None:
    own = (
        "---\nlicense: cc0-1.0\ntags: [mine]\nbase_model: [big/parent, runs/wall/checkpoint]\n"
        'extra: 3\n---\n# Mine\nfrom_pretrained("PATH OR NAME")\n'
    )
    make_agent().push_to_hub(REPO, card=own, token=TOKEN)
    card = ModelCard(pushed(hub)["README.md"].decode())
    assert card.data.license == "cc0-1.0"
    assert card.data.tags[0] == "mine"
    assert "gymnasium" in card.data.tags
    assert card.data.base_model == ["big/parent"]
    assert card.data.get("extra") == 3
    assert card.text.strip() == '# Mine\nfrom_pretrained("hf://someone/model")'
    assert "model-index" not in card.data.to_dict()
    make_agent().push_to_hub(REPO, card="# No metadata\n", token=TOKEN)
    card = ModelCard(pushed(hub)["README.md"].decode())
    assert card.data.library_name == "gbp_agent"
    assert card.text.strip() == "# No metadata"


@pytest.mark.parametrize("block", ["tags: [", "- a list", "model-index: 3"])
def test_metadata_that_cannot_be_read(block: str, make_agent: Any, hub: FakeHub) -> None:
    with pytest.raises(ValueError, match="the card's metadata cannot be read") as caught:
        make_agent().push_to_hub(REPO, card=f"---\n{block}\n---\n# A\n", token=TOKEN)
    assert "\n" not in str(caught.value)
    assert REPO not in hub.refs


def test_pushing_without_leave(make_agent: Any) -> None:
    with pytest.raises(OSError, match=r"the hub did not take someone/model: .*hf auth") as caught:
        make_agent().push_to_hub(REPO, token="hf_wrong")
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="got repository 'model', expected owner/repo"):
        make_agent().push_to_hub("model", token=TOKEN)


def test_parent_on_the_hub_is_named_as_the_hub_does(make_agent: Any) -> None:
    card = front_matter("gbp/Wall-v0", "hf://big/parent") + "# A\n"
    assert ModelCard(card).data.base_model == "big/parent"
    assert ModelCard(complete_card(card, REPO, make_agent())).data.base_model == ["big/parent"]


@pytest.mark.parametrize("name", pretrained_names())
def test_shipped_cards(name: str) -> None:
    """Their metadata are whole, and tell no figure that the table below does not."""
    card = ModelCard.load(find_checkpoint(name) / "README.md")
    data = card.data
    assert data.library_name == "gbp_agent"
    assert data.license == "mit"
    assert data.pipeline_tag == "reinforcement-learning"
    assert {"world-model", load_checkpoint(name)[0].config.env_id} <= set(data.tags)
    rows = re.findall(r"^\| ([^|]*) \| ([\d.]+) \(", card.text, re.MULTILINE)
    table = {(f"success rate, {who}", float(value)) for who, value in rows}
    told = {(r.metric_name, round(100 * r.metric_value, 1)) for r in data.eval_results or []}
    assert told <= table
