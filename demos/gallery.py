"""Every model of a deployment behind one address: `python demos/gallery.py --url http://127.0.0.1:8000`."""

from __future__ import annotations

import argparse
from pathlib import Path

from heliostat.demo.launch import launch
from heliostat.serve.client import Client


def main() -> None:
    """Ask the deployment which models it has, and open a page with a tab for each."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--url", default="http://127.0.0.1:8000", help="where the models are served")
    options.add_argument("--host", default="127.0.0.1", help="where to listen; beyond loopback it needs a token")
    options.add_argument("--port", type=int, default=7860, help="the port of the page; 0 takes a free one")
    options.add_argument("--token-file", type=Path, help="a file with the deployment's token")
    chosen = options.parse_args()
    token = chosen.token_file.read_text(encoding="utf-8").strip() if chosen.token_file else None
    with Client(chosen.url, token=token) as client:
        names = client.models()
    launch(names, url=chosen.url, host=chosen.host, port=chosen.port, token_file=chosen.token_file)


if __name__ == "__main__":
    main()
