"""Kill every combination at a random step, run it again, and compare the outcomes.

    python tests/soak/matrix.py [--only PATTERN ...] [--kills 1] [--seed 1] [--spawn]

Ends with 1 if one of them differs.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import fnmatch
import json
import multiprocessing
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# `runs` comes first: it sets the environment before TensorFlow is imported.
from soak.runs import Result, examine, preload  # isort: skip
from soak.combinations import COMBINATIONS

CHILDREN = 2


def main() -> int:
    """Run by the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=["*"], help="patterns of names, or parts of them"
    )
    parser.add_argument("--exactly", nargs="+", help="whole names, no patterns")
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--spawn", action="store_true", help="no forking")
    parser.add_argument("--pace", type=float, default=0.01, help="seconds a batch")
    parser.add_argument("--work", type=Path, help="keep all files in this folder")
    parser.add_argument("--json", type=Path, help="write the results there too")
    given = parser.parse_args()
    if not given.spawn:
        preload()
    chosen = given.exactly or [
        name
        for name in COMBINATIONS
        if any(part in name or fnmatch.fnmatch(name, part) for part in given.only)
    ]
    with tempfile.TemporaryDirectory(prefix="matrix-") as temporary:
        results = run_all(chosen, given, given.work or Path(temporary))
    console = Console(width=None if sys.stdout.isatty() else 150)
    console.print(table_of(results))
    console.print(summary_of(results))
    if given.json:
        given.json.write_text(json.dumps([vars(result) for result in results]))
    return 0 if all(result.identical or result.skipped for result in results) else 1


def run_all(names: list[str], given: argparse.Namespace, folder: Path) -> list[Result]:
    """Examine combinations, two at a time."""
    context = multiprocessing.get_context("spawn" if given.spawn else "fork")
    results: dict[str, Result] = {}
    with concurrent.futures.ProcessPoolExecutor(CHILDREN, context) as pool:
        waiting = {}
        for number, name in enumerate(names):
            missing = COMBINATIONS[name].missing()
            if missing:
                results[name] = Result(name, skipped=f"without {', '.join(missing)}")
                continue
            job = pool.submit(
                examine,
                name,
                folder / f"{number:03d}",
                kills=given.kills,
                seed=given.seed,
                spawn=given.spawn,
                pace=given.pace,
            )
            waiting[job] = name
        for done in concurrent.futures.as_completed(waiting):
            result = results[waiting[done]] = done.result()
            said = "identical" if result.identical else f"differs: {_brief(result)}"
            sys.stderr.write(f"{result.name}: {said} ({result.seconds:.1f} s)\n")
    return [results[name] for name in names]


def table_of(results: list[Result]) -> Table:
    """Lay results out, a row each."""
    table = Table("combination", "killed at", "resumed at", "way", "identical")
    for result in results:
        verdict = "yes" if result.identical else f"NO: {_brief(result)}"
        table.add_row(
            *(
                escape(text)
                for text in (
                    result.name,
                    "; ".join(result.killed_at),
                    "; ".join(result.resumed_at),
                    "; ".join(result.ways),
                    f"skipped: {result.skipped}" if result.skipped else verdict,
                )
            )
        )
    return table


def summary_of(results: list[Result]) -> str:
    """Count them."""
    skipped = sum(bool(result.skipped) for result in results)
    identical = sum(result.identical for result in results)
    kills = sum(len(result.killed_at) for result in results)
    return (
        f"{identical} of {len(results) - skipped} combinations identical after "
        f"{kills} kills; {skipped} skipped."
    )


def _brief(result: Result) -> str:
    failed = result.differs.get("failed")
    if failed:
        return failed.strip().splitlines()[-1][:200]
    return ", ".join(result.differs)


if __name__ == "__main__":
    sys.exit(main())
