"""Tests for benchmarks.accelerator: its dry run, on a CPU."""

import pathlib
import subprocess
import sys

import folders
import pytest

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.long
class DryRunTest(folders.FolderTestCase):
    def test_every_part_has_figures(self):
        path = self.folder / "table.md"
        subprocess.run(
            [sys.executable, "-m", "benchmarks.accelerator", "--dry_run"]
            + [f"--out={path}", "--minutes=20"],
            cwd=ROOT,
            check=True,
        )
        rows, failed = path.read_text().splitlines(), []
        for row in rows:
            if row.startswith("| what"):
                is_error = "error" in row
            elif row.startswith("| ") and not row.startswith("| ---"):
                failed += [row] * is_error
        # PyTorch is optional.
        self.assertEqual([row for row in failed if "'torch'" not in row], [])
        [kills] = [row for row in rows if row.startswith("| kills")]
        self.assertEqual(kills, "| kills 1 | 1 | True |")
