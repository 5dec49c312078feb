"""Serve the page that captions images in the browser: sat-web"""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

from sat.checkpoints.atomic_folder import find_complete
from sat.cli import FlagParser, cli_errors
from sat.config.checks import check, check_paths
from sat.config.training import TrainConfig
from sat.hub import local_folder


def parse(arguments: list[str]) -> Any:
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
    check(0 <= flags.port < 2**16, "port", flags.port, "give a number from 0 to 65535")
    check(flags.max_upload_mb > 0, "max_upload_mb", flags.max_upload_mb, "give at least 1")
    check_paths(flags, ["model"])
    for model in flags.model:
        find_complete(local_folder(model))
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with tempfile.TemporaryDirectory(prefix="sat-web-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        try:
            from sat.web.page import LAUNCH, build_page
        except ImportError as error:
            raise ImportError(f"{error}: pip install 'sat-captioning[web]'") from None
        from sat.device import resolve_device

        page = build_page(flags.model, str(resolve_device(flags.device)))
        try:
            _, address, _ = page.launch(
                server_name=flags.host,
                server_port=flags.port or None,
                max_file_size=f"{flags.max_upload_mb}mb",
                prevent_thread_lock=True,
                **LAUNCH,
            )
        except OSError as error:  # gradio names its own settings
            remedy = "choose another --port (0: any that is free) or --host"
            where = f"{flags.host}:{flags.port}"
            raise OSError(f"no page can be served at {where}: {remedy}") from error
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
        page.block_thread()
