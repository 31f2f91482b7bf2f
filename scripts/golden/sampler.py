"""Golden distributions for crates/tamis/src/run/sampler.rs.

Runs the logits processors of Hugging Face transformers, in the order of its `generate`, on one
row of logits, and writes what is left and with which probability, most likely first.

    pip install torch transformers
    python scripts/golden/sampler.py > crates/tamis/tests/golden/sampler.json
"""

import itertools
import json

import torch
import transformers
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

VOCAB = 48
SEEN = [3, 17, 17, 40, 5]


def processors(temperature, top_k, top_p, min_p, penalty):
    steps = LogitsProcessorList()
    if penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(penalty))
    steps.append(TemperatureLogitsWarper(temperature))
    if top_k:
        steps.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        steps.append(TopPLogitsWarper(top_p))
    if min_p > 0.0:
        steps.append(MinPLogitsWarper(min_p))
    return steps


def main():
    torch.manual_seed(11)
    # Four decimals, so that the JSON holds the very numbers that the processors saw.
    logits = (torch.randn(1, VOCAB, dtype=torch.float64) * 3).mul(1e4).round().div(1e4).float()
    seen = torch.tensor([SEEN])
    cases = []
    grid = itertools.product([0.7, 1.0, 1.6], [0, 6], [1.0, 0.9, 0.4], [0.0, 0.08], [1.0, 1.3])
    for index, (temperature, top_k, top_p, min_p, penalty) in enumerate(grid):
        if index % 2 and index % 5:
            continue
        scores = processors(temperature, top_k, top_p, min_p, penalty)(seen, logits.clone())[0]
        probabilities = torch.softmax(scores.double(), -1)
        order = sorted(torch.nonzero(scores > float("-inf")).flatten().tolist(), key=lambda t: -probabilities[t])
        cases.append(
            {
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "min_p": min_p,
                "repetition_penalty": penalty,
                "tokens": order,
                "probabilities": [round(probabilities[t].item(), 8) for t in order],
            }
        )
    made = f"scripts/golden/sampler.py, transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
    head = {"made_by": made, "logits": [round(x, 4) for x in logits[0].tolist()], "seen": SEEN}
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    print(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}")


main()
