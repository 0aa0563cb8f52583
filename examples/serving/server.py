# SPDX-License-Identifier: Apache-2.0
"""Serves a model that `Seq2Seq.export` wrote over HTTP, with TensorFlow and aiohttp alone.

Requests that come at the same time are decoded together. See README.md in this folder.
"""

import argparse
import asyncio
import json
import logging
import math
import os
import pathlib
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp import web

MAX_BYTES_OF_CHARACTER = 12  # in JSON, as two escaped surrogates
MAX_SECONDS_OF_BODY = 10  # or a client that stops in mid-request would be waited for at the end


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("saved_model", type=pathlib.Path, help="folder written by `Seq2Seq.export`")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=8000, help="port to listen on; 0 for any (default: %(default)s)")
    add("--max-batch", type=_positive, default=64, help="texts to decode at once (default: %(default)s)")
    add("--max-wait", type=float, default=2.0, metavar="MS", help="how long a batch is open (default: %(default)s)")
    add("--max-texts", type=_positive, default=64, help="texts of a request (default: %(default)s)")
    add("--max-characters", type=_positive, default=200, help="characters of a text (default: %(default)s)")
    add("--max-requests", type=_positive, default=256, help="requests in work at a time (default: %(default)s)")
    options = parser.parse_args()
    if not (options.saved_model / "saved_model.pb").is_file():
        parser.error(f"{options.saved_model} is not a SavedModel")
    if options.max_texts > options.max_batch:
        parser.error(f"argument --max-texts: must be at most --max-batch, {options.max_batch}: {options.max_texts}")
    if options.max_wait < 0:
        parser.error(f"argument --max-wait: must not be negative: {options.max_wait}")
    return options


def _positive(text):
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1: {value}")
    return value


def load_model(options):
    """Returns a function from a list of texts to outputs and log-probabilities, for many threads at once.

    TensorFlow puts the texts of concurrent calls into one batch. A batch is decoded when it is full, or after
    `max_wait` milliseconds, as soon as the batch before it is done.
    """
    import tensorflow as tf

    model = tf.saved_model.load(options.saved_model)  # a signature alone does not keep its variables
    signature = model.signatures.get("serving_default")
    if signature is None or not {"text", "log_probabilities"} <= set(signature.structured_outputs):
        raise SystemExit(f"server.py: {options.saved_model} has no signature that returns texts")
    inputs = signature.structured_input_signature[1]
    if inputs != {"inputs": tf.TensorSpec([None], tf.string, "inputs")}:
        raise SystemExit(
            f"server.py: {options.saved_model} must take `inputs`, strings (batch,), alone. It takes {sorted(inputs)}"
        )

    @tf.nondifferentiable_batch_function(
        num_batch_threads=1,
        max_batch_size=options.max_batch,
        batch_timeout_micros=round(1000 * options.max_wait),
        max_enqueued_batches=options.max_requests * options.max_texts,  # requests are counted before they come here
        autograph=False,
    )
    def decode_batch(texts):
        results = signature(inputs=texts)
        return results["text"], results["log_probabilities"]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def decode(texts):
        return decode_batch(texts)

    def generate(texts):
        texts = tf.constant(texts)
        try:
            outputs, log_probabilities = decode(texts)
        except tf.errors.InvalidArgumentError:  # maybe of the texts of another request, so once more without those
            results = signature(inputs=texts)
            outputs, log_probabilities = results["text"], results["log_probabilities"]
        # A model that copies tokens of its source may cut them anywhere.
        outputs = [text.decode(errors="replace") for text in outputs.numpy()]
        # JSON has no infinities, and no NaN, which a model gives whose training has diverged.
        return outputs, [x if math.isfinite(x) else None for x in log_probabilities.numpy().tolist()]

    generate(["a"])  # the first call optimizes the graph, before requests wait for it
    return generate


class Server:
    """The handlers of the requests.

    Args:
        generate: function of `load_model`.
        options: options of the program.
    """

    def __init__(self, generate, options):
        self._generate = generate
        self._options = options
        self._requests = 0
        self._threads = ThreadPoolExecutor(options.max_requests)  # a request waits on a thread for its batch

    def application(self):
        """Returns the aiohttp application."""
        max_size = 1000 + self._options.max_texts * (self._options.max_characters * MAX_BYTES_OF_CHARACTER + 10)
        application = web.Application(middlewares=[errors_as_json], client_max_size=max_size)
        application.add_routes([web.get("/health", self.health), web.post("/generate", self.generate)])
        return application

    async def health(self, request):
        return web.json_response({"status": "ok"})

    async def generate(self, request):
        try:
            async with asyncio.timeout(MAX_SECONDS_OF_BODY):
                body = await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout(text="the body did not arrive in time") from None
        except web.RequestPayloadError:
            raise web.HTTPBadRequest(text="the body must be in the encodings that its headers name") from None
        texts = self._parse(body)
        if self._requests == self._options.max_requests:
            raise web.HTTPServiceUnavailable(text="the server is busy", headers={"Retry-After": "1"})
        self._requests += 1
        try:
            loop = asyncio.get_running_loop()
            outputs, log_probabilities = await loop.run_in_executor(self._threads, self._generate, texts)
        except Exception:
            logging.exception("the model failed")
            raise web.HTTPInternalServerError(text="the model failed") from None
        finally:
            self._requests -= 1
        return web.json_response({"text": outputs, "log_probabilities": log_probabilities})

    def _parse(self, body):
        """Returns the texts of a request, UTF-8 bytes, or raises an error with status 400."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
            raise web.HTTPBadRequest(text="the body must be JSON in UTF-8") from None
        inputs = content.get("inputs") if isinstance(content, dict) else None
        if not isinstance(inputs, list) or not all(isinstance(text, str) for text in inputs):
            raise web.HTTPBadRequest(text='the body must be {"inputs": [strings]}')
        limit = self._options.max_texts
        if not 1 <= len(inputs) <= limit:
            raise web.HTTPBadRequest(text=f"`inputs` must have 1 to {limit} texts. Received: {len(inputs)}")
        limit, longest = self._options.max_characters, max(map(len, inputs))
        if longest > limit:
            raise web.HTTPBadRequest(text=f"a text must have at most {limit} characters. Received: {longest}")
        try:
            return [text.encode() for text in inputs]
        except UnicodeEncodeError:  # JSON can escape half a character
            raise web.HTTPBadRequest(text="a text must not contain lone surrogates") from None


@web.middleware
async def errors_as_json(request, handler):
    """Answers every error with `{"error": message}`, those of aiohttp as well."""
    try:
        return await handler(request)
    except web.HTTPError as error:
        headers = {name: error.headers[name] for name in ("Allow", "Retry-After") if name in error.headers}
        return web.json_response({"error": error.text}, status=error.status, headers=headers)


def main():
    options = parse_arguments()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # errors only
    server = Server(load_model(options), options)
    try:
        listener = socket.create_server((options.host, options.port))
    except OSError as error:
        raise SystemExit(f"server.py: cannot listen on {options.host}:{options.port}: {error.strerror}") from None
    print(f"Serving {options.saved_model} on http://{options.host}:{listener.getsockname()[1]}", flush=True)
    # At SIGTERM or Ctrl-C it stops to accept requests, and answers those that it has.
    web.run_app(server.application(), sock=listener, print=None, shutdown_timeout=30)
    print("Stopped", flush=True)


if __name__ == "__main__":
    main()
