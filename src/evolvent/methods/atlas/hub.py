"""What the hub knows and the table does not: licence, gating, true sizes; and whether links still answer.

Only `config.json` and the safetensors header are read, by range request: kilobytes, not gigabytes. Each answer is
committed to `hub.sqlite` as it arrives and counts as fresh for a month, so that a killed run goes on where it was.
"""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from evolvent.errors import EvolventError
from evolvent.methods.atlas.config import AtlasConfig
from evolvent.methods.atlas.entry import Entry, HubFacts
from evolvent.methods.atlas.vocabulary import size_label

logger = logging.getLogger(__name__)
T = TypeVar("T")
OnProgress = Callable[[str, int, int, str], None]
RETRIES = 4
DIFFERENT_SIZE = 0.10  # share by which a checkpoint may differ from its row


class NetworkError(EvolventError):
    """The network is off, or a server does not answer as it should."""

    exit_code = 4


class HubRefusedError(NetworkError):
    """The hub has the repository, but does not give it: gated, or private."""


@dataclass(frozen=True)
class Finding:
    """A contradiction between the table and what was read: `code` says which kind."""

    id: str
    code: str
    text: str


class HubCache:
    """Answers of the hub and of links, each with the time it was given.

    Args:
        folder: of `hub.sqlite`.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "hub.sqlite"
        with closing(self._open()) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS answers (kind TEXT, key TEXT, answer TEXT, checked REAL, "
                             "PRIMARY KEY (kind, key))")  # fmt: skip

    def get(self, kind: str, key: str, max_age_days: float) -> Any:
        """A fresh answer; None when there is none."""
        with closing(self._open()) as database:
            row = database.execute(
                "SELECT answer, checked FROM answers WHERE kind = ? AND key = ?", (kind, key)
            ).fetchone()
        fresh = row is not None and time.time() - row[1] < max_age_days * 86400
        return json.loads(row[0]) if fresh else None

    def put(self, kind: str, key: str, answer: Any) -> None:
        """Keep an answer, now."""
        with closing(self._open()) as database, database:
            values = (kind, key, json.dumps(answer), time.time())
            database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)", values)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30)


def require_network(args: AtlasConfig, what: str) -> None:
    """Check that the network may be used.

    Raises:
        NetworkError: it may not.
    """
    if args.is_offline:
        raise NetworkError(f"{what} needs the network, which is off (HF_HUB_OFFLINE or offline); everything else works")


def read_facts(name: str, args: AtlasConfig) -> HubFacts:
    """What the hub says about one model repository.

    Raises:
        HubRefusedError: gated or private; NetworkError: moved, or no answer.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    info = polite(lambda: api.model_info(name, timeout=args.hub_timeout_s), name)
    config = read_config(name, info.sha, args)
    params = None
    if any(s.rfilename.endswith(".safetensors") for s in info.siblings or ()):
        try:
            metadata = polite(lambda: api.get_safetensors_metadata(name, revision=info.sha), name)
            params = sum(metadata.parameter_count.values())
        except NetworkError as error:
            logger.info("%s: no safetensors header: %s", name, error)
    card = info.card_data.to_dict() if info.card_data else {}
    return HubFacts(
        license=str(card["license"]) if card.get("license") else None,
        gated=info.gated,
        downloads=info.downloads,
        last_modified=info.last_modified.isoformat() if info.last_modified else None,
        library=info.library_name,
        params=params,
        model_type=config.get("model_type"),
        sha=info.sha,
        checked_at=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    )


def draft_cells(name: str, fields: Sequence[str], modalities: Sequence[str], args: AtlasConfig) -> dict[str, Any]:
    """Cells of a draft row for a repository.

    Args:
        name: OWNER/NAME; fields, modalities: what the hub does not know.

    Raises:
        HubRefusedError: gated or private; NetworkError: no such repository, or no answer.
    """
    from huggingface_hub import HfApi

    facts = read_facts(name, args)
    info = polite(lambda: HfApi().model_info(name, timeout=args.hub_timeout_s), name)
    tags = info.tags or []
    paper = next((t.removeprefix("arxiv:") for t in tags if t.startswith("arxiv:")), None)
    url = f"https://huggingface.co/{name}"
    return {
        "name": name.partition("/")[2],
        "title": name,
        "venue": f"Hub {info.created_at.year if info.created_at else time.localtime().tm_year}",
        "venue_name": "Hub",
        "venue_type": "preprint",
        "fields": list(fields),
        "modalities": list(modalities),
        "n_params": [facts.params] if facts.params else [],
        "languages": [t for t in tags if re.fullmatch(r"[a-z]{2}", t)] or None,
        "paper_url": f"https://arxiv.org/abs/{paper}" if paper else url,
        "arxiv_id": paper,
        "model_url": url,
        "hf_id": name,
        "hf_ids": [name],
        "checkpoints": [{"url": url, "hf_id": name, "hf_type": "model", "n_params": facts.params}],
        "status": "draft",
        "hub": facts.model_dump(mode="json"),
        "provenance": {"checkpoints": "hub", "n_params": "hub", "languages": "hub"},
    }


def read_config(name: str, revision: str | None, args: AtlasConfig) -> dict[str, Any]:
    """`config.json` of a repository; empty when it has none."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = polite(
            lambda: hf_hub_download(name, "config.json", revision=revision, etag_timeout=args.hub_timeout_s), name
        )
    except NetworkError as error:
        if isinstance(error.__cause__, EntryNotFoundError):
            return {}
        raise
    loaded = json.loads(Path(path).read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}


def polite(ask: Callable[[], T], name: str) -> T:
    """Ask the hub; wait and ask again when it says that we ask too much or when it is busy.

    Raises:
        HubRefusedError: gated or private; NetworkError: anything else, with the next step.
    """
    from huggingface_hub import errors as hub_errors

    for attempt in range(RETRIES + 1):
        try:
            return ask()
        except hub_errors.GatedRepoError as error:
            raise HubRefusedError(
                f"{name}: gated; accept its terms at https://huggingface.co/{name} and log in (hf auth login)"
            ) from error
        except hub_errors.RepositoryNotFoundError as error:
            raise NetworkError(f"{name}: no such repository on the hub (moved, removed or private)") from error
        except hub_errors.LocalEntryNotFoundError as error:
            raise NetworkError(f"{name}: not in the local cache, and the hub cannot be reached") from error
        except (hub_errors.EntryNotFoundError, hub_errors.RevisionNotFoundError) as error:
            raise NetworkError(f"{name}: {_first_line(error)}") from error
        except hub_errors.OfflineModeIsEnabled as error:
            raise NetworkError(f"{name}: the network is off (HF_HUB_OFFLINE)") from error
        except hub_errors.HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            if status not in (429, 500, 502, 503, 504) or attempt == RETRIES:
                raise NetworkError(f"{name}: the hub answered {status}: {_first_line(error)}") from error
            wait = _retry_after(error.response.headers.get("Retry-After"), attempt)
            logger.info("%s: the hub answered %s; asking again in %.1f s", name, status, wait)
            time.sleep(wait)
        except (OSError, RuntimeError, hub_errors.HTTPError, hub_errors.SafetensorsParsingError) as error:
            if attempt == RETRIES or isinstance(error, hub_errors.SafetensorsParsingError):
                raise NetworkError(f"{name}: no answer from the hub: {_first_line(error)}") from error
            time.sleep(_retry_after(None, attempt))
    raise AssertionError("unreachable")


def enrich(
    entries: Sequence[Entry], args: AtlasConfig, on_progress: OnProgress | None = None
) -> Iterator[tuple[str, HubFacts | str]]:
    """Facts of every hub repository of the rows: (hub id, facts, or what went wrong), fresh ones from the cache.

    Raises:
        NetworkError: the network is off.
    """
    names = list(dict.fromkeys(n for e in entries for n in [*e.hf_ids, *e.hf_ids_known]))
    cache = HubCache(args.overlay_dir)
    known = {n: cache.get("hub", n, args.links_max_age_d) for n in names}
    wanted = [n for n in names if known[n] is None]
    if wanted:
        require_network(args, "atlas hub")
    for name in names:
        if known[name] is not None:
            yield name, HubFacts.model_validate(known[name])

    def ask(name: str) -> HubFacts | str:
        try:
            facts = read_facts(name, args)
        except NetworkError as error:
            return str(error)
        cache.put("hub", name, facts.model_dump(mode="json"))
        return facts

    yield from _all(ask, wanted, args.links_concurrency, "hub", on_progress)


def check_links(
    entries: Sequence[Entry], args: AtlasConfig, on_progress: OnProgress | None = None
) -> Iterator[tuple[str, int | str]]:
    """Whether the links of the rows answer: (address, status or what went wrong), fresh ones from the cache.

    Raises:
        NetworkError: the network is off.
    """
    urls = list(
        dict.fromkeys(u for e in entries for u in (e.paper_url, e.code_url, *(c.url for c in e.checkpoints)) if u)
    )
    cache = HubCache(args.overlay_dir)
    known = {u: cache.get("link", u, args.links_max_age_d) for u in urls}
    wanted = [u for u in urls if known[u] is None]
    if wanted:
        require_network(args, "atlas links")
    for url in urls:
        if known[url] is not None:
            yield url, known[url]

    def ask(url: str) -> int | str:
        answer = link_status(url, args.hub_timeout_s)
        if isinstance(answer, int):
            cache.put("link", url, answer)
        return answer

    yield from _all(ask, wanted, args.links_concurrency, "links", on_progress)


def _all(
    ask: Callable[[str], T], keys: Sequence[str], workers: int, stage: str, on_progress: OnProgress | None
) -> Iterator[tuple[str, T]]:
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(ask, key): key for key in keys}
        for done, future in enumerate(as_completed(waiting), start=1):
            if on_progress is not None:
                on_progress(stage, done, len(keys), waiting[future])
            yield waiting[future], future.result()


def link_status(url: str, timeout: float) -> int | str:
    """HTTP status of an address, asked for without its body; waits when it is told to."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "evolvent-atlas"})
    for attempt in range(RETRIES + 1):
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            if error.code == 405 and request.method == "HEAD":
                request.method = "GET"
            elif error.code in (429, 503) and attempt < RETRIES:
                time.sleep(_retry_after(error.headers.get("Retry-After"), attempt))
            else:
                return error.code
        except (OSError, ValueError) as error:
            return f"no answer: {_first_line(error)}"
    return 429


def findings(entries: Sequence[Entry], facts: dict[str, HubFacts]) -> list[Finding]:
    """Contradictions between the table and the hub: sizes more than 10 % apart, other kinds of model, gating."""
    found = []
    for entry in entries:
        sizes = [(c.hf_id, c.n_params) for c in entry.checkpoints if c.hf_id in facts]
        for name, size in dict.fromkeys(sizes):
            told = facts[name or ""]
            if size and told.params and abs(told.params - size) > DIFFERENT_SIZE * size:
                text = f"{name}: the table says {size_label(size)}, its weights have {size_label(told.params)}"
                found.append(Finding(entry.id, "size-vs-checkpoint", text))
            kind = mismatch(entry, told.model_type)
            if kind is not None:
                found.append(Finding(entry.id, "architecture-vs-checkpoint", f"{name}: {kind}"))
    return found


def mismatch(entry: Entry, model_type: str | None) -> str | None:
    """What is odd about a checkpoint's `model_type`, if it is an encoder where the row says decoder or so."""
    if model_type is None or entry.architecture is None:
        return None
    encoders = ("bert", "roberta", "electra", "albert", "deberta", "deberta-v2", "longformer", "big_bird", "esm")
    decoders = ("gpt2", "gpt_neox", "llama", "mistral", "mixtral", "opt", "bloom", "qwen2", "gemma", "internlm2")
    kinds = set(entry.architecture)
    said = f"model_type {model_type!r} where the table says {', '.join(entry.architecture)}"
    if model_type in encoders and kinds <= {"decoder-only"}:
        return said
    return said if model_type in decoders and kinds <= {"encoder-only"} else None


def _retry_after(said: str | None, attempt: int) -> float:
    """Seconds to wait: what the server says, at most a minute, else 0.5, 1, 2 ..."""
    try:
        return min(60.0, float(said or ""))
    except ValueError:
        return 0.5 * 2.0**attempt


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
