"""Bars that are seen at a terminal only."""

from __future__ import annotations

import io

from sat.data.progress import print_above, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_is_shown_at_a_terminal_and_never_fills_a_file():
    for stream, shown in ((Terminal(), True), (io.StringIO(), False)):
        assert list(progress_bar("abc", file=stream, desc="letters")) == ["a", "b", "c"]
        assert ("letters: 100%" in stream.getvalue()) == shown
    hidden = Terminal()
    bar = progress_bar("abc", file=hidden, disable=True)
    bar.set_postfix({"loss": 1.0}, refresh=False)
    assert (list(bar), hidden.getvalue()) == (["a", "b", "c"], "")


def test_print_above_writes_a_line_to_stdout(capsys):
    print_above("a caption")
    assert capsys.readouterr().out == "a caption\n"
