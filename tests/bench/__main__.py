"""All benchmarks, one after the other: `python -m tests.bench [--quick] [--json]` (root).

With `--json` standard output is one line of JSON for each that can; the rest is for people.
"""

from __future__ import annotations

import subprocess
import sys

UNDERSTANDS = {
    "bench_core": {"--json"},
    "bench_companion": {"--json"},
    "bench_gate": {"--json", "--quick"},
    "bench_owner": {"--json"},
    "bench_rules": {"--json"},
    "bench_sockets": {"--json"},
}


def main() -> None:
    """Run each in a process of its own; one that fails does not keep the others from running."""
    options = set(sys.argv[1:])
    if unknown := options - {"--json", "--quick"}:
        sys.exit(f"unknown: {' '.join(unknown)}. {__doc__}")
    failed = []
    for name, understood in UNDERSTANDS.items():
        print(f"--- {name}", file=sys.stderr)
        command = [sys.executable, "-m", f"tests.bench.{name}", *(options & understood)]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
