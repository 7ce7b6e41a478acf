"""`python -m lab.load CONFIG.json`: the load as a process of its own, as `lab.load.Load` starts it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lab.load.config import LoadConfig
from lab.load.runner import LoadError, run


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m lab.load CONFIG.json", file=sys.stderr)
        return 2
    try:
        config = LoadConfig.model_validate_json(Path(arguments[0]).read_text())
        summary = run(config)
    except (LoadError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(summary, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
