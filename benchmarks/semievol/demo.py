"""Record what `make demo` found: python -m benchmarks.semievol.demo runs/demo"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.results_file import record

VARIANTS = ("zero-shot", "few-shot", "sft", "sft-same-compute")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="run folder of the demo")
    metrics = json.loads((parser.parse_args().folder / "metrics.json").read_text())
    rows = [
        {
            "claim": f"demo: SemiEvol minus {name}, test accuracy",
            "value": 100 * metrics[f"gain/test/semievol-vs-{name}"],
            "unit": "points",
            "comparator": name,
            "comparator_value": 100 * metrics[f"accuracy/test/{name}"],
            "comparator_ci95": [100 * x for x in metrics[f"accuracy/test/{name}/ci95"]],
            "ci95": [100 * x for x in metrics[f"gain/test/semievol-vs-{name}/ci95"]],
            "p_value": metrics[f"p_value/test/semievol-vs-{name}"],
            "n": metrics["rows/test"],
            "seeds": [0],
        }
        for name in VARIANTS
    ]
    final = {"claim": "demo: SemiEvol test accuracy", "value": 100 * metrics["accuracy/test/semievol"], "unit": "%"}
    interval = [100 * x for x in metrics["accuracy/test/semievol/ci95"]]
    rows.append({**final, "ci95": interval, "n": metrics["rows/test"], "seeds": [0]})
    record("semievol", rows, "make demo, then python -m benchmarks.semievol.demo runs/demo")


if __name__ == "__main__":
    main()
