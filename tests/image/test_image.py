"""The container: what its Dockerfile says, and that what it installs starts where there is nothing else."""

import asyncio
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from orchestrator.local import free_port
from tests.emulators import Emulator, docker_engine_available
from tests.image.dockerfile import Stage, context, read
from tests.integration.deployment import WAIT_SECONDS_MAX, Deployment, deployed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "container.md").read_text()
APPLICATION = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
FINAL = read(ROOT / "Dockerfile")[-1]
BUILD = read(ROOT / "Dockerfile")[0]


def example() -> str:
    """Return the Dockerfile with which the page puts an application in."""
    found = re.search(r"```dockerfile\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    """Neither in ours nor in what the page shows."""
    (tmp_path / "Dockerfile").write_text(example())
    hadolint = Path(sys.executable).with_name("hadolint")
    files = [ROOT / "Dockerfile", tmp_path / "Dockerfile"]
    found = subprocess.run([hadolint, *files], capture_output=True, text=True, check=False)
    assert (0, "") == (found.returncode, found.stdout)


def test_a_node_is_its_only_process_and_is_nobody() -> None:
    """No shell stands between it and SIGTERM; its user is a number, which Kubernetes can tell from root."""
    assert ["orchestrator"] == FINAL.last("ENTRYPOINT").exec_form
    assert ["serve"] == FINAL.last("CMD").exec_form
    assert ["orchestrator", "health"] == FINAL.last("HEALTHCHECK").exec_form
    assert "SIGTERM" == FINAL.last("STOPSIGNAL").text
    uid, gid = FINAL.last("USER").text.split(":")
    assert min(int(uid), int(gid)) >= 10_000
    words = [each.word for each in FINAL.instructions]
    assert not {"RUN", "COPY"} & set(words[words.index("USER") :]), "nothing in the image is its user's"
    environment = {name: text for each in FINAL.all("ENV") for name, text in each.pairs.items()}
    assert ("0.0.0.0", "1") == (environment["ORCHESTRATOR_HOST"], environment["PYTHONDONTWRITEBYTECODE"])


def test_the_image_says_what_it_is_of_the_version_that_it_holds() -> None:
    """By OCI's labels; the default version is the project's, and Python the one that was locked for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    arguments = dict(each.text.split("=", 1) for each in FINAL.all("ARG"))
    labels = {name.rpartition(".")[2]: text for each in FINAL.all("LABEL") for name, text in each.pairs.items()}
    assert project["version"] == arguments["VERSION"]
    assert (project["license"], "${VERSION}", "${REVISION}") == tuple(
        labels[name] for name in ("licenses", "version", "revision")
    )
    (base,) = re.findall(
        r"^ARG PYTHON_IMAGE=python:([\d.]+)-slim-\w+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE
    )
    assert f"by pip-compile with Python {base}\n" in (ROOT / "requirements" / "runtime.txt").read_text()


def test_everything_is_installed_by_its_hash_or_without_a_network() -> None:
    """Whatever pip installs in the build: from a lock, or from a wheel that was built a line before."""
    runs = [run for stage in (BUILD, FINAL) for run in stage.all("RUN")]
    installs = [(run, part) for run in runs for part in run.text.split("&&") if " install " in part]
    assert installs
    for run, part in installs:
        is_hashed = "--require-hashes" in part and "--only-binary=:all:" in part
        is_local = run.flags.get("network") == "none" and "--no-index --no-deps" in part
        assert is_hashed or is_local, part
    assert ["none"] == [run.flags["network"] for run in runs if "pip wheel" in run.text]


def test_the_build_sees_what_it_copies_and_hardly_more() -> None:
    """`.dockerignore` names what the COPY lines do: no secret of a working copy gets into a layer."""
    copied = {ROOT / name for each in BUILD.all("COPY") for name in each.text.split()[:-1]}
    assert copied == set(context(ROOT))
    assert [] == [path for path in copied if not path.exists()]


# --- what it installs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment in which the build's last line was run, on the copied files and nothing else.

    The dependencies are those of this environment, where the same lock put them: to fetch them again takes minutes.
    """
    folder = tmp_path_factory.mktemp("image")
    for each in BUILD.all("COPY"):
        *sources, target = each.text.split()
        for source in sources:
            _copy(ROOT / source, folder / target / Path(source).name if target.endswith("/") else folder / target)
    environment = folder / "install"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python3.*/site-packages")
    # What a `.pth` file adds is looked at for packages, not for further such files: our own are not on the path.
    (packages / "locked.pth").write_text(str(Path(pytest.__file__).parents[1]))
    backend = folder / "backend" / "bin" / "python"
    backend.parent.mkdir(parents=True)
    backend.write_text(f'#!/bin/sh\nexec {environment}/bin/python "$@"\n')
    backend.chmod(0o755)
    line = BUILD.last("RUN").text.replace("/install", str(environment))
    outside = {"PATH": f"{environment}/bin:{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    ran = subprocess.run(line, shell=True, cwd=folder, env=outside, capture_output=True, text=True, check=False)
    assert 0 == ran.returncode, ran.stderr
    return environment


def _copy(source: Path, target: Path) -> None:
    for file in [source] if source.is_file() else sorted(source.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            place = target if file == source else target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())


def test_the_image_lists_what_it_holds(installed: Path) -> None:
    """As CycloneDX, which is checked against its schema; here only our own package is in the folder."""
    text = (installed / "share" / "session-orchestrator" / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert "session-orchestrator" == json.loads(text)["metadata"]["component"]["name"]


async def test_what_is_installed_starts_in_an_empty_folder_by_the_images_own_words(
    installed: Path, tmp_path: Path, ministack: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entry point, command, probe and environment are the Dockerfile's; not a byte can be written to any file."""
    (tmp_path / "research.py").write_text(APPLICATION)
    async with deployed(ministack, monkeypatch.setenv) as deployment:
        environment = _environment(deployment) | {"PATH": str(installed / "bin"), "ORCHESTRATOR_HOST": "127.0.0.1"}
        node = await _start([*_exec(FINAL, "ENTRYPOINT"), *_exec(FINAL, "CMD")], tmp_path, environment)
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                assert node.stderr is not None
                while b"node_ready" not in (line := await node.stderr.readline()):
                    assert line, "it ended"
                probe = await _start(_exec(FINAL, "HEALTHCHECK"), tmp_path, environment)
                said, failed = await probe.communicate()
                assert (0, b"") == (probe.returncode, failed)
                assert b"HEALTHY" in said
                for _ in range(2):
                    node.send_signal(signal.SIGTERM)
                    await node.stderr.readline()
                await node.communicate()
        finally:
            if node.returncode is None:
                node.kill()
    assert 0 == node.returncode
    assert ["research.py"] == os.listdir(tmp_path)


def _environment(deployment: Deployment) -> dict[str, str]:
    ours = {name: text for each in FINAL.all("ENV") for name, text in each.pairs.items()}
    port = str(free_port())
    return {**ours, **deployment.environment, "ORCHESTRATOR_PORT": port, "ORCHESTRATOR_APP": "research:app"}


def _exec(stage: Stage, word: str) -> list[str]:
    return stage.last(word).exec_form


async def _start(command: list[str], folder: Path, environment: dict[str, str]) -> asyncio.subprocess.Process:
    program = Path(environment["PATH"]) / command[0]
    return await asyncio.create_subprocess_exec(
        *(str(program), *command[1:]),
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )


# --- with an engine --------------------------------------------------------------------------------------------------


@pytest.fixture
def engine() -> SimpleNamespace:
    """The command line of a Docker engine."""
    if not docker_engine_available():
        pytest.skip("no Docker engine answers")

    def docker(*arguments: str) -> str:
        ran = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=900)
        assert 0 == ran.returncode, ran.stderr[-2_000:]
        return ran.stdout.strip()

    return SimpleNamespace(run=docker)


@pytest.mark.docker
@pytest.mark.timeout(1_200)
async def test_the_image_builds_and_runs_read_only_with_the_application_of_the_page(
    engine: SimpleNamespace, tmp_path: Path, ministack: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours first, the page's example on top of it; it is well by its own probe and ends with 0 when stopped."""
    ours, app = "session-orchestrator:under-test", "session-orchestrator:under-test-app"
    engine.run("build", "--tag", ours, str(ROOT))
    (tmp_path / "Dockerfile").write_text(example().replace("REGISTRY/session-orchestrator:0.1.0", ours))
    (tmp_path / "requirements.txt").write_text("# nothing besides\n")
    (tmp_path / "research.py").write_text(APPLICATION)
    engine.run("build", "--tag", app, str(tmp_path))
    async with deployed(ministack, monkeypatch.setenv) as deployment:
        variables = [f"--env={name}={text}" for name, text in _environment(deployment).items()]
        hardened = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=host")
        container = engine.run("run", "--detach", *hardened, *variables, app)
        try:
            follow = await asyncio.create_subprocess_exec(
                *("docker", "logs", "--follow", container), stderr=asyncio.subprocess.PIPE
            )
            assert follow.stderr is not None
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                while b"node_ready" not in (line := await follow.stderr.readline()):
                    assert line, "it ended"
            assert "HEALTHY" in engine.run("exec", container, "orchestrator", "health")
            assert "10001" == engine.run("exec", container, "id", "-u")
            await asyncio.to_thread(engine.run, "stop", "--time", "60", container)
            await follow.communicate()
            assert "0" == engine.run("inspect", "--format", "{{.State.ExitCode}}", container)
        finally:
            engine.run("rm", "--force", container)
