"""The Hugging Face hub: fetching models, uploading them, and the metadata of their cards.

A model is `hf://owner/repo`. What was fetched is kept in the hub's own cache (HF_HUB_CACHE), and
loads from there when the hub cannot be reached, or is not to be asked (HF_HUB_OFFLINE=1).
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .report import EvaluationReport

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from .agent import WorldModelMPCAgent

LIBRARY, TASK = "gbp_agent", "reinforcement-learning"
TAGS = ["world-model", "model-predictive-control", "gymnasium"]
NO_ADDRESS = "PATH OR NAME"  # in the cards of models that are on no hub
_REPO = re.compile(r"[\w.-]+/[\w.-]+")

_CARD = """# World model for {env_id}

A `{kind}`, for planning with `gbp_agent`.

```python
from gbp_agent import WorldModelMPCAgent

agent = WorldModelMPCAgent.from_pretrained("{address}")
```

## Planning
```json
{settings}
```
"""


def download(name: str, revision: str | None, files: Sequence[str]) -> Path:
    """The local folder of "hf://owner/repo", with these of its files as far as it has them.

    Raises:
        FileNotFoundError: there is no such model or revision, or it is not in the cache and the hub
            cannot be reached.
        ValueError: `name` is no name of a model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo = name.removeprefix("hf://")
    if not _REPO.fullmatch(repo):
        raise ValueError(f"got {name!r}, expected hf://owner/repo")
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(files)))
    except HFValidationError as error:
        raise ValueError(f"got {name!r}, expected hf://owner/repo") from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{name} has no revision {revision!r}; give a branch, a tag or a whole commit hash"
        ) from error
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{name} is not in the cache and the hub cannot be reached; check the network, "
            "HF_HUB_OFFLINE and HF_ENDPOINT"
        ) from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"there is no {name} on the hub, or it is private; check the name, or log in with "
            "`hf auth login`"
        ) from error
    except HfHubHTTPError as error:
        raise OSError(f"the hub did not give {name}: {_first_line(error)}") from error


def upload(
    agent: WorldModelMPCAgent,
    repo_id: str,
    card: str = "",
    reports: EvaluationReport | Sequence[EvaluationReport] = (),
    license: str = "mit",
    private: bool | None = None,
    **kwargs: Any,
) -> str:
    """See `WorldModelMPCAgent.push_to_hub`."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import HfHubHTTPError

    if not _REPO.fullmatch(repo_id):
        raise ValueError(f"got repository {repo_id!r}, expected owner/repo")
    reports = [reports] if isinstance(reports, EvaluationReport) else list(reports)
    card = complete_card(card or default_card(agent, license), repo_id, agent, reports, license)
    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        agent.save_pretrained(Path(folder) / "model", card)
        try:
            api.create_repo(repo_id, exist_ok=True, private=private, token=kwargs.get("token"))
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=str(Path(folder) / "model"), **kwargs
            )
        except HfHubHTTPError as error:
            raise OSError(
                f"the hub did not take {repo_id}: {_first_line(error)}; `hf auth login` with a "
                "token that may write there"
            ) from error
    return str(commit)


def default_card(agent: WorldModelMPCAgent, license: str = "mit") -> str:
    """Markdown of a model card that says what the agent itself knows."""
    text = _CARD.format(
        env_id=agent.model.config.env_id,
        kind=type(agent.model).__name__,
        address=NO_ADDRESS,
        settings=json.dumps(agent.settings(), indent=1),
    )
    return front_matter(agent.model.config.env_id, license=license) + text


def front_matter(env_id: str, base_model: str | None = None, license: str = "mit") -> str:
    """The metadata block that a model card begins with."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name=LIBRARY,
        license=license,
        pipeline_tag=TASK,
        tags=[*TAGS, env_id],
        base_model=base_model and base_model.removeprefix("hf://"),
    )
    return f"---\n{data.to_yaml()}\n---\n"


def complete_card(
    card: str,
    repo_id: str,
    agent: WorldModelMPCAgent,
    reports: Sequence[EvaluationReport] = (),
    license: str = "mit",
) -> str:
    """The card with the metadata that the hub reads; what it says itself is kept, save for a parent
    that is on no hub.

    Raises:
        ValueError: its metadata cannot be read.
    """
    import yaml
    from huggingface_hub import ModelCard

    try:
        parsed = ModelCard(card if card.lstrip().startswith("---\n") else f"---\n{{}}\n---\n{card}")
    except (ValueError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the card's metadata cannot be read: {reason}") from error
    data: Any = parsed.data
    data.library_name = data.library_name or LIBRARY
    data.license = data.license or license
    data.pipeline_tag = data.pipeline_tag or TASK
    tags = [*(data.tags or []), *TAGS, agent.model.config.env_id]
    data.tags = list(dict.fromkeys(tags))
    parents = [data.base_model] if isinstance(data.base_model, str) else data.base_model or []
    data.base_model = [p for p in parents if _REPO.fullmatch(p) and not Path(p).is_dir()] or None
    if reports:
        data.model_name = repo_id.split("/")[1]
        data.eval_results = [result for report in reports for result in _results(report)]
    return str(parsed).replace(f'"{NO_ADDRESS}"', f'"hf://{repo_id}"')


def _results(report: EvaluationReport) -> list[EvalResult]:
    """Success rate and mean return, as the hub's model-index has figures."""
    low, high = report.interval
    returns = np.array([episode.final_return for episode in report.episodes])
    success = {
        "episodes": len(report.episodes),
        "wilson_95": [round(low, 4), round(high, 4)],
        **report.env_kwargs,
    }
    return [
        result(report.env_id, "success_rate", f"success rate, {report.agent}",
               round(report.success_rate, 4), success),
        result(report.env_id, "mean_reward", f"mean return, {report.agent}",
               f"{returns.mean():.2f} +/- {returns.std():.2f}", report.env_kwargs),
    ]  # fmt: skip


def result(env_id: str, metric: str, name: str, value: Any, about: dict[str, Any]) -> EvalResult:
    """A figure of a model card: `metric` is its type, `about` how it was taken."""
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=TASK,
        task_name=TASK,
        dataset_type=env_id,
        dataset_name=env_id,
        metric_type=metric,
        metric_name=name,
        metric_value=value,
        metric_args=about or None,
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
