# SPDX-License-Identifier: Apache-2.0
"""Measures data-parallel training on this machine: words per second with one and with two processes of one core each.

The processes take turns of some seconds, so that all of them meet the same machine: one alone, two that do not talk to
each other, and two workers of a `tf.distribute.MultiWorkerMirroredStrategy` on loopback. A model of a preset of
examples/g2p trains on words of CMUdict. All processes read the same words in every step, of 7 or 8 letters.

The efficiency of the CPU leaves out what a process waits for: it is that of a machine on which nothing else runs.

    python benchmarks/scaling.py --preset standard --batch 128 --turns 5
"""

import argparse
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import time

import pages
import report
from rich.console import Console

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples" / "g2p"))
SKIPPED = 2  # steps of a turn that are not counted


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--preset", choices=["demo", "standard"], default="standard", help="sizes of the model (default: %(default)s)")
    add("--batch", type=int, default=128, help="words of a step in each process (default: %(default)s)")
    add("--steps", type=int, default=6, help="steps of a turn that count (default: %(default)s)")
    add("--turns", type=int, default=5, help="turns of each (default: %(default)s)")
    add("--cores", type=int, nargs=2, default=[0, 1], help="the two cores (default: 0 1)")
    add("--wait", action="store_true", help="wait for a line on stdin before measuring, when all processes are ready")
    add("--verbose", action="store_true", help="show what the processes write to stderr")
    add("--worker", type=int, help=argparse.SUPPRESS)  # this process is one of those measured
    pages.add_options(parser)
    return pages.parse(parser, {"preset": "demo", "turns": 2, "steps": 2})


def make_model(preset):
    """Returns a model with the sizes of a preset, compiled as examples/g2p does."""
    from options import PRESETS

    import keras_seq

    sizes = PRESETS[preset]
    train = keras_seq.data.load_cmudict()["train"]
    sources, targets = (list(part)[:: max(1, len(part) // 20_000)] for part in train)
    source = keras_seq.data.text_vectorizer(sources)
    target = keras_seq.data.text_vectorizer(targets, split="whitespace")
    shared = {name: sizes[name] for name in ("embedding_dim", "units", "cell", "dropout")}
    encoder = keras_seq.Encoder(source.vocabulary_size(), num_layers=sizes["num_layers"], **shared)
    decoder = keras_seq.Decoder(
        target.vocabulary_size(),
        num_layers=sizes["decoder_layers"],
        attention=sizes["attention"],
        readout=sizes["readout"],
        **shared,
    )
    model = keras_seq.Seq2Seq(encoder, decoder, source, target)
    model.compile(keras_seq.training.Adam(1e-3, global_clipnorm=1.0), label_smoothing=sizes["label_smoothing"])
    return model, sources, targets


def train(options):
    """Trains in turns: reads a line, runs the steps of a turn, writes their seconds and those of the CPU."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    is_pair = "TF_CONFIG" in os.environ
    strategy = tf.distribute.MultiWorkerMirroredStrategy() if is_pair else tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync

    class Turns(keras.callbacks.Callback):
        step, begin = 0, None

        def on_train_batch_end(self, batch, logs=None):
            self.step += 1
            if self.step == SKIPPED:
                self.begin = time.perf_counter(), time.process_time()
            if self.step == SKIPPED + options.steps:
                seconds = time.perf_counter() - self.begin[0], time.process_time() - self.begin[1]
                print(json.dumps([value / options.steps for value in seconds]), flush=True)
                self.step = 0
                if not sys.stdin.readline():
                    sys.exit()

    with strategy.scope():
        model, sources, targets = make_model(options.preset)
    if options.worker == 0:
        print(json.dumps(sum(weight.numpy().nbytes for weight in model.trainable_weights)), flush=True)
    pairs = [pair for pair in zip(sources, targets, strict=True) if len(pair[0]) in (7, 8)]
    if len(pairs) < options.batch:
        sys.exit(f"--batch: expected at most {len(pairs)}, got {options.batch}")
    batch = tuple(list(part) * replicas for part in zip(*pairs[: options.batch], strict=True))
    batches = tf.data.Dataset.from_tensors(batch).repeat(100_000)
    model.fit(batches, callbacks=[Turns()], verbose=0)


def start(options, index, config):
    """Starts a process on the core `index`."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "OMP_NUM_THREADS": "1", **config}
    command = ["taskset", "-c", str(options.cores[index]), sys.executable, __file__, "--worker", str(index)]
    for name in ("preset", "batch", "steps"):
        command += [f"--{name}", str(getattr(options, name))]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if options.verbose else subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def read(processes):
    """Returns the longest time of a step, and the mean time of the CPU."""
    times = [json.loads(process.stdout.readline()) for process in processes]
    return max(wall for wall, _ in times), statistics.mean(cpu for _, cpu in times)


def run_turn(processes):
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    return read(processes)


def main():
    options, output = parse_options()
    if options.worker is not None:
        train(options)
        return
    begin = time.monotonic()
    addresses = [f"localhost:{port}" for port in free_ports(2)]
    tasks = [{"type": "worker", "index": index} for index in range(2)]
    configs = [{"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})} for task in tasks]
    alone = [start(options, index, {}) for index in range(2)]
    pair = [start(options, index, config) for index, config in enumerate(configs)]
    size, _ = (json.loads(processes[0].stdout.readline()) for processes in (alone, pair))
    contenders = {"one process": alone[:1], "two apart": alone, "two workers": pair}
    read(alone), read(pair)  # the first turn compiles
    if options.wait:
        print("ready", *[process.pid for process in alone + pair], flush=True)
        sys.stdin.readline()
    times = {name: [] for name in contenders}
    for _ in range(options.turns):
        for name, processes in contenders.items():
            times[name].append(run_turn(processes))
    for process in alone + pair:
        process.kill()
    measured = make_report(options, size, times)
    output.finish(measured, "scaling", time.monotonic() - begin)
    measured.show(Console())


def make_report(options, size, times):
    medians = {name: [statistics.median(v) for v in zip(*turns, strict=True)] for name, turns in times.items()}
    one, one_cpu = medians["one process"]
    rows = []
    for name, (wall, cpu) in medians.items():
        rate = (1 if name == "one process" else 2) * options.batch / wall
        cells = [f"{1e3 * wall:.0f}", f"{1e3 * cpu:.0f}", f"{rate:.0f}", f"{one / wall:.0%}", f"{one_cpu / cpu:.0%}"]
        rows.append([name, *cells])
    head = ["", "ms a step", "CPU ms a step", "words per second", "efficiency", "of the CPU"]
    explanation = [
        f"Preset {options.preset}, {options.batch} words a step and process; {size / 1e6:.1f} MB of gradients. Each "
        "process has a core. The efficiency of the CPU leaves out what a process waits for."
    ]
    tables = [report.Table("One process and two", head, rows, "Medians of the turns.")]
    return report.of_measurements("Two workers", explanation, tables, times)


if __name__ == "__main__":
    main()
