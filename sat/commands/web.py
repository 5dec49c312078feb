"""Serve the page that captions images in the browser: sat-web"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

from sat.cli import FlagParser, cli_errors
from sat.config.training import TrainConfig


def parse(arguments: list[str]) -> Any:
    """The flags."""
    parser = FlagParser(description=__doc__)
    flag = parser.add_argument
    names = ("--model", "-m")
    flag(*names, type=str, nargs="*", default=[], help="checkpoint folders; ours if none")
    flag("--host", type=str, default="127.0.0.1", help="0.0.0.0 lets other machines in")
    flag("--port", type=int, default=7860, help="0: any that is free")
    flag("--max_upload_mb", type=int, default=20, help="of one image")
    flag("--device", type=str, default=TrainConfig.device, help="auto, cpu, cuda")
    return parser.parse_args(arguments)


@cli_errors()
def main(arguments: list[str] | None = None) -> None:
    """Serve until Ctrl-C; the folder of uploads is deleted then."""
    flags = parse(sys.argv[1:] if arguments is None else arguments)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with tempfile.TemporaryDirectory(prefix="sat-web-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        try:
            from sat.web.page import LAUNCH, build_page
        except ImportError as error:
            raise ImportError(f"{error}: pip install 'sat-captioning[web]'") from None
        from sat.device import resolve_device

        page = build_page(flags.model, str(resolve_device(flags.device)))
        _, address, _ = page.launch(
            server_name=flags.host,
            server_port=flags.port or None,
            max_file_size=f"{flags.max_upload_mb}mb",
            prevent_thread_lock=True,
            **LAUNCH,
        )
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
        page.block_thread()
