"""A small event file, written with tensorboard's own protobuf messages and record framing.

    python scripts/golden/events_golden.py crates/tamis/tests/golden/events.tfevents

The Rust test writes the same scalars and compares bytes. No clock is read: two runs give the same bytes.
Requires: requirements.txt beside this file (tensorboard).
"""

import sys

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

START = 1_700_000_000.5
SCALARS = [("train/loss", 0, 4.25), ("train/loss", 1, 3.5), ("valid/wikitext2", 300, 31.0), ("train/loss", 70_000, -0.0)]


def main(path):
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=START, file_version="brain.Event:2").SerializeToString())
        for index, (tag, step, value) in enumerate(SCALARS):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            event = Event(wall_time=START + 0.25 * (index + 1), step=step, summary=summary)
            writer.write(event.SerializeToString())


if __name__ == "__main__":
    main(sys.argv[1])
