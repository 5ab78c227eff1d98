"""The hub, through the real online path of huggingface_hub and transformers, against a stand-in on 127.0.0.1.

huggingface_hub reads its environment when it is imported, so each case runs in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evolvent.errors import ModelError
from evolvent.methods.atlas.hub import NetworkError
from evolvent.methods.atlas.loading import check, choose_checkpoint, count_parameters
from evolvent.models.resolve import expand, register_scheme

_spec = importlib.util.spec_from_file_location("hub_stand_in", Path(__file__).with_name("hub_stand_in.py"))
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
HubStandIn = _module.HubStandIn

SMOL = "local/smol"


@pytest.fixture
def online(tmp_path):
    """Run Python in a process whose hub is the stand-in; gives (finished process)."""

    def run(hub, script, *arguments, **settings):
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "EVOLVENT_ATLAS_OVERLAY_DIR": str(tmp_path / "overlay"),
            **settings,
        }
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)

    return run


CLI = "from evolvent.cli import main; main()"


@pytest.fixture
def with_smol(atlas, new_row):
    """A row of the user whose only checkpoint is the stand-in's repository."""

    def add(**more):
        checkpoint = {"url": f"https://huggingface.co/{SMOL}", "hf_id": SMOL, "hf_type": "model", **more}
        return atlas.add({**new_row, "checkpoints": [checkpoint], "hf_id": SMOL, "hf_ids": [SMOL]})

    return add


def test_loading_goes_through_the_real_online_path(online, with_smol, tiny_folder):
    """Acceptance 4, with a tiny model: info, config, weights; afterwards without a network."""
    with_smol()
    script = "from evolvent.methods.atlas.loading import resolve\nprint(resolve('my-smol'))"
    with HubStandIn({SMOL: tiny_folder}) as hub:
        done = online(hub, script)
        assert done.returncode == 0, done.stderr
        paths = [path for _, path in hub.requests]
        assert f"/api/models/{SMOL}" in paths
        assert hub.bytes_sent["model.safetensors"] == (tiny_folder / "model.safetensors").stat().st_size
    again = online(hub, script, HF_HUB_OFFLINE="1")  # the stand-in is gone: from the cache
    assert again.stdout == done.stdout, again.stderr
    folder = Path(done.stdout.strip())
    assert count_parameters(folder) == count_parameters(tiny_folder) > 10_000


def test_a_hub_repository_becomes_a_draft(online, tiny_folder, make_atlas):
    with HubStandIn({SMOL: tiny_folder}, cards={SMOL: {"license": "mit"}}) as hub:
        done = online(hub, CLI, "atlas", "import", f"hub:{SMOL}", "--field", "chemistry", "--modality", "text")
        assert done.stdout == "added smol\n", done.stderr
        missing = online(hub, CLI, "atlas", "import", f"hub:{SMOL}")
    entry = make_atlas()["smol"]
    assert (entry.status, entry.venue, entry.arxiv_id, entry.languages) == ("draft", "Hub 2025", "2501.00001", ["en"])
    assert entry.n_params == [count_parameters(tiny_folder)]
    assert entry.hub.license == "mit"
    assert missing.returncode == 3
    assert "fields" in missing.stderr


@pytest.mark.real
def test_the_embedded_model_is_served_and_loaded(online, with_smol, tmp_path):
    """Acceptance 4 with the real SmolLM2: all 134,515,008 parameters."""
    from evolvent.models.embedded import embedded_folder

    with_smol(n_params=135_000_000)
    script = (
        "from evolvent.models.resolve import load_local\n"
        "model = load_local('atlas:my-smol', dtype='bfloat16')\n"
        "print(sum(p.numel() for p in model.module.parameters()))\n"
    )
    with HubStandIn({SMOL: embedded_folder()}) as hub:
        done = online(hub, script)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["134515008"]
        assert len(hub.requests) < 60


def test_a_method_runs_on_an_atlas_reference_and_enters_the_family_tree(
    online, with_smol, tiny_folder, tmp_path, make_atlas, monkeypatch
):
    """One SemiEvol run on `atlas:my-smol`: its checkpoint is a child of the row."""
    with_smol()
    script = (
        "import sys\n"
        "from evolvent import Question, SemiEvol, SemiEvolConfig, ChoiceTask\n"
        "words = {'business': 'profit shares bank', 'sport': 'goal cup team'}\n"
        "def rows(n, known):\n"
        "    topics = [list(words)[i % 2] for i in range(n)]\n"
        "    return [Question(id=f'{known}{i}', question=f'{words[t]} {known} {i}', choices=tuple(words),\n"
        "            answer=t if known else None) for i, t in enumerate(topics)]\n"
        "args = SemiEvolConfig(output_dir=sys.argv[1], min_steps=1, warmup_epochs=1, evolve_epochs=1, n_configs=2,\n"
        "    k_shots=0, lora_r=2, batch_size=4, control=False, force=True, holdout=0, retriever='bm25', judge='none')\n"
        "print(SemiEvol('atlas:my-smol', rows(8, True), rows(8, False), args=args, task=ChoiceTask(\n"
        "    labels=tuple(words))).run().model)\n"
    )
    ledger = tmp_path / "ledger.txt"
    with HubStandIn({SMOL: tiny_folder}) as hub:
        done = online(hub, script, str(tmp_path / "runs" / "news"), EVOLVENT_LEDGER=str(ledger))
    assert done.returncode == 0, done.stderr[-3000:]
    monkeypatch.setenv("EVOLVENT_LEDGER", str(ledger))
    (mine,) = make_atlas().artefacts()
    assert (mine.id, mine.parents, mine.lineage.method) == ("mine:news", ("my-smol",), "semievol")
    assert make_atlas().graph("lineage").has_edge("my-smol", "mine:news")


def test_hub_facts_are_read_from_headers_and_kept_in_the_row(online, with_smol, tiny_folder, make_atlas):
    with_smol(n_params=7_000_000_000)
    with HubStandIn({SMOL: tiny_folder}, cards={SMOL: {"license": "apache-2.0"}}) as hub:
        done = online(hub, CLI, "atlas", "hub", "my-smol", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        size = (tiny_folder / "model.safetensors").stat().st_size
        assert hub.bytes_sent["model.safetensors"] <= 100_001 < size
        count = len(hub.requests)
        assert json.loads(online(hub, CLI, "atlas", "hub", "my-smol", "--json").stdout)["facts"] == told["facts"]
        assert len(hub.requests) == count  # fresh: not asked again
    facts = make_atlas()["my-smol"].hub
    assert (facts.license, facts.model_type, facts.gated) == ("apache-2.0", "llama", False)
    assert facts.params == told["facts"][SMOL]["params"] > 10_000
    assert [f["code"] for f in told["findings"]] == ["size-vs-checkpoint"]
    assert "the table says 7B" in told["findings"][0]["text"]
    caution = make_atlas(encoder="none").recommend("small model of our own", field="chemistry").choices[0].cautions
    assert any(c.startswith("licence apache-2.0") for c in caution)


def test_a_busy_hub_is_asked_again(online, with_smol, tiny_folder):
    with_smol()
    with HubStandIn({SMOL: tiny_folder}, busy=2) as hub:
        done = online(hub, CLI, "atlas", "hub", "my-smol", "--json")
    assert json.loads(done.stdout)["failed"] == {}


def test_a_download_that_is_cut_goes_on(online, with_smol, tiny_folder):
    with_smol()
    script = (
        "from evolvent.methods.atlas.loading import count_parameters, resolve\n"
        "from pathlib import Path\n"
        "print(count_parameters(Path(resolve('my-smol'))))\n"
    )
    with HubStandIn({SMOL: tiny_folder}, broken=1) as hub:
        done = online(hub, script)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == count_parameters(tiny_folder)


def faults(folder):
    return {
        "gated": ({"gated": {SMOL}}, [], 4, "gated; accept its terms at"),
        "gone": ({"repositories": {}}, [], 4, "no such repository on the hub"),
        "pickle": ({"pickle": True}, [], 2, "--allow-pickle"),
        "code": ({"auto_map": True}, [], 2, "brings Python code of its own"),
        "size": ({"size": 7_000_000_000}, ["--strict"], 2, "the table says 7B parameters"),
    }


@pytest.mark.parametrize("name", ["gated", "gone", "pickle", "code", "size"])
def test_what_the_hub_does_not_give_is_said_with_the_next_step(online, with_smol, tiny_folder, name):
    changed, flags, code, said = faults(tiny_folder)[name]
    with_smol(**({"n_params": changed["size"]} if "size" in changed else {}))
    if changed.get("pickle"):
        import torch

        (tiny_folder / "model.safetensors").unlink()
        torch.save({}, tiny_folder / "pytorch_model.bin")
    if changed.get("auto_map"):
        config = json.loads((tiny_folder / "config.json").read_text())
        config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
        (tiny_folder / "config.json").write_text(json.dumps(config))
    repositories = changed.get("repositories", {SMOL: tiny_folder})
    with HubStandIn(repositories, gated=changed.get("gated", ())) as hub:
        done = online(hub, CLI, "atlas", "load", "my-smol", *flags)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stderr


def test_own_code_is_pinned_to_the_commit_that_was_looked_at(online, with_smol, tiny_folder):
    with_smol()
    config = json.loads((tiny_folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling.Model"}
    (tiny_folder / "config.json").write_text(json.dumps(config))
    with HubStandIn({SMOL: tiny_folder}) as hub:
        online(hub, CLI, "atlas", "hub", "my-smol")
        (tiny_folder / "modeling.py").write_text("raise SystemExit('changed code ran')")
        done = online(hub, CLI, "atlas", "load", "my-smol", "--trust-remote-code")
    assert "its code changed since commit" in done.stderr
    assert "changed code ran" not in done.stderr


def test_a_silent_hub_is_given_up(online, with_smol, tiny_folder):
    with_smol()
    script = "import evolvent.methods.atlas.hub as hub\nhub.RETRIES = 0\nfrom evolvent.cli import main\nmain()"
    with HubStandIn({SMOL: tiny_folder}, silent=True) as hub:
        arguments = ("atlas", "load", "my-smol", "--set", "hub_timeout_s=0.3")
        done = online(hub, script, *arguments, EVOLVENT_ATLAS_HUB_TIMEOUT_S="0.3")
    assert done.returncode == 4
    assert "no answer from the hub" in done.stderr


def test_links_are_checked_once(online, with_smol, tiny_folder, make_atlas, new_row, tmp_path):
    atlas = make_atlas()
    with HubStandIn({}) as hub:
        links = {"paper_url": f"{hub.url}/page", "code_url": f"{hub.url}/missing"}
        atlas.add({**new_row, "id": "linked", **links})
        done = online(hub, CLI, "atlas", "links", "--where", "id:linked", "--json")
        assert json.loads(done.stdout) == {links["paper_url"]: 200, links["code_url"]: 404}
        count = len(hub.requests)
        online(hub, CLI, "atlas", "links", "--where", "id:linked", "--json")
        assert len(hub.requests) == count


def test_without_a_network_only_the_network_is_missing(atlas, with_smol):
    with_smol()
    for ask in (lambda: atlas.read_hub(["my-smol"]), lambda: atlas.refresh("https://example.org/README.md")):
        with pytest.raises(NetworkError, match="needs the network, which is off"):
            ask()
    with pytest.raises(NetworkError, match="not in the local cache and the network is off"):
        atlas.load_model("my-smol")


# ------------------------------------------------------------------------------------------------ choosing


def test_checkpoints_are_chosen_by_what_is_asked(atlas, caplog):
    assert choose_checkpoint(atlas["scibert"]).hf_id == "allenai/scibert_scivocab_uncased"
    assert choose_checkpoint(atlas["llasmol"], "Mistral").hf_id == "osunlp/LlaSMol-Mistral-7B"
    assert choose_checkpoint(atlas["llasmol"], "osunlp/LlaSMol-Llama2-7B").variant == "LLaMA-2"
    assert choose_checkpoint(atlas["galactica"]).size == "125M"
    assert "taking the smallest" in caplog.text
    with pytest.raises(ModelError, match="several backbones; name one of") as caught:
        choose_checkpoint(atlas["llasmol"])
    assert "atlas:llasmol@osunlp/LlaSMol-Mistral-7B" in str(caught.value)
    with pytest.raises(ModelError, match="no such checkpoint on the hub; there are"):
        choose_checkpoint(atlas["scibert"], "7B")
    with pytest.raises(ModelError, match=r"its weights are at https://drive.google.com.*pass path=FOLDER"):
        choose_checkpoint(atlas["scigpt2"])
    with pytest.raises(ModelError, match="no weights of it are known"):
        choose_checkpoint(atlas["minerva"])


def test_weights_downloaded_by_hand_are_loaded_by_path(atlas, tiny_folder, tmp_path):
    loaded = atlas.load_model("minerva", path=tiny_folder)
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert loaded.tokenizer is not None
    with pytest.raises(ModelError, match=r"no config.json"):
        atlas.load_model("minerva", path=tmp_path)


def test_another_kind_of_model_is_noticed(atlas, tiny_folder, caplog):
    assert check(atlas["scibert"], None, tiny_folder)
    assert "model_type 'llama' where the table says encoder-only" in caplog.text
    with pytest.raises(ModelError, match="model_type 'llama'"):
        check(atlas["scibert"], None, tiny_folder, strict=True)


def test_an_endpoint_can_stand_for_a_row(atlas):
    loaded = atlas.load_model("k2", backend="endpoint", base_url="http://127.0.0.1:9/v1")
    assert loaded.model.name.startswith("daven3/k2-v1")
    with pytest.raises(ModelError, match="give base_url"):
        atlas.load_model("k2", backend="endpoint")


def test_schemes_are_resolved_by_name_and_cannot_be_taken(tmp_path, monkeypatch):
    (tmp_path / "my_scheme.py").write_text("def resolve(rest):\n    return f'/models/{rest}'\n")
    monkeypatch.syspath_prepend(tmp_path)
    register_scheme("mine", "my_scheme:resolve")
    assert expand("mine:a") == "/models/a"
    assert expand("plain/name") == "plain/name"
    with pytest.raises(ModelError, match="'atlas' is taken"):
        register_scheme("atlas", "x:y")
    with pytest.raises(ModelError, match="not of the form"):
        register_scheme("other", "x")


def test_the_hub_cache_keeps_nothing_for_ever(tmp_path):
    from evolvent.methods.atlas.hub import HubCache

    cache = HubCache(tmp_path)
    cache.put("hub", "a/b", {"x": 1})
    assert cache.get("hub", "a/b", 1) == {"x": 1}
    assert cache.get("hub", "a/b", 0) is None
    shutil.rmtree(tmp_path)
