"""The library's logger costs nothing while nobody listens, and is an ordinary one for who does."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from ee_runner.logs import log


def test_debug_lines_that_nobody_hears_load_nothing() -> None:
    code = "import sys; from ee_runner.logs import log; log.debug('unheard'); print('logging' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_a_warning_shows_though_nobody_has_set_up_logging() -> None:
    code = "from ee_runner.logs import log; log.warning('%s is wrong', 'it')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr == "it is wrong\n"


def test_a_program_that_listens_later_hears(caplog: pytest.LogCaptureFixture) -> None:
    explain = log.debug
    with caplog.at_level(logging.DEBUG, logger="ee_runner"):
        explain("why: %s", "because")
    (record,) = caplog.records
    assert (record.getMessage(), record.name, record.funcName) == (
        "why: because",
        "ee_runner",
        "test_a_program_that_listens_later_hears",
    )


def test_an_exception_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="ee_runner"):
        try:
            raise ValueError("deep")
        except ValueError:
            log.debug("failed:", exc_info=True)
    assert "ValueError: deep" in caplog.text
