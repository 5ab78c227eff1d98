"""Fine-tune the embedded model on 20 labelled and 800 unlabelled headlines, and look at what changed.

python examples/semievol.py        (about ten minutes on two cores; killed, it goes on where it stopped)
"""

from evolvent import SemiEvol, SemiEvolConfig, compare, evaluate, load, samples

news = samples.bbc_news(labeled=20, unlabeled=800, test=400, seed=0)
args = SemiEvolConfig(output_dir="runs/news", peft="top_layers", control=False)
result = SemiEvol("embedded", news.labeled, news.unlabeled, task=news.task, args=args).run()

before = evaluate(load("embedded"), news.test, news.task)
after = evaluate(result.load(), news.test, news.task)
change = compare(before, after)
print(f"{before.metrics['accuracy']:.1%} -> {after.metrics['accuracy']:.1%}, p = {change.p_value:.2g}")
print(f"the model: {result.model}\nthe report: {result.report_path}")
