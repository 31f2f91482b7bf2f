"""Prints what tensorboard's own reader finds in a folder of event files, one JSON object.

    python scripts/golden/read_events.py FOLDER

{tag: [[wall time, step, value], ...]}. Several files of one folder are one run, as TensorBoard shows them.
Requires: requirements.txt beside this file (tensorboard).
"""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main(folder):
    run = EventAccumulator(folder, size_guidance={"scalars": 0})
    run.Reload()
    tags = run.Tags()["scalars"]
    print(json.dumps({tag: [[e.wall_time, e.step, e.value] for e in run.Scalars(tag)] for tag in sorted(tags)}))


if __name__ == "__main__":
    main(sys.argv[1])
