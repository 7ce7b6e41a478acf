"""Builds into the cache folder, with small stand-ins for Maven and Go that are real processes."""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.toolchain import Part, ToolchainError, build, ensure, machine

JAR = b"a jar"
MAVEN = """
for argument; do case "$argument" in -DoutputDirectory=*) out="${argument#*=}";; esac; done
echo run >> "$CALLS"
mkdir -p "$out" && printf 'a jar' > "$out/one.jar"
"""
AUTHORIZER = """
for argument; do case "$argument" in -Ddcdr.build=*) out="${argument#*=}";; esac; done
echo run >> "$CALLS"
mkdir -p "$out" && echo classes > "$out/dcdr-authorizer.jar"
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a shell script on the PATH under a tool's name; an empty cache and small recipes are around it."""
    tools, recipes = tmp_path / "bin", tmp_path / "recipes"
    tools.mkdir()
    (recipes / "kafka").mkdir(parents=True)
    (recipes / "kafka" / "pom.xml").write_text("<project/>")
    (recipes / "kafka" / "jars.sha256").write_text(f"{hashlib.sha256(JAR).hexdigest()}  one.jar\n")
    sources = recipes / "authorizer" / "src" / "main"
    sources.mkdir(parents=True)
    (sources / "One.java").write_text("class One {}")
    (recipes / "authorizer" / "pom.xml").write_text("<project/>")
    monkeypatch.setattr(build, "AUTHORIZER_SOURCES", recipes / "authorizer")
    for part, program in build.GO_PROGRAMS.items():
        (recipes / "go" / part).mkdir(parents=True)
        (recipes / "go" / part / "go.mod").write_text(f"module x\nrequire {program.module} v1.2.3\n")
    monkeypatch.setattr(build, "RECIPES", recipes)
    monkeypatch.setenv("DCDR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("JAVA_HOME", raising=False)

    def put(name: str, script: str) -> None:
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)

    put("java", "exit 0")
    return put


def calls() -> int:
    return len(Path(os.environ["CALLS"]).read_text().splitlines())


def left_in_cache(part: Part) -> list[str]:
    return sorted(path.name for path in (build.cache_root() / part).iterdir() if path.suffix != ".lock")


def test_a_part_is_built_once_and_then_found(tool: Callable[[str, str], None]) -> None:
    tool("mvn", MAVEN)
    said: list[str] = []
    first = ensure([Part.KAFKA], said.append)
    assert (first.kafka_jars / "one.jar").read_bytes() == JAR
    assert first.kafka_classpath == f"{first.kafka_jars}/*:{first.authorizer}"
    assert ensure(["kafka"], said.append) == first
    assert calls() == 1
    assert len(said) == 1, "the second run has nothing to say"


def test_another_recipe_is_another_folder(tool: Callable[[str, str], None]) -> None:
    tool("mvn", MAVEN)
    first = ensure([Part.KAFKA], print)
    (build.RECIPES / "kafka" / "pom.xml").write_text("<project><!-- newer --></project>")
    second = ensure([Part.KAFKA], print)
    assert first.kafka_jars != second.kafka_jars
    assert calls() == 2


def test_the_authorizer_is_built_outside_the_tree_and_anew_when_its_sources_change(
    tool: Callable[[str, str], None],
) -> None:
    tool("mvn", AUTHORIZER)
    first = ensure([Part.AUTHORIZER], lambda _: None)
    assert first.authorizer.read_text() == "classes\n"
    assert [path.name for path in first.authorizer.parent.iterdir()] == ["dcdr-authorizer.jar"]
    assert not (build.AUTHORIZER_SOURCES / "target").exists()
    (build.AUTHORIZER_SOURCES / "src" / "main" / "One.java").write_text("class One { int more; }")
    assert ensure([Part.AUTHORIZER], lambda _: None).authorizer != first.authorizer
    assert calls() == 2


def test_two_runs_at_once_build_once(tool: Callable[[str, str], None]) -> None:
    tool("mvn", "sleep 0.5\n" + MAVEN)
    said: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(lambda _: ensure([Part.KAFKA], said.append), range(2))
    assert one == two
    assert calls() == 1
    assert any("another run is building it" in line for line in said)


def test_a_failed_build_leaves_only_its_log_and_says_the_tools_last_words(tool: Callable[[str, str], None]) -> None:
    tool("mvn", MAVEN + "echo 'no route to the repository'; exit 1")
    with pytest.raises(ToolchainError, match="no route to the repository") as failed:
        ensure([Part.KAFKA], print)
    [log] = left_in_cache(Part.KAFKA)
    assert log.endswith(".log")
    assert log in str(failed.value)
    tool("mvn", MAVEN)
    assert (ensure([Part.KAFKA], print).kafka_jars / "one.jar").exists(), "the next run starts from a clean place"
    assert not any(name.endswith(".log") for name in left_in_cache(Part.KAFKA))


def test_what_a_killed_run_left_is_cleared_by_the_next(tool: Callable[[str, str], None]) -> None:
    tool("mvn", MAVEN)
    home = build.target(Part.KAFKA)
    leftover = home.with_name(f"{home.name}.tmp.4242") / "jars"
    leftover.mkdir(parents=True)
    ensure([Part.KAFKA], print)
    assert left_in_cache(Part.KAFKA) == [home.name]


def test_a_jar_that_is_not_the_locked_one_is_refused(tool: Callable[[str, str], None]) -> None:
    tool("mvn", MAVEN.replace("a jar", "another jar"))
    with pytest.raises(ToolchainError, match=r"not the ones locked.*one\.jar"):
        ensure([Part.KAFKA], print)
    assert not build.target(Part.KAFKA).exists()


def test_a_jar_too_many_is_refused(tool: Callable[[str, str], None]) -> None:
    tool("mvn", MAVEN + 'printf x > "$out/two.jar"')
    with pytest.raises(ToolchainError, match=r"not the ones locked.*two\.jar"):
        ensure([Part.KAFKA], print)


def test_go_is_told_the_locked_version_and_its_progress_is_counted(
    tool: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "SAY_EVERY_S", 0.1)
    counted = tmp_path / "counted"
    monkeypatch.setenv("COUNTED", str(counted))
    tool(
        "go",
        """
        if [ "$1" = list ]; then printf 'a\\nb\\nc\\n'; exit 0; fi
        while [ "$1" != -o ]; do echo "$1" >> "$CALLS"; shift; done
        printf 'go: downloading x v1\\na\\nb/c\\n' >&2
        for i in $(seq 300); do if [ -e "$COUNTED" ]; then break; fi; sleep 0.1; done
        printf d >&2
        printf binary > "$2"
        """,
    )
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("toxiproxy: 2 of 3"):
            counted.touch()

    toolchain = ensure([Part.TOXIPROXY], say)
    assert toolchain.toxiproxy_server.read_text() == "binary"
    assert "-X github.com/Shopify/toxiproxy/v2.Version=v1.2.3" in Path(os.environ["CALLS"]).read_text()
    assert any(line.startswith("toxiproxy: 2 of 3 packages compiled, ") for line in said), said


def test_the_other_build_is_stopped_when_one_fails(tool: Callable[[str, str], None]) -> None:
    tool("mvn", "echo 'no space left'; exit 1")
    tool("go", "sleep 60")
    started = time.monotonic()
    with pytest.raises(ToolchainError, match="no space left"):
        ensure([Part.KAFKA, Part.ETCD], print)
    assert time.monotonic() - started < 20


def test_a_build_that_hangs_is_ended_at_its_deadline(
    tool: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BUILD_DEADLINE_S", 0.5)
    tool("mvn", 'sleep 60 & echo $! > "$CALLS"; wait')
    with pytest.raises(ToolchainError, match="not built within"):
        ensure([Part.KAFKA], print)
    child = int(Path(os.environ["CALLS"]).read_text())
    assert _gone_within(child, 5), "what the build tool had started is ended with it"


def _gone_within(pid: int, limit_s: float) -> bool:
    waiting = threading.Event()
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        waiting.wait(0.02)
    return False


def test_an_unknown_part_and_a_missing_tool_are_refused_with_what_to_do(
    tool: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ToolchainError, match="the parts are: kafka, "):
        ensure(["zookeeper"])
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(ToolchainError, match=r"go was not found: install Go 1\.26"):
        ensure([Part.ETCD], print)


def test_the_recipes_of_the_tree_name_their_modules_and_carry_their_sums() -> None:
    for part, program in build.GO_PROGRAMS.items():
        folder = Path(build.__file__).parent / "go" / part
        assert f"{program.module} v" in (folder / "go.mod").read_text()
        assert f'import _ "{program.package}"' in (folder / "tools.go").read_text()
        assert f"{program.module} v" in (folder / "go.sum").read_text()


def test_a_package_is_lacking_when_its_command_or_module_is(tool: Callable[[str, str], None]) -> None:
    tool("mvn", MAVEN)
    listing = "# comment\n\nmaven  mvn\nnot-there  no-such-command\npython3-venv py:venv\nother py:no_such_module\n"
    assert machine.lacking(listing) == ["not-there", "other"]


@pytest.mark.parametrize(
    ("version", "problem"),
    [
        (None, "go was not found"),
        ("go1.19.8", "go1.19.8 is too old"),
        ("go1.26.0", None),
        ("go2.0", None),
        ("devel go1.27-abc", None),
    ],
)
def test_only_a_go_that_cannot_build_the_servers_is_a_problem(version: str | None, problem: str | None) -> None:
    found = machine.go_problem(version)
    assert found is None if problem is None else found is not None and found.startswith(problem)


def test_without_class_archives_everything_still_works_and_is_not_tried_again(tool: Callable[[str, str], None]) -> None:
    tool("mvn", MAVEN)
    tool("java", 'echo run >> "$CALLS"; exit 1')
    said: list[str] = []
    toolchain = ensure([Part.KAFKA_ARCHIVES], said.append)
    assert (toolchain.kafka_jars / "one.jar").exists()
    assert list(toolchain.kafka_archives.iterdir()) == []
    assert any("Kafka and Connect will start without" in line for line in said)
    tries = calls()
    assert ensure([Part.KAFKA_ARCHIVES], said.append) == toolchain
    assert calls() == tries


def test_each_server_starts_from_the_archive_of_its_kind(tool: Callable[[str, str], None]) -> None:
    toolchain = build.locate()
    assert any(o.endswith("/broker.jsa") for o in toolchain.sharing("kafka.Kafka"))
    assert any(o.endswith("/broker.jsa") for o in toolchain.sharing("kafka.tools.StorageTool"))
    assert any(o.endswith("/connect.jsa") for o in toolchain.sharing("org.apache.kafka.connect.cli.ConnectDistributed"))
