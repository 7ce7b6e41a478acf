"""Build each part once into the cache folder, under a key made of everything it is built from.

Layout of `${DCDR_CACHE:-~/.cache/dcdr}`:

    <part>/<key>/        the finished part; it appears by one rename, so it is whole or absent
    <part>/<key>.lock    held while it is being built: a second run waits and then finds it finished
    <part>/<key>.log     what the tools said; kept only when the build failed

An interrupted build resumes from Maven's local repository and Go's build cache, where all the time goes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lab.toolchain import archives

RECIPES = Path(__file__).resolve().parent
AUTHORIZER_SOURCES = RECIPES.parents[1] / "authorizer"
SAY_EVERY_S = 10.0
"""Seconds between two lines of progress of one build."""
BUILD_DEADLINE_S = 40 * 60.0
"""The slowest part needs 3.5 min on two idle cores; ten times that, and somebody should look."""

Progress = Callable[[str], None]


class ToolchainError(Exception):
    """A part could not be delivered; the message says why and what to do next."""


class Part(StrEnum):
    """One thing the lab runs. The value is its name on the command line and its folder in the cache."""

    KAFKA = "kafka"
    KAFKA_ARCHIVES = "kafka-archives"
    AUTHORIZER = "authorizer"
    ETCD = "etcd"
    TOXIPROXY = "toxiproxy"
    KUBE_APISERVER = "kube-apiserver"
    TEMPORAL = "temporal"


@dataclass(frozen=True)
class GoProgram:
    """A main package, and the linker variable that tells the program its own version (None: it knows)."""

    package: str
    module: str
    version_variable: str | None = None
    flags: tuple[str, ...] = ()


GO_PROGRAMS: Mapping[Part, GoProgram] = {
    Part.ETCD: GoProgram("go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
    Part.TOXIPROXY: GoProgram(
        "github.com/Shopify/toxiproxy/v2/cmd/server",
        "github.com/Shopify/toxiproxy/v2",
        "github.com/Shopify/toxiproxy/v2.Version",
    ),
    Part.KUBE_APISERVER: GoProgram(
        "k8s.io/kubernetes/cmd/kube-apiserver",
        "k8s.io/kubernetes",
        "k8s.io/component-base/version.gitVersion",
        # Compiled in two thirds of the time, and as fast as the lab can tell.
        ("-gcflags=k8s.io/...=-N -l -dwarf=false",),
    ),
}
MAVEN_GOALS = ("dependency:copy-dependencies", "-DincludeScope=runtime")
AUTHORIZER_GOALS = ("package", "-Dmaven.test.skip=true")
AUTHORIZER_JAR = "dcdr-authorizer.jar"
GO_FLAGS = ("-trimpath", "-buildvcs=false", "-mod=readonly")


@dataclass(frozen=True)
class Toolchain:
    """Where everything is. A path is sure to exist for the parts that `ensure` was asked for."""

    java: Path
    kafka_jars: Path
    kafka_archives: Path
    authorizer: Path
    etcd: Path
    toxiproxy_server: Path
    kube_apiserver: Path
    temporal: Path

    @property
    def kafka_classpath(self) -> str:
        """Give the class path for `java -cp`: every jar of the folder, brokers, tools, Connect and MirrorMaker 2.

        Our authorizer comes last, because a class archive fits any class path that begins with its own.
        """
        return f"{self.kafka_jars}/*:{self.authorizer}"

    def sharing(self, main: str) -> tuple[str, ...]:
        """Give the JVM options with which a main class of Kafka starts from its class archive.

        They do no harm where there is no archive, or one that does not fit: the JVM then starts as if without.
        """
        archive = "connect.jsa" if main.startswith("org.apache.kafka.connect.") else "broker.jsa"
        return (f"-XX:SharedArchiveFile={self.kafka_archives / archive}", "-Xshare:auto", "-Xlog:cds=off")


def cache_root() -> Path:
    """Return `$DCDR_CACHE`, or `~/.cache/dcdr`."""
    return Path(os.environ.get("DCDR_CACHE") or "~/.cache/dcdr").expanduser().absolute()


def ensure(parts: Collection[Part | str] | None = None, progress: Progress | None = None) -> Toolchain:
    """Build what is missing of `parts` (None: all of them) and say where everything is.

    Maven and Go work side by side, each one part at a time: two cores and one download link gain nothing from more.

    Args:
        progress: is handed one line now and then, from any thread; standard error by default.
    Raises: ToolchainError if a tool is missing, a build failed or ran past its deadline, or a part is unknown.
    """
    say = progress or _say_on_stderr
    try:
        wanted = list(Part) if parts is None else [Part(part) for part in parts]
    except ValueError as error:
        raise ToolchainError(f"{error}; the parts are: {', '.join(Part)}") from None
    toolchain = locate()
    if Part.TEMPORAL in wanted and not toolchain.temporal.exists():
        raise ToolchainError(f"{toolchain.temporal} is missing: run `make setup`, it comes with the Python packages")
    if Part.KAFKA_ARCHIVES in wanted:
        wanted.append(Part.KAFKA)
    if Part.KAFKA in wanted:
        _need("java", "JDK 17 or later", toolchain.java)
    missing = [part for part in wanted if part is not Part.TEMPORAL and not target(part).exists()]
    with_maven = [part for part in (Part.KAFKA, Part.AUTHORIZER, Part.KAFKA_ARCHIVES) if part in missing]
    with_go = [part for part in GO_PROGRAMS if part in missing]
    stop = threading.Event()

    def work(parts: Sequence[Part]) -> None:
        for part in parts:
            _deliver(part, say, stop)

    with ThreadPoolExecutor(max_workers=2) as pool:
        running = [pool.submit(work, with_maven), pool.submit(work, with_go)]
        try:
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            for one in done:
                one.result()
        finally:
            stop.set()  # on a failure or Ctrl-C the other lane has nothing left to work for
    return toolchain


def locate() -> Toolchain:
    """Say where everything is, or would be once built; nothing is built and nothing is checked."""
    return Toolchain(
        java=_java(),
        kafka_jars=target(Part.KAFKA) / "jars",
        kafka_archives=target(Part.KAFKA_ARCHIVES),
        authorizer=target(Part.AUTHORIZER) / AUTHORIZER_JAR,
        etcd=target(Part.ETCD) / Part.ETCD,
        toxiproxy_server=target(Part.TOXIPROXY) / Part.TOXIPROXY,
        kube_apiserver=target(Part.KUBE_APISERVER) / Part.KUBE_APISERVER,
        temporal=Path(sysconfig.get_path("scripts"), "temporal"),
    )


def _java() -> Path:
    java_home = os.environ.get("JAVA_HOME")
    return Path(java_home, "bin", "java") if java_home else Path(shutil.which("java") or "java")


def target(part: Part) -> Path:
    """Return the folder of a built part: its name is the hash of its recipe, so another recipe is another folder."""
    return cache_root() / part / _key(part)


def _key(part: Part) -> str:
    digest = hashlib.sha256()
    if part in GO_PROGRAMS:
        program = GO_PROGRAMS[part]
        recipe: tuple[str, ...] = (program.package, program.version_variable or "", *GO_FLAGS, *program.flags)
        recipe += (platform.system(), platform.machine())
    elif part is Part.KAFKA_ARCHIVES:
        # The JVM that wrote an archive is the only one that reads it; `release` tells its exact build.
        release = _java().resolve().parent.parent / "release"
        recipe = (str(target(Part.KAFKA)), release.read_text() if release.exists() else str(_java().resolve()))
    elif part is Part.AUTHORIZER:
        recipe = AUTHORIZER_GOALS
    else:
        recipe = MAVEN_GOALS
    digest.update(json.dumps(recipe).encode())
    for file in _recipe_files(part):
        digest.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _recipe_files(part: Part) -> list[Path]:
    if part is Part.KAFKA_ARCHIVES:
        return [Path(archives.__file__)]
    if part is Part.AUTHORIZER:
        sources = AUTHORIZER_SOURCES / "src" / "main"
        return [AUTHORIZER_SOURCES / "pom.xml", *sorted(path for path in sources.rglob("*") if path.is_file())]
    return sorted(path for path in _recipe_folder(part).iterdir() if path.is_file())


def _recipe_folder(part: Part) -> Path:
    if part is Part.AUTHORIZER:
        return AUTHORIZER_SOURCES
    return RECIPES / "go" / part if part in GO_PROGRAMS else RECIPES / part


def _deliver(part: Part, say: Progress, stop: threading.Event) -> None:
    """Build one part into its place, unless another run does so first."""
    home = target(part)
    home.parent.mkdir(parents=True, exist_ok=True)
    with _locked(home.with_name(home.name + ".lock"), part, say, stop):
        if home.exists():
            return
        for leftover in home.parent.glob(f"{home.name}.tmp.*"):
            shutil.rmtree(leftover, ignore_errors=True)  # of a run that was killed: we hold its lock now
        scratch = home.with_name(f"{home.name}.tmp.{os.getpid()}")
        scratch.mkdir()
        build = _Build(part, scratch, home.with_name(home.name + ".log"), say, stop)
        started = time.monotonic()
        try:
            kept_log = not build.run()
            os.rename(scratch, home)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if not kept_log:
            build.log.unlink(missing_ok=True)
        say(f"{part}: done in {time.monotonic() - started:.0f} s")


@contextlib.contextmanager
def _locked(path: Path, part: Part, say: Progress, stop: threading.Event) -> Iterator[None]:
    """Hold an exclusive lock on `path`. The kernel gives it back when its holder dies, so waiting cannot be forever."""
    with path.open("w") as file:
        waiting = False
        deadline = time.monotonic() + BUILD_DEADLINE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not waiting:
                    say(f"{part}: another run is building it, waiting for that")
                    waiting = True
                if time.monotonic() > deadline:
                    raise ToolchainError(f"{part}: another run has held {path} for {BUILD_DEADLINE_S:.0f} s") from None
                if stop.wait(0.2):
                    raise ToolchainError(f"{part}: given up, because another part failed") from None
        yield


class _Build:
    """One build: Maven or Go runs whose output goes to a log, from which lines of progress are counted."""

    def __init__(self, part: Part, scratch: Path, log: Path, say: Progress, stop: threading.Event) -> None:
        self.part = part
        self.log = log
        self._scratch = scratch
        self._recipe = _recipe_folder(part)
        self._say = say
        self._stop = stop
        self._started = time.monotonic()

    def run(self) -> bool:
        """Build into the scratch folder.

        Returns: False when only a faster start could not be had: the lab works without the archives.
        """
        self.log.write_text("")
        if self.part in GO_PROGRAMS:
            self._go(GO_PROGRAMS[self.part])
        elif self.part is Part.KAFKA_ARCHIVES:
            return self._archives()
        elif self.part is Part.AUTHORIZER:
            self._authorizer()
        else:
            self._maven()
        return True

    def _archives(self) -> bool:
        self._say(f"{self.part}: starting a broker and a Connect worker once, so that later ones start faster")
        classpath = f"{target(Part.KAFKA) / 'jars'}/*"
        try:
            archives.build(str(_java()), classpath, self._scratch, self.log, self._pause)
        except ToolchainError:
            raise
        except Exception as error:
            # Whatever it was, only speed is lost. An empty folder stays, so that not every run tries again.
            for path in self._scratch.glob("*.jsa"):
                path.unlink()
            self._say(f"{self.part}: none ({error}; see {self.log}): Kafka and Connect will start without")
            return False
        finally:
            shutil.rmtree(self._scratch / "run", ignore_errors=True)
        return True

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise ToolchainError(f"{self.part}: given up, because another part failed")

    def _maven(self) -> None:
        maven = _need("mvn", "Maven 3.8 or later")
        jars = self._scratch / "jars"
        command = [maven, "-B", "-f", str(self._recipe / "pom.xml"), *MAVEN_GOALS, f"-DoutputDirectory={jars}"]
        self._execute(command, "Downloaded from ", "{} files downloaded")
        verify_jars(jars, self._recipe / "jars.sha256")

    def _authorizer(self) -> None:
        maven = _need("mvn", "Maven 3.8 or later")
        command = [maven, "-B", "-f", str(self._recipe / "pom.xml"), *AUTHORIZER_GOALS]
        scratch = self._scratch / "target"
        self._execute([*command, f"-Ddcdr.build={scratch}"], "Downloaded from ", "{} files downloaded")
        (scratch / AUTHORIZER_JAR).rename(self._scratch / AUTHORIZER_JAR)
        shutil.rmtree(scratch)

    def _go(self, program: GoProgram) -> None:
        go = _need("go", "Go 1.26 or later")
        required = re.search(rf"{re.escape(program.module)} (v\S+)", (self._recipe / "go.mod").read_text())
        if required is None:
            raise ToolchainError(f"{self._recipe / 'go.mod'} does not name {program.module}")
        linker = "-s -w" + (f" -X {program.version_variable}={required[1]}" if program.version_variable else "")
        flags = (*GO_FLAGS, *program.flags)
        to_compile = [go, "list", *flags, "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", program.package]
        total = len(self._execute(to_compile, "^go: downloading ", "{} modules downloaded").split())
        self._execute(
            [go, "build", "-v", *flags, "-ldflags", linker, "-o", str(self._scratch / self.part), program.package],
            r"^[^\s:]+$",
            f"{{}} of {total} packages compiled",
        )

    def _execute(self, command: Sequence[str], counted: str, saying: str) -> str:
        """Run a tool to its end and return its standard output.

        Args:
            counted: a pattern for the lines of output that are progress.
            saying: how to tell their number.
        """
        with self.log.open("ab+") as log, tempfile.TemporaryFile() as output:
            before = self.log.stat().st_size
            # Builds give way to whatever else runs: `make` starts them beside its short steps.
            with subprocess.Popen(
                ["nice", "-n", "5", *command],
                cwd=self._recipe,
                env=os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"},
                stdin=subprocess.DEVNULL,
                stdout=output if self.part in GO_PROGRAMS else log,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C or a deadline ends its compilers too
            ) as process:
                try:
                    self._follow(process, before, re.compile(counted, re.MULTILINE), saying)
                finally:
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)
            if process.returncode != 0:
                raise ToolchainError(self._failure(command))
            output.seek(0)
            return output.read().decode()

    def _follow(self, process: subprocess.Popen[bytes], before: int, counted: re.Pattern[str], saying: str) -> None:
        """Wait for the process, bounded, and tell now and then how far it is; `before`: bytes its log had already."""
        said = time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.2)
                return
            now = time.monotonic()
            if self._stop.is_set():
                raise ToolchainError(f"{self.part}: given up, because another part failed")
            if now - self._started > BUILD_DEADLINE_S:
                raise ToolchainError(f"{self.part}: not built within {BUILD_DEADLINE_S / 60:.0f} min; see {self.log}")
            if now - said >= SAY_EVERY_S:
                said = now
                text = self.log.read_bytes()[before:].decode(errors="replace")
                self._say(f"{self.part}: {saying.format(len(counted.findall(text)))}, {now - self._started:.0f} s")

    def _failure(self, command: Sequence[str]) -> str:
        tail = "\n".join(f"    {line}" for line in self.log.read_text(errors="replace").splitlines()[-15:])
        return (
            f"{self.part}: {' '.join(command[:3])} failed:\n{tail}\n"
            f"The whole log: {self.log}\nRun it again when that is mended: what was downloaded or compiled is kept."
        )


def verify_jars(folder: Path, locked: Path) -> None:
    """Compare each jar with the committed list (`sha256  name` a line, as `sha256sum` writes it).

    Raises: ToolchainError naming the jars that differ, are missing, or are not on the list.
    """
    expected = {name: digest for digest, name in (line.split() for line in locked.read_text().splitlines())}
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.glob("*.jar")}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise ToolchainError(
            f"kafka: these jars are not the ones locked in {locked.name}: {', '.join(wrong)}.\n"
            "If the pom was changed on purpose, `make lock` writes the list anew; otherwise remove them from "
            "Maven's local repository (~/.m2/repository) and run this again."
        )


def lock_jars() -> None:
    """Write `kafka/jars.sha256` from what the pom resolves to now (for `make lock`)."""
    recipe = _recipe_folder(Part.KAFKA)
    with tempfile.TemporaryDirectory() as folder:
        maven = _need("mvn", "Maven 3.8 or later")
        command = [maven, "-B", "-q", "-f", str(recipe / "pom.xml"), *MAVEN_GOALS, f"-DoutputDirectory={folder}"]
        subprocess.run(command, check=True, timeout=BUILD_DEADLINE_S)
        jars = sorted(Path(folder).glob("*.jar"))
        lines = [f"{hashlib.sha256(jar.read_bytes()).hexdigest()}  {jar.name}\n" for jar in jars]
    (recipe / "jars.sha256").write_text("".join(lines))


def _need(tool: str, what: str, path: Path | None = None) -> str:
    """Find a tool on the PATH, or at `path`."""
    found = shutil.which(path or tool)
    if found is None:
        raise ToolchainError(f"{tool} was not found: install {what} and put it on the PATH (see `make setup`)")
    return found


def _say_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
