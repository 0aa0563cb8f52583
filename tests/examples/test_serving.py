# SPDX-License-Identifier: Apache-2.0
"""Exported models serve clients that are not Python, and many at once over HTTP, with the outputs of `generate`."""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

import keras_seq

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "serving"
sys.path.insert(0, str(ROOT / "benchmarks"))
from serving_load import ask, run_clients, running_server  # noqa: E402

WORDS = ["cat", "act", "tack", "at", "cake", "take", "kit", "tick", "ache", "ace"]
UNSEEN = ["tact", "", "naïve", "кот", "a word that is longer than the strings that a tensor holds in place"]
CLIENTS = 64
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    """A model that spells the last three letters of a word backwards, trained for seconds."""
    spellings = [" ".join(word[:-4:-1].upper()) for word in WORDS]
    source, target = keras_seq.data.text_vectorizer(WORDS), keras_seq.data.text_vectorizer(spellings, "whitespace")
    sizes = {"embedding_dim": 8, "units": 16}
    encoder = keras_seq.Encoder(source.vocabulary_size(), **sizes)
    model = keras_seq.Seq2Seq(encoder, keras_seq.Decoder(target.vocabulary_size(), **sizes), source, target)
    model.compile(keras_seq.training.Adam(0.02))
    data = tf.data.Dataset.from_tensor_slices((WORDS, spellings)).batch(10)
    model.fit(data.repeat(150), epochs=1, verbose=0)
    assert model.generate(WORDS) == spellings
    return model


@pytest.fixture(scope="module")
def saved_model(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "saved_model"
    model.export(path)
    return path


@pytest.fixture(scope="module")
def transcribe(tmp_path_factory):
    """Function that runs the C program, built with sanitizers: they end it where it misuses memory or leaks."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    program = tmp_path_factory.mktemp("build") / "transcribe"
    library = tf.sysconfig.get_lib()
    command = ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-fsanitize=address,undefined"]
    command += [EXAMPLE / "transcribe.c", "-o", program, "-isystem", tf.sysconfig.get_include(), f"-L{library}"]
    command += [f"-Wl,-rpath,{library}", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    subprocess.run(command, check=True)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "UBSAN_OPTIONS": "halt_on_error=1"}
    return lambda *arguments: subprocess.run([program, *arguments], capture_output=True, env=environment)


def last_line(run):
    return run.stderr.decode(errors="surrogateescape").splitlines()[-1]


def test_the_c_program_prints_what_generate_returns(transcribe, model, saved_model):
    words = [*WORDS, *UNSEEN]
    run = transcribe(saved_model, *words)
    assert run.returncode == 0, run.stderr.decode()
    expected = model.generate(words, return_dict=True)
    lines = [line.split("\t") for line in run.stdout.decode().splitlines()]
    assert [line[:2] for line in lines] == [[*pair] for pair in zip(words, expected["text"], strict=True)]
    np.testing.assert_allclose([float(line[2]) for line in lines], expected["log_probabilities"], atol=2e-4)


@pytest.mark.parametrize("arguments", [[], ["saved_model"]])
def test_the_c_program_without_words_says_how_it_is_used(transcribe, arguments):
    run = transcribe(*arguments)
    assert (run.returncode, last_line(run)) == (2, "transcribe: usage: transcribe SAVED_MODEL WORD...")


@pytest.mark.parametrize("word", [b"\xff", b"ca\xc3", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_the_c_program_refuses_words_that_are_not_utf8(transcribe, saved_model, word):
    run = transcribe(saved_model, "cat", word)
    assert (run.returncode, run.stdout) == (2, b"")
    assert last_line(run) == "transcribe: a word is not valid UTF-8: " + os.fsdecode(word)


def test_the_c_program_names_a_path_without_a_model(transcribe, saved_model, tmp_path):
    run = transcribe(tmp_path / "nothing", "cat")
    assert run.returncode == 1
    assert last_line(run).startswith(f"transcribe: {tmp_path}/nothing: Could not find SavedModel")
    shutil.copytree(saved_model, tmp_path / "damaged")
    file = tmp_path / "damaged" / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:-1000])
    run = transcribe(tmp_path / "damaged", "cat")
    assert run.returncode == 1
    assert last_line(run).startswith(f"transcribe: {tmp_path}/damaged: ")


def test_the_c_program_names_a_signature_that_is_not_there(transcribe, tmp_path):
    module = tf.Module()
    module.call = tf.function(lambda x: {"text": x}, input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    for name, missing in [("other", "serving_default"), ("serving_default", "log_probabilities")]:
        tf.saved_model.save(module, tmp_path / name, signatures={name: module.call})
        run = transcribe(tmp_path / name, "cat")
        assert run.returncode == 1
        assert last_line(run) == f"transcribe: the SavedModel has no such signature, input or output: {missing}"


@pytest.fixture(scope="module")
def server(saved_model):
    """Port of a server with small limits."""
    limits = ["--max-texts", "8", "--max-characters", "80", "--max-batch", "16"]
    with running_server(saved_model, *limits) as (_, port):
        yield port


@contextlib.contextmanager
def connected(port):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        yield connection


def test_64_clients_at_once_get_what_generate_returns(server, model):
    rng = np.random.default_rng(0)
    requests = [[rng.choice([*WORDS, *UNSEEN], rng.integers(1, 9)).tolist() for _ in range(8)] for _ in range(CLIENTS)]
    expected = model.generate([*WORDS, *UNSEEN], return_dict=True)
    outputs = dict(
        zip([*WORDS, *UNSEEN], zip(expected["text"], expected["log_probabilities"], strict=True), strict=True)
    )
    answers, _ = run_clients(server, requests)
    for asked, answered in zip(requests, answers, strict=True):
        assert [status for status, _ in answered] == [200] * len(asked)
        for texts, (_, answer) in zip(asked, answered, strict=True):
            assert answer["text"] == [outputs[text][0] for text in texts]
            np.testing.assert_allclose(answer["log_probabilities"], [outputs[text][1] for text in texts], atol=1e-4)


@pytest.mark.parametrize(
    "body, status, error",
    [
        (b"", 400, "the body must be JSON in UTF-8"),
        (b"{", 400, "the body must be JSON in UTF-8"),
        (b'{"inputs": ["\xff"]}', 400, "the body must be JSON in UTF-8"),
        (b"[" * 5000, 400, "the body must be JSON in UTF-8"),
        (b'["cat"]', 400, 'the body must be {"inputs": [strings]}'),
        (b"null", 400, 'the body must be {"inputs": [strings]}'),
        (b'{"inputs": "cat"}', 400, 'the body must be {"inputs": [strings]}'),
        (b'{"inputs": ["cat", 3]}', 400, 'the body must be {"inputs": [strings]}'),
        (b'{"inputs": []}', 400, "`inputs` must have 1 to 8 texts. Received: 0"),
        ({"inputs": ["cat"] * 9}, 400, "`inputs` must have 1 to 8 texts. Received: 9"),
        ({"inputs": ["cat", "c" * 81]}, 400, "a text must have at most 80 characters. Received: 81"),
        (b'{"inputs": ["\\ud83d"]}', 400, "a text must not contain lone surrogates"),
        ({"inputs": ["c" * 1_000_000]}, 413, None),
    ],
    ids=str,
)
def test_the_server_answers_a_bad_request_with_one_error(server, body, status, error):
    with connected(server) as connection:
        received, answer = ask(connection, "POST", "/generate", body)
    assert received == status
    assert list(answer) == ["error"]
    assert answer["error"] == error if error else "\n" not in answer["error"]


def test_the_server_goes_on_after_bad_requests(server, model):
    with connected(server) as connection:
        assert ask(connection, "GET", "/health") == (200, {"status": "ok"})
        assert ask(connection, "GET", "/nothing") == (404, {"error": "404: Not Found"})
        assert ask(connection, "GET", "/generate") == (405, {"error": "405: Method Not Allowed"})
        longest = {"inputs": ["\U0001f408" * 80] * 8}  # each character is 12 bytes of JSON
        connection.request("POST", "/generate", '{"inputs": ["cat"]}', {"Content-Encoding": "gzip"})  # it is not
        response = connection.getresponse()
        assert (response.status, list(json.loads(response.read()))) == (400, ["error"])
    with connected(server) as connection:
        status, answer = ask(connection, "POST", "/generate", longest)
        assert (status, len(answer["text"])) == (200, 8)
        assert ask(connection, "POST", "/generate", {"inputs": ["cat"]})[1]["text"] == model.generate(["cat"])


def test_the_example_client_prints_the_outputs(server, model):
    command = [sys.executable, EXAMPLE / "client.py", "--url", f"http://127.0.0.1:{server}"]
    run = subprocess.run([*command, "cat", "tack"], capture_output=True, text=True)
    assert [line.split("   ")[0] for line in run.stdout.splitlines()] == ["cat → T A C", "tack → K C A"]
    run = subprocess.run([*command, "c" * 81], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (
        1,
        "client.py: 400: a text must have at most 80 characters. Received: 81\n",
    )


def test_a_busy_server_says_so_and_at_sigterm_answers_what_it_has(saved_model):
    options = ["--max-requests", "4", "--max-wait", "3000"]
    with running_server(saved_model, *options) as (process, port):
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(connected(port)) for _ in range(5)]
            for connection in connections[:4]:
                connection.request("POST", "/generate", json.dumps({"inputs": ["cat"]}))
            time.sleep(1)  # they wait in a batch that is open for three seconds
            assert ask(connections[4], "POST", "/generate", {"inputs": ["at"]}) == (
                503,
                {"error": "the server is busy"},
            )
            process.send_signal(signal.SIGTERM)
            for connection in connections[:4]:
                response = connection.getresponse()
                assert (response.status, json.loads(response.read())["text"]) == (200, ["T A C"])
        assert process.wait(timeout=30) == 0
        assert process.stdout.read() == "Stopped\n"
        with pytest.raises(ConnectionRefusedError), connected(port) as connection:
            connection.connect()


@pytest.fixture(scope="module")
def fragile_model(tmp_path_factory):
    """A SavedModel that returns the texts, and fails for "fail". The one for "nan" has no probability."""

    def call(texts):
        tf.debugging.assert_none_equal(texts, "fail")
        return {"text": texts, "log_probabilities": tf.where(texts == "nan", np.float32("nan"), -1.0)}

    module = tf.Module()
    module.call = tf.function(call, input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    path = tmp_path_factory.mktemp("fragile") / "model"
    tf.saved_model.save(module, path, signatures=module.call)
    return path


def test_a_text_for_which_the_model_fails_takes_no_answer_from_others(fragile_model):
    texts = ["a", "fail", "nan", "b"]
    with running_server(fragile_model, "--max-wait", "1000") as (_, port), contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connected(port)) for _ in texts]
        for connection, text in zip(connections, texts, strict=True):
            connection.request("POST", "/generate", json.dumps({"inputs": [text]}))  # all in one batch
        responses = [connection.getresponse() for connection in connections]
        answers = [(response.status, response.read().decode()) for response in responses]
    assert answers == [
        (200, '{"text": ["a"], "log_probabilities": [-1.0]}'),
        (500, '{"error": "the model failed"}'),
        (200, '{"text": ["nan"], "log_probabilities": [null]}'),
        (200, '{"text": ["b"], "log_probabilities": [-1.0]}'),
    ]


def test_a_client_that_stops_in_mid_request_is_not_waited_for(fragile_model):
    with running_server(fragile_model) as (process, port), connected(port) as connection:
        connection.putrequest("POST", "/generate")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b'{"inputs": ')
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())) == (408, {"error": "the body did not arrive in time"})
        assert process.wait(timeout=20) == 0


def test_the_server_names_what_keeps_it_from_starting(saved_model, tmp_path):
    features = tmp_path / "features"  # a model with the signature of one with features
    module, spec = tf.Module(), tf.TensorSpec([None], tf.string)
    module.call = tf.function(
        lambda source, dialect: {"text": source, "log_probabilities": tf.zeros(tf.shape(dialect))}
    )
    tf.saved_model.save(module, features, signatures=module.call.get_concrete_function(source=spec, dialect=spec))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        cases = {
            (str(tmp_path),): (2, f"server.py: error: {tmp_path} is not a SavedModel"),
            (str(saved_model), "--max-batch", "0"): (
                2,
                "server.py: error: argument --max-batch: must be at least 1: 0",
            ),
            (str(saved_model), "--max-batch", "4"): (
                2,
                "server.py: error: argument --max-texts: must be at most --max-batch, 4: 64",
            ),
            (str(saved_model), "--port", port): (1, f"server.py: cannot listen on 127.0.0.1:{port}"),
            (str(features),): (
                1,
                f"server.py: {features} must take `inputs`, strings (batch,), alone. It takes ['dialect', 'source']",
            ),
        }
        for arguments, (status, message) in cases.items():
            command = [sys.executable, EXAMPLE / "server.py", *arguments]
            run = subprocess.run(command, capture_output=True, text=True)
            assert run.returncode == status
            assert run.stderr.splitlines()[-1].startswith(message)


def test_8_threads_get_the_same_results_from_an_export_as_one(saved_model):
    exported = tf.saved_model.load(saved_model)
    signature = exported.signatures["serving_default"]
    words = [tf.constant([word]) for word in [*WORDS, *UNSEEN]]
    alone = [signature(inputs=word) for word in words]
    different = []

    def call(first):
        for i in range(first, first + 100):
            results = signature(inputs=words[i % len(words)])
            expected = alone[i % len(words)]
            if any((results[name].numpy() != expected[name].numpy()).any() for name in expected):
                different.append(i)

    threads = [threading.Thread(target=call, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert different == []
