"""The way in for `dcdr` and `python -m dcdr`, from the work tree and from an installed wheel alike.

In the tree the rooms (`starter`, `workflows`, `lab`, ...) are top-level packages. A wheel carries them inside
`dcdr/_rooms`, so that installing it adds one name to site-packages; `docs/decisions/0002-packaging.md` tells why.
"""

import os
import sys
from pathlib import Path


def open_rooms() -> None:
    """Make the rooms importable, for this process and for the Python processes it starts (workers, labs)."""
    rooms = Path(__file__).with_name("_rooms")
    if rooms.is_dir() and str(rooms) not in sys.path:
        sys.path.insert(0, str(rooms))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(rooms), os.environ.get("PYTHONPATH")]))


def main() -> None:
    """Run the command line."""
    open_rooms()
    from starter.cli import main as run

    run()


if __name__ == "__main__":
    main()
