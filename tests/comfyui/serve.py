"""`python -m tests.comfyui.serve FOLDER [--frontend]`: ComfyUI with this pack, until Ctrl-C, for a look at it."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
from pathlib import Path

from .install import ensure_comfyui, ensure_frontend
from .server import Server

LOG = logging.getLogger(__name__)


def main() -> int:
    """Serves from a folder that holds models, input and output, and is made where it is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="holds the server's models, input and output")
    parser.add_argument("--frontend", action="store_true", help="with ComfyUI's own pages")
    chosen = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    comfyui = ensure_comfyui()
    if chosen.frontend:
        ensure_frontend(comfyui)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the server is stopped too
    with Server(comfyui, chosen.folder.resolve(), frontend=chosen.frontend) as server:
        LOG.info("ComfyUI listens on %s and writes to %s", server.url, server.base / "server.log")
        with contextlib.suppress(KeyboardInterrupt):
            server.wait_for_end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
