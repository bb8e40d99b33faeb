"""The manual's table of faults is the one that the suite declares and verifies."""

from __future__ import annotations

from tests.faults import matrix


def test_the_manual_has_exactly_the_declared_rows() -> None:
    page = matrix.MANUAL.read_text()
    rows = [row[: -len(matrix.ALL)] for row in matrix.rows_of(page)]
    assert rows == [matrix.words(fault) for fault in matrix.declared()], "run: make faults"
    assert page == matrix.manual(matrix.measurements_of(page)), "run: make faults"


def test_each_row_of_the_manual_was_measured_where_it_applies() -> None:
    measured = matrix.measurements_of(matrix.MANUAL.read_text())
    assert set(measured) == {(fault.name, engine) for fault in matrix.declared() for engine in fault.engines}
    bounds = {fault.name: fault.within for fault in matrix.declared()}
    assert not {case: seconds for case, seconds in measured.items() if seconds > bounds[case[0]]}


def test_no_two_faults_have_a_name_or_words_in_common() -> None:
    faults = list(matrix.declared())
    assert len({fault.name for fault in faults}) == len({fault.what for fault in faults}) == len(faults)


def test_a_measurement_survives_the_page() -> None:
    measured = {("sigterm", "local"): 0.25, ("killed-midway", "docker"): 3.1}
    assert matrix.measurements_of(matrix.manual(measured)) == measured
