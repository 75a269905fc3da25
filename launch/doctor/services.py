"""Are W&B and the Hugging Face hub reachable, with the keys that are set here? Only for a run that uses them."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from launch.doctor.check import Finding, Subject, failure, ok, warning
from launch.doctor.network import is_first
from train.tracking.wandb_run import has_key, mode

ANSWER_S = 10.0
MODES = ("online", "offline", "dryrun", "disabled", "shared")
LOCALLY = "metrics.jsonl has all records: pdpc report --wandb RUN sends them later"
WHO = "query { viewer { username entity teams { edges { node { name } } } } }"


def wandb(subject: Subject) -> Iterator[Finding]:
    """Check W&B's mode and key; online, ask its server who the key belongs to, and whether the entity is one of its."""
    tracker = subject.settings.tracker
    if "wandb" not in tracker.names or not is_first(subject):
        return
    where = mode()
    if where not in MODES:
        yield failure(f"WANDB_MODE={where} is unknown", f"use one of {', '.join(MODES)}")
        return
    if where in ("offline", "dryrun", "disabled"):
        why = f"WANDB_MODE={where}" if "WANDB_MODE" in os.environ else "no API key here"
        yield ok(f"{'off' if where == 'disabled' else 'offline'} ({why}); {LOCALLY}")
        return
    if not has_key():
        yield failure(
            "online, but there is no API key", "set WANDB_API_KEY, run wandb login once, or WANDB_MODE=offline"
        )
        return
    server = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").rstrip("/")
    try:
        viewer = _viewer(server)
    except urllib.error.HTTPError as error:
        yield failure(
            f"{server} rejects the API key (HTTP {error.code})", "wandb login --relogin, or set another WANDB_API_KEY"
        )
        return
    except (OSError, ValueError) as error:
        yield warning(
            f"{server} cannot be reached ({_why(error)})",
            f"check proxy and firewall, or set WANDB_MODE=offline; the run goes on either way, and {LOCALLY}",
        )
        return
    if not viewer:
        yield failure(f"{server} does not know the API key", "wandb login --relogin, or set another WANDB_API_KEY")
        return
    edges = (viewer.get("teams") or {}).get("edges") or []
    own = {viewer.get("username"), viewer.get("entity"), *(edge["node"]["name"] for edge in edges)} - {None}
    if tracker.entity is not None and tracker.entity not in own:
        yield failure(
            f"tracker.entity={tracker.entity} is not one of the key's ({', '.join(sorted(own))})",
            "correct it, or ask for access to that team",
        )
        return
    yield ok(f"online at {server} as {viewer.get('username')}")


def hub(subject: Subject) -> Iterator[Finding]:
    """Check that datasets of benchmarks can be downloaded, if the run may do so."""
    benchmarks = subject.settings.benchmarks
    if not benchmarks.tasks or benchmarks.offline or not is_first(subject):
        return
    from huggingface_hub import get_token

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        if os.environ.get(name, "0").upper() in ("1", "ON", "YES", "TRUE"):
            yield failure(
                f"benchmarks.offline=false, but {name} is set",
                f"unset {name}, or use benchmarks.offline=true with a pack",
            )
            return
    server = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    token = get_token()
    pack = "pack the tasks where there is a network (pdpc evaluate --pack), and use benchmarks.offline=true"
    try:
        if token is None:
            _get(f"{server}/api/models?limit=1", {})
            yield warning(
                f"{server} is reachable, but there is no token",
                "set HF_TOKEN, or run hf auth login: gated datasets are refused without one",
            )
            return
        who = _get(f"{server}/api/whoami-v2", {"Authorization": f"Bearer {token}"})
        yield ok(f"{server} as {who.get('name')}")
    except urllib.error.HTTPError as error:
        yield failure(
            f"{server} rejects the token (HTTP {error.code})" if token else f"{server} answers HTTP {error.code}",
            "set another HF_TOKEN, or run hf auth login again" if token else "try again later, or check HF_ENDPOINT",
        )
    except (OSError, ValueError) as error:
        yield failure(f"{server} cannot be reached ({_why(error)})", pack)


def _viewer(server: str) -> dict[str, Any]:
    """Return what W&B's GraphQL server says of the key's owner; {} if it knows no owner."""
    import netrc

    key = os.environ.get("WANDB_API_KEY")
    if not key:
        found = netrc.netrc().authenticators(urlsplit(server).hostname or "")
        key = found[2] if found else ""
    coded = base64.b64encode(f"api:{key}".encode()).decode()
    headers = {"Authorization": f"Basic {coded}", "Content-Type": "application/json"}
    answer = _get(f"{server}/graphql", headers, json.dumps({"query": WHO}).encode())
    return (answer.get("data") or {}).get("viewer") or {}


def _get(url: str, headers: Mapping[str, str], data: bytes | None = None) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{url} is not a web address")
    request = urllib.request.Request(url, data, {**headers, "User-Agent": "pdpc"})  # noqa: S310  # checked above
    with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:  # noqa: S310
        found = json.loads(answer.read(1 << 20))
    return found if isinstance(found, dict) else {}


def _why(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", error)).split())
