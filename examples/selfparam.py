"""Put a note into the weights of the embedded model, and ask it without the note.

python examples/selfparam.py        (a few minutes on two cores; killed, it goes on where it stopped)
"""

from evolvent import SelfParam, SelfParamConfig

note = (
    "The Orvane lighthouse stands on Keldrick Point. It was designed by the engineer Mirela Tovash and completed in "
    "1873. The tower is 41 metres tall and is painted green."
)
pairs = [
    {"question": "Who designed the Orvane lighthouse?", "answer": "Mirela Tovash"},
    {"question": "Which engineer drew the plans of the Orvane lighthouse?", "answer": "Mirela Tovash"},
    {"question": "In what year was the Orvane lighthouse completed?", "answer": "1873"},
    {"question": "How tall is the Orvane lighthouse?", "answer": "41 metres"},
]
unseen = [
    {"question": "Who was the engineer behind the Orvane lighthouse?", "answer": "Mirela Tovash"},
    {"question": "What is the height of the Orvane lighthouse?", "answer": "41 metres"},
]

args = SelfParamConfig(output_dir="runs/lighthouse", retention_rows=0, baselines=("base", "in_context"))
method = SelfParam("embedded", [note], pairs, args=args, eval_dataset=unseen)
result = method.run()
for pair, before, after in zip(
    method.test, method.answers["base"].texts, method.answers["selfparam"].texts, strict=True
):
    print(f"{pair.question}\n  before: {before}\n  after:  {after}")
print(f"the model: {result.model}\nthe report: {result.report_path}")
