"""`evolvent selfparam`: put passages into the weights of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from evolvent.cli.console import console, progress
from evolvent.cli.options import ConfigFile, Model, Out, Rerun, Resume, Settings, settings_from
from evolvent.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from evolvent.methods.selfparam.selfparam import SelfParam

app = typer.Typer(no_args_is_help=True, help="Put passages into the weights of a model.")

PassagesOption = Annotated[str, typer.Option("--passages", help="folder of .txt and .md files, such a file, or JSONL")]
PairsOption = Annotated[
    str | None, typer.Option("--pairs", help="JSONL with passage, question, answer; else generated")
]
TestOption = Annotated[str | None, typer.Option("--test", help="pairs in other wordings, to measure on")]
Retention = Annotated[str | None, typer.Option("--retention", help="general text that should stay as it is")]
Sequential = Annotated[bool, typer.Option("--sequential", help="learn the passages one after the other")]
Generator = Annotated[str | None, typer.Option("--generator", help="rules, split, self, or a model reference")]
Folder = Annotated[Path, typer.Argument(help="run folder")]


@app.command("run")
def run(
    passages: PassagesOption,
    out: Out,
    model: Model = "embedded",
    pairs: PairsOption = None,
    test: TestOption = None,
    retention: Retention = None,
    sequential: Sequential = False,
    generator: Generator = None,
    config: ConfigFile = None,
    settings: Settings = None,
    resume: Resume = True,
    rerun: Rerun = False,
) -> None:
    """Everything: pairs, probe, stored predictions, training, baselines, report."""
    given: dict[str, Any] = {"mode": "sequential"} if sequential else {}
    given |= {"generator": generator} if generator else {}
    with progress() as on_progress:
        method = _selfparam(
            model, passages, pairs, test, retention, on_progress, config, settings, out, resume, rerun, given
        )
        result = method.run()
    _print_results(result.metrics)
    console.print(f"model   {result.model}\nreport  {result.report_path}", soft_wrap=True, highlight=False)


@app.command("pairs")
def pairs(
    passages: PassagesOption,
    out: Out,
    model: Model = "embedded",
    generator: Generator = None,
    config: ConfigFile = None,
    settings: Settings = None,
    rerun: Rerun = False,
) -> None:
    """Only the question-answer pairs; the file can be edited and given back with --pairs."""
    given = {"generator": generator} if generator else {}
    with progress() as on_progress:
        method = _selfparam(model, passages, None, None, None, on_progress, config, settings, out, True, rerun, given)
        with method:
            made = method.prepare()
    reasons = ", ".join(f"{count} {reason}" for reason, count in method.rejected.items() if count)
    console.print(
        f"{len(made)} pairs about {len(method.passages)} passages{f'; left out: {reasons}' if reasons else ''}\n"
        f"{out / 'pairs.jsonl'}",
        soft_wrap=True,
        highlight=False,
    )


@app.command("probe")
def probe(
    passages: PassagesOption,
    pairs: Annotated[str, typer.Option("--pairs", help="JSONL with passage, question, answer")],
    out: Out,
    model: Model = "embedded",
    config: ConfigFile = None,
    settings: Settings = None,
    strict: Annotated[bool, typer.Option("--strict", help="fail when the teacher cannot read the passages")] = False,
    rerun: Rerun = False,
) -> None:
    """How well the model reads the passages, in each of the prompts that it could teach from."""
    with progress() as on_progress:
        method = _selfparam(
            model,
            passages,
            pairs,
            None,
            None,
            on_progress,
            config,
            settings,
            out,
            True,
            rerun,
            {"strict": True} if strict else {},
        )
        with method:
            method.prepare()
            chosen = method.probe()
    table = Table("prompt", "answers, nats per token", "first tokens, %", caption="higher is better; bold is taken")
    for row in method.probed:
        style = "bold" if row.prompt in chosen.values() else None
        table.add_row(str(row.prompt), f"{row.gold:.2f}", f"{row.first:.0%}", style=style)
    console.print(table)


@app.command("ask")
def ask(
    model: Annotated[str, typer.Argument(help="checkpoint folder, or a run folder")],
    question: Annotated[str, typer.Argument(help="what to ask")],
    chat: Annotated[bool, typer.Option("--chat", help="ask through the chat template")] = False,
    max_tokens: Annotated[int, typer.Option(help="of the answer")] = 40,
) -> None:
    """Ask a model a question without any passage, as SELF-PARAM trains it to be asked."""
    from evolvent import load
    from evolvent.methods.selfparam.measure import answer, question_prompt
    from evolvent.methods.selfparam.pairs import QAPair

    folder = Path(model) / "checkpoint"
    loaded = load(folder if (folder / "config.json").is_file() else model)
    pair = QAPair.of("", question, "")
    said = answer(loaded, [question_prompt(pair, "chat" if chat else "plain")], max_tokens=max_tokens)
    console.print(said[0], markup=False, highlight=False, soft_wrap=True)


@app.command("ledger")
def ledger(folder: Folder) -> None:
    """The injections of a run: what went in, what is in the checkpoint, and whether the weights after it are kept."""
    from evolvent.methods.selfparam.weights import read_ledger

    said = "applied: it is in the checkpoint; kept: the weights after it are on disk"
    table = Table("injection", "passages", "pairs", "steps", "applied", "kept", caption=said)
    for row in read_ledger(folder):
        shown = ", ".join(row["passages"][:3]) + (" …" if len(row["passages"]) > 3 else "")
        states = ["yes" if yes else "no" for yes in (row.get("in_checkpoint", True), row["weights"])]
        table.add_row(str(row["id"]), shown, str(row["pairs"]), str(row["steps"]), *states)
    console.print(table)


@app.command("rollback")
def rollback(
    folder: Folder, injection: Annotated[int, typer.Argument(help="its number in the ledger; it and later ones go")]
) -> None:
    """Make the run's checkpoint the model as it was right before an injection; `run` makes the whole one again."""
    from evolvent.methods.selfparam.weights import roll_back

    console.print(f"model   {roll_back(folder, injection)}", soft_wrap=True, highlight=False)


@app.command("report")
def report(folder: Folder) -> None:
    """Print what a run found; its pages lie beside metrics.json as report.html and report.md."""
    if not (folder / "metrics.json").is_file():
        raise DataError(f"{folder}: no metrics.json; this run has not finished: go on with the command that began it")
    _print_results(json.loads((folder / "metrics.json").read_text()))


@app.command("recommend-eval")
def recommend_eval(
    test: Annotated[Path, typer.Option("--test", help="JSONL with input, rec, prev_entity")],
    catalogue: Annotated[Path, typer.Option("--catalogue", help="entity2id.json")],
    model: Model = "embedded",
    answers: Annotated[Path | None, typer.Option("--answers", help="JSONL with `answer`, in place of a model")] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="only the first turns")] = None,
    filtered: Annotated[bool, typer.Option("--filtered", help="drop names that are no title")] = False,
    exclude_seen: Annotated[bool, typer.Option("--exclude-seen", help="drop what the dialogue named before")] = False,
) -> None:
    """Recall, NDCG and MRR of a model's recommendations in dialogues (INSPIRED, ReDial)."""
    from evolvent.methods.selfparam import recommendation as rec
    from evolvent.methods.selfparam.titles import TitleIndex

    titles = rec.read_catalogue(catalogue)
    turns = rec.read_turns(test, titles)[:limit]
    if answers is not None:
        texts = rec.read_answers(answers)
        if len(texts) < len(turns):
            raise DataError(f"{answers}: {len(texts)} answers for {len(turns)} turns; give one line a turn")
    else:
        from evolvent import Sampling, load

        done = load(model).generate([turn.messages() for turn in turns], Sampling(max_tokens=400))
        texts = [completions[0].text for completions in done]
    hits = rec.evaluate_recommendations(
        texts[: len(turns)], turns, TitleIndex(titles.values()), filtered=filtered, exclude_seen=exclude_seen
    )
    metrics = rec.recommendation_metrics(hits)
    table = Table("measure", "recommendation", "discussion", "all")
    for measure in ("recall", "ndcg", "mrr"):
        for k in rec.CUT_OFFS:
            cells = [metrics.get(f"{measure}@{k}/{c}") for c in ("recommendation", "discussion", "all")]
            table.add_row(f"{measure}@{k}", *("" if c is None else f"{c:.4f}" for c in cells))
    console.print(table)


def _selfparam(
    model: str,
    passages: str,
    pairs: str | None,
    test: str | None,
    retention: str | None,
    on_progress: Callable[[str, int, int, str], None],
    config: Path | None,
    settings: list[str] | None,
    out: Path,
    resume: bool,
    rerun: bool,
    given: Mapping[str, Any],
) -> SelfParam:
    from evolvent import SelfParam, SelfParamConfig

    if not resume and (out / "config.yaml").is_file():
        raise ConfigError(f"{out} holds a run already: leave out --no-resume to go on, or choose another --out")
    chosen = {"output_dir": out, **given, **({"on_config_change": "rerun"} if rerun else {})}
    return SelfParam(
        model,
        passages,
        pairs,
        args=settings_from(SelfParamConfig, config, settings, chosen),
        eval_dataset=test,
        retention=retention,
        on_progress=on_progress,
    )


def _print_results(metrics: Mapping[str, Any]) -> None:
    from evolvent.methods.selfparam.report import results_table

    _, rows, caption = results_table(metrics)
    table = Table(
        "variant", "F1, %", "SELF-PARAM gains", "p", "drift", "perplexity", caption=caption, caption_style="dim"
    )
    for name, f1, _, *cells in rows:
        table.add_row(name, f1, *cells, style="bold" if name == "SELF-PARAM" else None)
    console.print(table)
