"""The lab's certificates: an authority of its own, and what each agent and each broker's authorizer shows the other.

Made once in a lab's life with the machine's `openssl`: PEM, keys as PKCS#8 without a password, as the authorizer reads
them. An agent's certificate names the addresses at which its brokers ask for it, since they know it by nothing else.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from subprocess import TimeoutExpired

from lab import processes
from lab.addresses import MEMBERS, Plan, brokers
from lab.errors import LabError
from lab.record import Home

DAYS = "3650"
OPENSSL_LIMIT_S = 60.0
REQUEST = "[req]\ndistinguished_name = name\n[name]\n"
"""Nothing of the machine's own openssl.cnf: what it adds differs from one distribution to another."""


def files(home: Home, name: str) -> dict[str, Path]:
    """The PEM files of one agent or broker, by the words that the product's settings and the authorizer's use."""
    folder = _folder(home)
    return {"certificate": folder / f"{name}.crt", "key": folder / f"{name}.key", "ca": folder / "ca.crt"}


def ensure(home: Home, plan: Plan) -> None:
    """Make all of them, or nothing when they are there: the folder appears whole.

    Raises: LabError with openssl's own words.
    """
    folder = _folder(home)
    if folder.exists():
        return
    made = folder.with_name("tls.new")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(mode=0o700)
    (made / "request.cnf").write_text(REQUEST)
    log = home.log("openssl")
    _issue(made, "ca", log, "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
    for member in MEMBERS:
        asked = f"IP:{plan.ports[f'agent-{member}/marker'].host}"  # its brokers' links listen there as well
        _issue(made, f"agent-{member}", log, "extendedKeyUsage=serverAuth", f"subjectAltName={asked}", signer="ca")
        for broker in brokers(member, plan.brokers):
            _issue(made, broker, log, "extendedKeyUsage=clientAuth", signer="ca")
    made.rename(folder)


def _folder(home: Home) -> Path:
    return home.secrets / "tls"


def _issue(folder: Path, name: str, log: Path, *extensions: str, signer: str = "") -> None:
    """A key and its certificate: the authority's by itself, everybody else's by the authority."""
    argv = ["openssl", "req", "-x509", "-config", str(folder / "request.cnf"), "-newkey", "ec"]
    argv += ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", DAYS, "-subj", f"/O=dcdr lab/CN={name}"]
    argv += ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.crt")]
    if signer:
        argv += ["-CA", str(folder / f"{signer}.crt"), "-CAkey", str(folder / f"{signer}.key")]
        extensions = ("basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature", *extensions)
    for extension in (*extensions, "subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid"):
        argv += ["-addext", extension]  # the key ids: strict verifiers want them
    try:
        done = processes.run(argv, os.environ, log, OPENSSL_LIMIT_S)
    except (OSError, TimeoutExpired) as error:
        raise LabError(f"openssl cannot be run ({error}): `make setup` names what the machine lacks") from error
    if done.returncode != 0:
        raise LabError(f"openssl made no certificate for {name}:\n{done.stderr[-2000:]}")
