"""`python -m lab.toolchain [part...]`: build what is missing, then print where each part is.

Exit codes: 0 everything asked for is there, 1 a part could not be delivered, 2 no such part, 130 interrupted.
"""

import argparse
import sys

from lab.toolchain import Part, ToolchainError, ensure
from lab.toolchain.build import lock_jars


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m lab.toolchain", description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"one of {', '.join(Part)}; all when none is named")
    parser.add_argument("--lock-jars", action="store_true", help="write kafka/jars.sha256 anew from the pom and stop")
    options = parser.parse_args()
    unknown = sorted(set(options.parts) - set(Part))
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)} (choose from {', '.join(Part)})")
    try:
        if options.lock_jars:
            lock_jars()
            return 0
        parts = [Part(part) for part in options.parts] or list(Part)
        toolchain = ensure(parts)
    except ToolchainError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run it again to go on from here", file=sys.stderr)
        return 130
    where = {
        Part.KAFKA: toolchain.kafka_classpath,
        Part.KAFKA_ARCHIVES: toolchain.kafka_archives,
        Part.AUTHORIZER: toolchain.authorizer,
        Part.ETCD: toolchain.etcd,
        Part.TOXIPROXY: toolchain.toxiproxy_server,
        Part.KUBE_APISERVER: toolchain.kube_apiserver,
        Part.TEMPORAL: toolchain.temporal,
    }
    for part in parts:
        print(f"{part:<16}{where[part]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
