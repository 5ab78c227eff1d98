"""How fast is SemiEvol's machinery? Every figure is a ratio of two measurements of one process, taken in turns.

python -m benchmarks.semievol.speed training          which way to train on a processor
python -m benchmarks.semievol.speed top-layers        cached top blocks against LoRA on all layers
python -m benchmarks.semievol.speed labelling         four voters in closed form against four sampled passes
python -m benchmarks.semievol.speed pipeline          a whole run against its stages with plain TRL and `generate`
python -m benchmarks.semievol.speed choose            `choose` against lm-evaluation-harness
python -m benchmarks.semievol.speed memory            fine-tuning against plain TRL
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from benchmarks.results_file import record
from benchmarks.semievol.corpora import SHARED, bbc, fpb
from evolvent import ChoiceTask, SemiEvol, SemiEvolConfig, evaluate, read_questions
from evolvent.data.records import Question
from evolvent.data.samples import Splits
from evolvent.methods.semievol.collaboration import Response, ask, merge, prefix_order, same_prompts
from evolvent.methods.semievol.config import InferenceConfiguration
from evolvent.methods.semievol.propagation import (
    build_retriever,
    nearest_labeled,
    supervised_examples,
    warmup_training,
)
from evolvent.models.local import LocalModel
from evolvent.models.resolve import checkpoint_folder, load_local
from evolvent.training.config import FineTuneConfig
from evolvent.training.examples import LeftPadded, TrainingExample, encode_examples
from evolvent.training.finetune import fine_tune

ROUNDS = 3


def in_turns(*runs: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Median seconds of each, measured in turns so that a disturbance hits all alike."""
    seconds: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in range(rounds):
        for measured, run in zip(seconds, runs, strict=True):
            started = time.perf_counter()
            run()
            measured.append(time.perf_counter() - started)
    return [statistics.median(s) for s in seconds]


def row(claim: str, ours: float, comparator: str, theirs: float, **more: Any) -> dict[str, Any]:
    """A row whose ratio says how many times less the first figure is.

    Minutes of work that follow each other are measured in processor time (one thread), which other processes on the
    machine disturb less.
    """
    return {
        "claim": claim,
        "value": ours,
        "unit": "s",
        "comparator": comparator,
        "comparator_value": theirs,
        "ratio": theirs / ours,
        **more,
    }


def training() -> list[dict[str, Any]]:
    """One LoRA step on 8 BBC rows: number type, attention, threads, compiler."""
    news = bbc(0)
    examples = supervised_examples(news.task, news.labeled)[:8]

    def step_of(dtype: str, attention: str, *, autocast: bool, threads: int = 1, compiled: bool = False) -> Any:
        from peft import LoraConfig, get_peft_model

        base = load_local("embedded", dtype=dtype)
        base.module.set_attn_implementation(attention)
        module: Any = get_peft_model(base.module, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        module.train()
        batch = LeftPadded(base.pad_token)(encode_examples(base, examples, max_length=1024, end_token=True))
        inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "position_ids")}
        called = torch.compile(module) if compiled else module

        def step() -> None:
            torch.set_num_threads(threads)
            with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
                logits = called(**inputs, logits_to_keep=4, use_cache=False).logits
            (-logits.float().log_softmax(-1)[..., 0].mean()).backward()

        return step

    ours = step_of("bfloat16", "eager", autocast=True)
    others = {
        "float32 weights": step_of("float32", "sdpa", autocast=False),
        "float32 weights, bfloat16 autocast": step_of("float32", "sdpa", autocast=True),
        "bfloat16 weights and autocast, fused attention": step_of("bfloat16", "sdpa", autocast=True),
        "bfloat16 weights and autocast, plain attention, torch.compile": step_of(
            "bfloat16", "eager", autocast=True, compiled=True
        ),
        "bfloat16 weights and autocast, plain attention, two threads": step_of(
            "bfloat16", "eager", autocast=True, threads=2
        ),
    }
    mine, *theirs = in_turns(ours, *others.values())
    torch.set_num_threads(1)
    claim = "LoRA step with bfloat16 weights, autocast and plain attention, one thread"
    return [row(f"{claim}, against {name}", mine, name, seconds) for name, seconds in zip(others, theirs, strict=True)]


def top_layers() -> list[dict[str, Any]]:
    """Trained tokens per second: the last 12 and the last 8 of 30 blocks on cached states, LoRA on all."""
    news = bbc(0)
    examples = supervised_examples(news.task, news.labeled)

    def rate(peft: Any, layers: int) -> float:
        """Tokens per second over the steps after the first three, which warm up."""
        moments: list[float] = []
        settings = FineTuneConfig(peft=peft, trainable_layers=layers, steps=15, learning_rate=1e-4, save_steps=1000)
        with tempfile.TemporaryDirectory() as folder:
            result = fine_tune(
                "embedded",
                examples,
                settings,
                output_dir=folder,
                on_progress=lambda *_: moments.append(time.perf_counter()),
            )
        return result.trained_tokens / result.steps * (len(moments) - 3) / (moments[-1] - moments[2])

    rates = {name: [] for name in ("lora", "12", "8")}  # type: dict[str, list[float]]
    for _ in range(ROUNDS):
        rates["lora"].append(rate("lora", 1))
        rates["12"].append(rate("top_layers", 12))
        rates["8"].append(rate("top_layers", 8))
    lora, twelve, eight = (statistics.median(rates[name]) for name in ("lora", "12", "8"))
    shared = {"unit": "tokens/s", "comparator": "LoRA r16 on all 30 blocks", "comparator_value": lora}
    return [
        {"claim": "training the top 12 blocks on cached states", "value": twelve, "ratio": twelve / lora, **shared},
        {"claim": "training the top 8 blocks on cached states", "value": eight, "ratio": eight / lora, **shared},
    ]


def labelling(rows: int = 300) -> list[dict[str, Any]]:
    """Four voters over FPB rows, exactly or sampled by Hugging Face `generate`, whose budget is the official code's."""
    splits = fpb(0)
    pool = splits.unlabeled[:rows]
    recipe = SemiEvolConfig(output_dir=Path("unused"), peft="top_layers")
    voters = {
        "four voters": recipe.voters(lists_options=False),
        "plain and other wording": [v for v in recipe.voters(lists_options=False) if not v.demonstrations],
        "the official code's four voters, who ask alike": SemiEvolConfig.reference("unused").voters(
            lists_options=False
        ),
    }
    ours, exact = [], []
    with tempfile.TemporaryDirectory() as folder:
        training = warmup_training(recipe, rows=len(splits.labeled))
        examples = supervised_examples(splits.task, splits.labeled)
        trained = fine_tune("embedded", examples, training, output_dir=folder)
        model = load_local(str(trained.checkpoint))
        for asked in voters.values():
            started = time.process_time()
            exact.append(_vote(model, splits, pool, asked))
            ours.append(time.process_time() - started)
        plain = _PlainModel(str(trained.checkpoint))
        started = time.process_time()
        votes = plain.votes(splits, pool)
        theirs = time.process_time() - started
    sampled = [statistics.mode([v for v in said if v] or [None]) for said in votes]
    gold = [q.meta["_hidden_answer"] for q in pool]
    return [
        row(
            f"labelling {rows} FPB rows in closed form: {name}",
            seconds,
            "four sampled passes of Hugging Face generate, batch 8",
            theirs,
            unit="CPU-s",
            n=rows,
            accuracy=_share(found, gold),
            comparator_accuracy=_share(sampled, gold),
        )
        for name, seconds, found in zip(voters, ours, exact, strict=True)
    ]


def _vote(
    model: LocalModel, splits: Splits, pool: list[Question], voters: Sequence[InferenceConfiguration]
) -> list[str | None]:
    shots = max(v.demonstrations_from + v.demonstrations for v in voters)
    near: list[tuple[int, ...]] = [() for _ in pool]
    if shots:
        near = nearest_labeled(build_retriever("auto", splits.labeled), pool, splits.labeled, count=shots)
    responses: dict[str, list[Response]] = {}
    for voter in voters:
        if (first := same_prompts(voters)[voter.name]) in responses:
            responses[voter.name] = responses[first]
            continue
        order = prefix_order(near, voter)
        shown = [[splits.labeled[j] for j in near[i]] for i in order]
        answered = ask(model, splits.task, voter, [pool[i] for i in order], shown, seed=0)
        responses[voter.name] = [response for _, response in sorted(zip(order, answered, strict=True))]
    merged = merge(splits.task, pool, list(responses.values()), [1.0] * len(voters))
    return [c.answer for c in merged]


def pipeline(rows: int = 300, tests: int = 200) -> list[dict[str, Any]]:
    """A run on FPB, and its stages (train, four votes, select, train, test) by plain TRL and `generate`."""
    splits = fpb(0)
    pool, test = splits.unlabeled[:rows], splits.test[:tests]
    voters = {"four voters": None, "the official code's voters": SemiEvolConfig.reference("unused").configs}
    ours, measured = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name, configs in voters.items():
            args = SemiEvolConfig(
                output_dir=Path(folder) / name,
                peft="top_layers",
                configs=configs,
                control=False,
                zero_shot_baseline=False,
                few_shot_baseline=False,
            )
            started = time.process_time()
            method = SemiEvol("embedded", splits.labeled, pool, task=splits.task, eval_dataset=test, args=args)
            measured.append(method.run().metrics["accuracy/test/semievol"])
            ours.append(time.process_time() - started)

        started = time.process_time()
        supervised = supervised_examples(splits.task, splits.labeled)
        warm = _PlainModel.trained(supervised, args.min_steps, f"{folder}/warm")
        votes = warm.votes(splits, pool)
        agreed = [(q, said[0]) for q, said in zip(pool, votes, strict=True) if said[0] and len(set(said)) == 1]
        selected = supervised_examples(splits.task, [q.model_copy(update={"answer": a}) for q, a in agreed])
        evolved = _PlainModel.trained(supervised + selected, method.evolve_steps.steps, f"{folder}/evolved")
        theirs_measured = [_share(model.answers(splits, test), [q.answer for q in test]) for model in (warm, evolved)]
        theirs = time.process_time() - started
    return [
        row(
            f"a whole run with {name}: 32 labelled, {rows} raw and {tests} test rows of FPB",
            seconds,
            "the same stages with TRL (LoRA r16, bf16) and four sampled passes of Hugging Face generate, batch 8",
            theirs,
            unit="CPU-s",
            n=tests,
            accuracy=accuracy,
            comparator_accuracy=theirs_measured[-1],
        )
        for name, seconds, accuracy in zip(voters, ours, measured, strict=True)
    ]


class _PlainModel:
    """A checkpoint as Hugging Face's own classes run it."""

    def __init__(self, checkpoint: str, module: Any = None) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side="left")
        self.module = AutoModelForCausalLM.from_pretrained(checkpoint) if module is None else module
        self.module.eval()

    @classmethod
    def trained(cls, examples: list[TrainingExample], steps: int, folder: str) -> _PlainModel:
        return cls(checkpoint_folder("embedded"), _trl_fine_tune(examples, steps, folder))

    def votes(self, splits: Splits, pool: list[Question]) -> list[tuple[str | None, ...]]:
        """Four sampled answers to each row; the official code's budget of tokens."""
        torch.manual_seed(0)
        said = [self.answers(splits, pool, do_sample=True, temperature=1.0, top_k=0) for _ in range(4)]
        return list(zip(*said, strict=True))

    def answers(self, splits: Splits, questions: list[Question], **sampling: Any) -> list[str | None]:
        found: list[str | None] = []
        for start in range(0, len(questions), 8):
            batch = questions[start : start + 8]
            prompts = [str(splits.task.prompt(q)) for q in batch]
            inputs = self.tokenizer(prompts, return_tensors="pt", padding=True)
            with torch.no_grad():
                outputs = self.module.generate(**inputs, max_new_tokens=1024, **(sampling or {"do_sample": False}))
            texts = self.tokenizer.batch_decode(outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            found += [splits.task.parse(text, q) for text, q in zip(texts, batch, strict=True)]
        return found


def _share(answers: list[str | None], gold: list[Any]) -> float:
    return sum(a == g for a, g in zip(answers, gold, strict=True)) / len(gold)


def choose(rows: int = 200) -> list[dict[str, Any]]:
    """ARC questions with their options as texts, in float32 on both sides."""
    from evolvent.evaluation.lm_eval_bridge import run_lm_eval, write_task

    task = ChoiceTask(style="words")
    file = SHARED / "arc" / "test.csv"
    questions = list(read_questions(file, labeled=True, skip_bad_rows=True))[:rows]
    model = load_local("embedded", dtype="float32")
    started = time.perf_counter()
    measured = evaluate(model, questions, task, normalization="sum").metrics["accuracy"]
    ours = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        write_task(questions, task, folder, name="arc_rows")
        settings = {"task_folder": folder, "dtype": "float32", "device": "cpu", "bootstrap_iters": 0}
        run_lm_eval("embedded", ["arc_rows"], limit=8, **settings)
        started = time.perf_counter()
        run_lm_eval("embedded", ["arc_rows"], limit=8, **settings)
        loading = time.perf_counter() - started
        started = time.perf_counter()
        found = run_lm_eval("embedded", ["arc_rows"], **settings)["arc_rows"]["acc"]
        theirs = time.perf_counter() - started - loading
    return [
        row(
            f"choose over {rows} ARC questions",
            ours * (rows - 8) / rows,
            "lm-evaluation-harness, Hugging Face backend, batch 8",
            theirs,
            n=rows,
            accuracy=measured,
            comparator_accuracy=found,
        )
    ]


def memory() -> list[dict[str, Any]]:
    """Peak resident memory of a process that fine-tunes with LoRA: ours, and TRL's SFTTrainer as it comes."""
    peaks = {name: _peak_of(name) for name in ("evolvent", "trl")}
    return [
        {
            "claim": "peak memory of LoRA fine-tuning",
            "value": peaks["evolvent"],
            "unit": "MB",
            "comparator": "TRL SFTTrainer, same rows, batch and LoRA",
            "comparator_value": peaks["trl"],
            "ratio": peaks["evolvent"] / peaks["trl"],
        }
    ]


def _peak_of(name: str) -> float:
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=_fine_tune_with, args=(name, folder))
        process.start()
        process.join()
        return float(json.loads((Path(folder) / "peak.json").read_text()))


def _fine_tune_with(name: str, folder: str) -> None:
    news = bbc(0)
    examples = supervised_examples(news.task, news.labeled)
    if name == "evolvent":
        fine_tune("embedded", examples, FineTuneConfig(steps=10, save_steps=1000), output_dir=Path(folder) / "run")
    else:
        _trl_fine_tune(examples, 10, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (Path(folder) / "peak.json").write_text(json.dumps(peak))


def _trl_fine_tune(examples: list[TrainingExample], steps: int, folder: str) -> Any:
    """The module after LoRA fine-tuning by TRL as it comes."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": str(e.prompt), "completion": e.completion} for e in examples]
    trainer = SFTTrainer(
        model=checkpoint_folder("embedded"),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        args=SFTConfig(
            output_dir=folder,
            max_steps=steps,
            learning_rate=5e-4,
            per_device_train_batch_size=8,
            bf16=True,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
        ),
    )
    trainer.train()
    return trainer.model


PARTS = {
    "training": training,
    "top-layers": top_layers,
    "labelling": labelling,
    "pipeline": pipeline,
    "choose": choose,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default all")
    torch.set_num_threads(1)
    for part in parser.parse_args().parts or PARTS:
        record("semievol", PARTS[part](), f"python -m benchmarks.semievol.speed {part}")


if __name__ == "__main__":
    main()
