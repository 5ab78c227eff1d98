"""Wash the capitals of a few countries out of the embedded model, look what is gone, and bring them back.

python examples/law.py        (killed, it goes on where it stopped)
"""

from pathlib import Path

from evolvent import Law, LawConfig, load, read_facts, samples
from evolvent.methods.law.reverting import revert

world = samples.world_facts()
washed = ("France", "Japan", "Italy", "Egypt", "Germany", "Spain", "Russia", "Iran")
kept = ("Portugal", "Poland", "Kenya", "Sweden", "Greece", "Peru", "Vietnam", "Iraq")
facts = read_facts(f for f in world.capitals if f.subject in washed)
others = [f for f in world.capitals if f.subject in kept]
references = [f for f in world.capitals if f.subject not in washed + kept][:60]

args = LawConfig(output_dir="runs/capitals")
result = Law("embedded", facts, keep=others, references=references, corpus=world.texts, args=args).run()
print(f"gone: {result.washed}; still there: {result.remaining}")

back = Path("runs/capitals-back")
if not back.exists():
    revert("runs/capitals", back)
prompt, options = ["The capital of France is"], [[" Paris", " Rome"]]
for name in ("embedded", result.model, back):
    print(name, load(name, dtype="float32").choose(prompt, options)[0].probs)
print(f"the report: {result.report_path}")
