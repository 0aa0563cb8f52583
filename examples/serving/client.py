# SPDX-License-Identifier: Apache-2.0
"""Sends texts to server.py and prints what it answers. Needs Python alone."""

import argparse
import json
import urllib.error
import urllib.request


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="address of the server (default: %(default)s)")
    parser.add_argument("text", nargs="+", help="sources, for example words")
    options = parser.parse_args()
    body = json.dumps({"inputs": options.text}).encode()
    try:
        with urllib.request.urlopen(f"{options.url}/generate", body, timeout=60) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise SystemExit(f"client.py: {error.code}: {json.load(error)['error']}") from None
    except OSError as error:
        raise SystemExit(f"client.py: no answer from {options.url}: {error}") from None
    for text, output, score in zip(options.text, answer["text"], answer["log_probabilities"], strict=True):
        print(f"{text} → {output}   (log probability {score:.2f})")


if __name__ == "__main__":
    main()
