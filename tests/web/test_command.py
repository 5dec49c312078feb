"""sat-web refuses what it cannot serve."""

from __future__ import annotations

import socket

import pytest

from sat.commands.web import main


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--port", "99999"], "port is 99999: give a number from 0 to 65535"),
        (["--port", "-1"], "port is -1: give a number from 0 to 65535"),
        (["--max_upload_mb", "0"], "max_upload_mb is 0: give at least 1"),
        (
            ["--model", "nix"],
            "nix is not a checkpoint folder (no config.json and model.safetensors",
        ),
    ],
)
def test_wrong_flags_are_refused_before_the_page_is_served(
    tmp_path, monkeypatch, capsys, flags, told
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(flags)
    assert end.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {told}")


def test_port_that_is_taken_is_named_with_our_flag(monkeypatch, capsys):
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # set by the command, and removed after the test
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as end:
            main(["--port", str(port)])
    assert end.value.code == 1
    told = f"error: no page can be served at 127.0.0.1:{port}: choose another --port (0: any that"
    assert told in capsys.readouterr().err
