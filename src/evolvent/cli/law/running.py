"""Commands of one wash: run, probe, report, revert, and the demonstration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from evolvent.cli.console import console, progress, shortened
from evolvent.cli.law.options import Corpus, FactsFile, References, TemplatesFile, facts_from
from evolvent.cli.options import ConfigFile, Dtype, Model, Out, Rerun, Resume, Settings, SkipBadRows, settings_from
from evolvent.errors import ConfigError, DataError, NothingSelectedError

if TYPE_CHECKING:
    from evolvent.data.records import Fact
    from evolvent.methods.law.law import LawResult

Keep = Annotated[str | None, typer.Option("--keep", help="facts that must stay: measured, never learnt from")]
Baselines = Annotated[str | None, typer.Option("--baselines", help="comma-separated: ascent,difference,npo,refusal")]
Preset = Annotated[str, typer.Option("--preset", help="default, or paper: the official code's settings")]


def run(
    facts: FactsFile,
    out: Out,
    model: Model = "embedded",
    keep: Keep = None,
    references: References = None,
    corpus: Corpus = None,
    templates: TemplatesFile = None,
    skip_bad_rows: SkipBadRows = False,
    preset: Preset = "default",
    baselines: Baselines = None,
    config: ConfigFile = None,
    settings: Settings = None,
    resume: Resume = True,
    rerun: Rerun = False,
) -> None:
    """Everything: probe, learn targets, edit, verify, attack, compare, report."""
    from evolvent import Law, LawConfig

    if preset not in ("default", "paper"):
        raise ConfigError(f"--preset {preset}: give default or paper")
    if not resume and (out / "config.yaml").is_file():
        raise ConfigError(f"{out} holds a run already: leave out --no-resume to go on, or choose another --out")
    given: dict[str, Any] = {"output_dir": out}
    given |= {"on_config_change": "rerun"} if rerun else {}
    given |= {"baselines": [b.strip() for b in baselines.split(",")]} if baselines else {}
    start = LawConfig.paper(out).model_dump(exclude_unset=True) if preset == "paper" else {}
    args = settings_from(LawConfig, config, settings, given, start)
    with progress() as on_progress:
        method = Law(
            model,
            facts_from(facts, templates, skip_bad_rows),
            args=args,
            keep=facts_from(keep, templates, skip_bad_rows) if keep else (),
            references=facts_from(references, templates, skip_bad_rows) if references else (),
            corpus=corpus,
            on_progress=on_progress,
        )
        result = method.run()
    _print_result(result)
    if not result.complete:
        raise typer.Exit(NothingSelectedError.exit_code)


def probe(
    facts: FactsFile,
    model: Model = "embedded",
    templates: TemplatesFile = None,
    skip_bad_rows: SkipBadRows = False,
    dtype: Dtype = "auto",
    output: Annotated[Path | None, typer.Option("--json", help="write every answer there")] = None,
    limit: Annotated[int, typer.Option(help="facts to print")] = 20,
) -> None:
    """Only ask: which of these facts does a model know?"""
    from evolvent.methods.law.probe import probe as ask
    from evolvent.models.resolve import load_local

    rows = facts_from(facts, templates, skip_bad_rows)
    with console.status(f"asking for {len(rows)} facts"):
        found = ask(load_local(model, dtype=dtype), rows)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("".join(json.dumps(k.to_dict(), ensure_ascii=False) + "\n" for k in found))
    table = Table("fact", "known", "probability", "paraphrases", "chat answer")
    for fact, k in list(zip(rows, found, strict=True))[:limit]:
        said = f"{sum(k.paraphrases)} of {len(k.paraphrases)}" if k.paraphrases else ""
        name = shortened(f"{fact.subject} → {fact.object}", 48)
        table.add_row(name, "yes" if k.known else "no", f"{k.probability:.3f}", said, shortened(k.answer, 40))
    console.print(table)
    console.print(f"{sum(k.known for k in found)} of {len(found)} facts are known", highlight=False)


def facts_command(
    documents: Annotated[str, typer.Argument(help="folder of .txt and .md files, one such file, or .jsonl")],
    out: Annotated[Path, typer.Option("--out", help="file that gets the facts, .jsonl")],
    model: Model = "embedded",
    reader: Annotated[str | None, typer.Option("--reader", help="model that lists the facts; else --model")] = None,
    everything: Annotated[bool, typer.Option("--all", help="write facts that --model does not know too")] = False,
    dtype: Dtype = "auto",
) -> None:
    """Which facts of these documents does a model know? Writes them in the form that `run` takes."""
    from evolvent.data.files import write_jsonl
    from evolvent.methods.law.documents import facts_in
    from evolvent.methods.law.probe import probe as ask
    from evolvent.models.resolve import load, load_local

    asked = load_local(model, dtype=dtype)
    with progress() as on_progress:
        found = facts_in(
            documents,
            asked if reader is None else load(reader, dtype=dtype),
            on_progress=lambda done, total: on_progress("documents", done, total, "passages"),
        )
    known = [k.known for k in ask(asked, found, paraphrases=False, chat=False)]
    rows = [f for f, k in zip(found, known, strict=True) if k or everything]
    out.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(out, (f.model_dump(exclude_defaults=True) for f in rows))
    table = Table("fact", "known")
    for fact, k in list(zip(found, known, strict=True))[:20]:
        said = f"{(fact.prompt or '').replace('{}', fact.subject)} → {fact.object}"
        table.add_row(shortened(said, 100), "yes" if k else "no")
    console.print(table)
    console.print(f"{sum(known)} of {len(found)} facts are known; {len(rows)} written to {out}", highlight=False)


def revert(
    folder: Annotated[Path, typer.Argument(help="run folder of the wash")],
    out: Annotated[Path, typer.Option("--out", help="folder for the original model")],
) -> None:
    """Bring the original weights back, bit for bit."""
    from evolvent.methods.law.reverting import revert as bring_back

    console.print(f"model   {bring_back(folder, out)}", soft_wrap=True, highlight=False)


def report(folder: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Print what a run found; its pages lie beside metrics.json as report.html and report.md."""
    path = folder / "metrics.json"
    if not path.is_file():
        raise DataError(f"{folder}: no metrics.json; this run has not finished: go on with the command that began it")
    _print_table(json.loads(path.read_text()))
    names = ("report.html", "report.md", "metrics.json", "certificate.json")
    shown = [f"{folder / name}" for name in names if (folder / name).is_file()]
    console.print("\n".join(shown), soft_wrap=True, highlight=False)


def demo(
    out: Out = Path("runs/demo-law"),
    facts: Annotated[int, typer.Option(help="facts to wash")] = 16,
    seed: Annotated[int, typer.Option(help="of the run")] = 0,
) -> None:
    """Wash capitals and chemical symbols; others of them, and what else is known of those countries, must stay."""
    from evolvent import Law, LawConfig, samples
    from evolvent.methods.law.probe import probe as ask
    from evolvent.models.resolve import load_local

    world = samples.world_facts()
    model = load_local("embedded", dtype="float32")

    def known(rows: list[Fact], most: int) -> tuple[list[Fact], list[Fact]]:
        found = ask(model, rows[:most], paraphrases=False, chat=False)
        pairs = list(zip(rows, found, strict=False))
        return [f for f, k in pairs if k.known], [f for f, k in pairs if not k.known]

    with console.status("asking what SmolLM2-135M-Instruct knows of the world"):
        capitals, unknown_capitals = known(world.capitals, 120)
        symbols, unknown_symbols = known(world.symbols, 118)
        others = [f for rows in (world.continents, world.currencies, world.languages) for f in known(rows, 60)[0]]
    few = facts // 4
    forget = [*capitals[::2][: facts - few], *symbols[::2][:few]]
    same = [*capitals[1::2][: facts - few], *symbols[1::2][:few]]
    subjects = {f.subject for f in forget}
    about = [f for f in others if f.subject in subjects]
    rest = [f for f in others if f.subject not in subjects][:40]
    console.print(
        f"{len(forget)} capitals and chemical symbols to wash out of SmolLM2-135M-Instruct; must stay: {len(same)} "
        f"others, {len(about)} facts about the same countries, {len(rest)} about other ones.",
        highlight=False,
    )
    with progress() as on_progress:
        method = Law(
            "embedded",
            forget,
            keep=[*same, *about, *rest],
            references=[*unknown_capitals, *unknown_symbols],
            corpus=world.texts,
            args=LawConfig(output_dir=out, seed=seed),
            on_progress=on_progress,
        )
        result = method.run()
    _print_result(result)


def _print_result(result: LawResult) -> None:
    _print_table(result.metrics)
    if result.remaining:
        console.print(f"{len(result.remaining)} facts still come back by prompt, paraphrase or chat", highlight=False)
    console.print(f"model   {result.model}\nreport  {result.report_path}", soft_wrap=True, highlight=False)


def _print_table(metrics: Mapping[str, Any]) -> None:
    from evolvent.methods.law.report import results_table

    columns, rows, caption = results_table(metrics)
    broken = {"paraphrases": "para-\nphrases", "perplexity": "per-\nplexity"}  # so that all fit into 80 columns
    heads = [broken.get(c, c.replace("-", "\n").replace(" ", "\n")) for c in columns]
    table = Table(*heads, caption=caption, caption_style="dim", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for row in rows:
        table.add_row(*row, style="bold" if row[0] == "LAW" else None)
    console.print(table)
