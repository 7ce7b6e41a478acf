"""`python -m lab.witness --lab NAME --out FOLDER`: the prober as a process of its own, as `Witness` starts it."""

import typer

from lab.witness.cli import witness

if __name__ == "__main__":
    typer.run(witness)
