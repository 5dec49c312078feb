"""Signals that stop a command."""

from __future__ import annotations

import signal
import time

import pytest

from sat.cli import cli_errors
from sat.stop_signals import STOP_SIGNALS, Stopped, defer_stop, note_stops, stop_signals


@pytest.fixture(autouse=True)
def _default_signals():
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_stop_signal_ends_a_command_with_128_and_its_number(number):
    with pytest.raises(SystemExit) as end, cli_errors():
        signal.raise_signal(number)
    assert end.value.code == 128 + number
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_stop_that_arrives_in_a_destructor_ends_a_command_too(number, capsys):
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def wait() -> None:
        dying = Dying()
        del dying
        for _ in range(6000):
            time.sleep(0.01)

    with pytest.raises(SystemExit) as end, cli_errors():
        wait()
    assert end.value.code == 128 + number
    assert "Traceback" not in capsys.readouterr().err


def test_error_that_c_code_makes_of_a_stop_ends_a_command_as_the_stop_does(capsys):
    def write() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Stopped as stop:
            raise TypeError("Operation not defined for data type class") from stop

    with pytest.raises(SystemExit) as end, cli_errors():
        write()
    assert end.value.code == 128 + signal.SIGTERM
    assert "interrupted" in capsys.readouterr().err


def test_error_of_a_file_after_a_stop_is_said(capsys):
    def save() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except Stopped:
            raise OSError(28, "No space left on device", "last") from None

    with pytest.raises(SystemExit) as end, cli_errors():
        save()
    assert end.value.code == 1
    assert "No space left on device" in capsys.readouterr().err


def test_stop_signals_that_are_ignored_stay_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with stop_signals():
        signal.raise_signal(signal.SIGHUP)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_defer_stop_finishes_the_block_before_it_stops(number):
    done = []

    def step() -> None:
        with stop_signals(), defer_stop():
            signal.raise_signal(number)
            done.append("step")

    with pytest.raises(Stopped) as stopped:
        step()
    assert done == ["step"]
    assert stopped.value.number == number


def test_defer_stop_of_a_second_signal_ends_at_once():
    done = []

    def step() -> None:
        with stop_signals(), defer_stop():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            done.append("step")

    with pytest.raises(Stopped):
        step()
    assert done == []


def test_note_stops_raises_nothing_within_a_step_either():
    arrived: list[int] = []
    with stop_signals(), note_stops(arrived):
        signal.raise_signal(signal.SIGTERM)
        with defer_stop():
            signal.raise_signal(signal.SIGINT)
            assert arrived == [signal.SIGTERM]
            signal.raise_signal(signal.SIGTERM)
        assert arrived == [signal.SIGTERM, signal.SIGTERM, signal.SIGINT]
    with pytest.raises(Stopped), stop_signals():
        signal.raise_signal(signal.SIGTERM)
