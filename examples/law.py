"""Wash the capitals of a few countries out of the embedded model, look what is gone, and bring them back.

python examples/law.py        (killed, it goes on where it stopped)
"""

from pathlib import Path

from evolvent import Law, LawConfig, Sampling, load, read_facts, samples
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
asked = [f"The capital of {name} is" for name in ("France", "Japan", "Sweden")]
for name in ("embedded", result.model, back):
    said = load(name, dtype="float32").generate(asked, Sampling(max_tokens=4))
    print(f"{name}:", *(one.text.strip() for (one,) in said), sep="\n  ")
print(f"the report: {result.report_path}")
