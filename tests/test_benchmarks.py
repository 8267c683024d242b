"""The benchmarks' table says what was measured, and its rows can be made by anybody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import run, table

ROOT = Path(__file__).resolve().parents[1]


def test_ratios_above_one_mean_that_we_are_ahead() -> None:
    times = table.compare("loading, s", [2.0, 1.0, 4.0], "theirs", [4.0, 3.0, 4.0])
    assert (times.value, times.theirs, times.ratio) == (2.0, 4.0, 2.0)
    rates = table.compare("loading, images/s", [2.0, 1.0, 4.0], "theirs", [4.0, 3.0, 4.0], rate=True)
    assert rates.ratio == 0.5


def test_ratios_are_those_of_runs_beside_each_other() -> None:
    # Twice as fast in every pair, while the machine slows down: medians of each side alone would say something else.
    row = table.compare(
        "s", [1.0, 10.0, 2.0, 3.0], "theirs", [2.0, 20.0, 4.0, 6.0], limit="least", bounds=[1, 5, 1, 1]
    )
    assert row.ratio == 2.0
    assert row.of_limit == 2.0


def test_a_peer_that_is_not_there_leaves_its_cells_empty() -> None:
    row = table.compare("s", [1.0], f"PyTorch: {table.NO_PEERS}", [])
    assert row.theirs is None
    cells = table.cells(row)
    assert "not installed" in cells[table.HEADINGS.index("peer")]
    assert cells[table.HEADINGS.index("ratio")] == ""


def test_the_table_has_a_line_for_every_row_and_a_cell_for_every_heading() -> None:
    rows = [table.compare("a", [0.001234]), table.compare("b", [1234.5])]
    lines = table.markdown(rows).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "0.00123" in lines[2]
    assert "1234" in lines[3]


def test_facts_name_no_host_and_no_folder() -> None:
    import socket

    text = "\n".join(run.facts())
    assert "mxnet 1.9.1" in text
    assert socket.gethostname() not in text
    assert "/" not in text.replace("1, 5, 15", "")


def test_every_script_is_there_and_says_how_it_is_used() -> None:
    for script in run.SCRIPTS:
        done = subprocess.run(
            [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "--quick" in done.stdout
        assert f"python benchmarks/{script}.py" in done.stdout


@pytest.mark.slow
def test_a_run_names_each_rows_command_and_keeps_the_table(tmp_path: Path) -> None:
    output = tmp_path / "results.md"
    subprocess.run(
        [
            sys.executable,
            ROOT / "benchmarks" / "run.py",
            "--quick",
            "--only",
            "transforms",
            "--output",
            output,
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    lines = [line for line in output.read_text().splitlines() if line.startswith("| ")]
    assert lines[0].split()[1] == "what"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert len(rows) >= 8
    for row in rows:
        assert row[-1] == "python benchmarks/transforms.py --quick"
        assert float(row[1]) > 0
