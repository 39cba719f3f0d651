"""The files in deploy/: checked, and run without systemd, Docker or Kubernetes where possible."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import closing, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import kubernetes_validate
import psutil
import pytest
import yaml

from mop_config.cli.input import parse_environment
from mop_config.server.parsing.render import EMPTY_BODY, render
from mop_config.server.settings import Settings, UrlRules

from .conftest import SAMPLE, need_program, skip
from .ports import free_ports
from .servers import ENDPOINTS, ROOT, Server, running
from .waiting import wait_for

DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "deploy.md").read_text()
MOP_CONFIG = str(Path(sys.executable).parent / "mop-config")
#: The user of the container.
USER = 10001


# -- systemd


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """Copy both units, with the program's path on this machine."""
    for kind in ("service", "socket"):
        text = (DEPLOY / f"mop-config.{kind}").read_text()
        text = text.replace("/opt/mop-config/bin/mop-config", MOP_CONFIG)
        (tmp_path / f"mop-config.{kind}").write_text(text)
    return sorted(tmp_path.iterdir())


def test_systemd_takes_the_units(units: list[Path]) -> None:
    """systemd accepts the units without a warning."""
    command = [need_program("systemd-analyze"), "--man=no", "verify", *map(str, units)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_is_locked_down(units: list[Path]) -> None:
    """The exposure level by systemd-analyze is low, and the page states a level."""
    command = [need_program("systemd-analyze"), "security", "--offline=true", "--no-pager"]
    done = subprocess.run(
        [*command, str(units[0])], capture_output=True, text=True, check=True, errors="replace"
    )
    match = re.search(r"Overall exposure level for mop-config.service: ([\d.]+)", done.stdout)
    assert match is not None
    assert float(match[1]) < 2.0
    assert re.search(r"exposure level of \*\*[\d.]+\*\*", PAGE)


def test_the_service_starts_with_no_state_but_its_own() -> None:
    """The service owns only its state folder, and no mount hides edits of the endpoint file."""
    text = (DEPLOY / "mop-config.service").read_text()
    settings = dict(
        line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Za-z]+=", line)
    )
    assert settings["ProtectSystem"] == "strict"
    assert settings["StateDirectory"] == "mop-config"
    assert settings["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert not {"ReadOnlyPaths", "BindPaths", "BindReadOnlyPaths"} & set(settings)
    users = (DEPLOY / "mop-config.sysusers").read_text()
    assert f"u {settings['User']} " in users


def test_the_settings_stand_in_one_file() -> None:
    """The unit sets no variables, so that --env-file gives a command every setting."""
    unit = (DEPLOY / "mop-config.service").read_text()
    assert "\nEnvironmentFile=/etc/mop-config/environment\n" in unit
    assert not re.search(r"^Environment=", unit, re.MULTILINE)
    text = (DEPLOY / "mop-config.environment").read_text()
    settings = parse_environment("environment", text)
    assert settings == {
        "ENDPOINT_CONFIG_FILE": "/etc/mop-config/endpoints.txt",
        "ENDPOINT_STATE_DIR": "/var/lib/mop-config",
    }
    suggested = dict(re.findall(r"^#([A-Z_]+)=(.*)$", text, re.MULTILINE))
    assert Settings.from_environ({**settings, **suggested}).warnings == ()
    for name, value in {"HOST": "127.0.0.1", "PORT": "8000"}.items():
        assert suggested[name] == value


def test_gunicorn_tells_systemd_that_it_listens(tmp_path: Path) -> None:
    """gunicorn notifies systemd when it listens, as Type=notify requires."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(30)
        with running(
            tmp_path,
            SAMPLE,
            workers=1,
            command=[MOP_CONFIG, "serve"],
            NOTIFY_SOCKET=str(tmp_path / "notify"),
        ):
            assert listener.recv(4096).startswith(b"READY=1\n")


@pytest.mark.parametrize("worker", ["asgi", "gthread"])
def test_a_socket_of_systemds_is_taken_instead_of_host_and_port(
    tmp_path: Path, worker: str
) -> None:
    """gunicorn uses systemd's socket although its configuration names an address."""
    activate = need_program("systemd-socket-activate")
    port, unused = free_ports(2)
    # systemd-socket-activate passes only the variables that its options name.
    environ = {
        "ENDPOINT_CONFIG_FILE": str(SAMPLE),
        "ENDPOINT_STATE_DIR": str(tmp_path / "state"),
        "PORT": str(unused),
        "WORKER_CLASS": worker,
        "PYTHONPATH": str(ROOT),
        "PATH": os.environ["PATH"],
    }
    options = [f"--setenv={name}={value}" for name, value in environ.items()]
    command = [activate, f"--listen=127.0.0.1:{port}", *options, MOP_CONFIG, "serve"]
    server = Server(command, tmp_path, {})
    try:
        wait_for(lambda: "Listening on" in server.log, seconds=30, what="systemd listens")
        server.port = port
        # The first connection starts the server, which answers it.
        assert server.get("/health").json["status"] == "healthy"
        server.wait_until_up(workers=2)
        assert server.port == port
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", unused), 5)
    finally:
        assert server.stop() == 0


# -- the container


def _instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their keywords, in order."""
    text = (DEPLOY / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(None, 1)[1]) for line in text.splitlines() if line]


INSTRUCTIONS = _instructions()


def _the(keyword: str) -> str:
    """Return the argument of the last instruction with the keyword, which takes effect."""
    return [argument for word, argument in INSTRUCTIONS if word == keyword][-1]


def _exec_form(text: str) -> list[str]:
    command = json.loads(text[text.index("[") :])
    assert all(isinstance(word, str) for word in command)
    return [str(word) for word in command]


def _environ() -> dict[str, str]:
    pairs = [argument.split("=", 1) for word, argument in INSTRUCTIONS if word == "ENV"]
    return dict(pairs)


def test_the_image_does_not_run_as_root() -> None:
    """The image sets a numeric user, which Kubernetes checks; the state folder is that user's."""
    assert _the("USER") == f"{USER}:{USER}"
    assert _the("VOLUME") == _environ()["ENDPOINT_STATE_DIR"]
    runs = [argument for word, argument in INSTRUCTIONS if word == "RUN"]
    assert any(f"install -d -o {USER} -g {USER} -m 700 {_the('VOLUME')}" in run for run in runs)
    assert _environ()["PORT"] == _the("EXPOSE")


def _copied() -> list[str]:
    """Return the paths that the Dockerfile copies from the source tree."""
    copies = [argument.split()[:-1] for word, argument in INSTRUCTIONS if word == "COPY"]
    return [name for names in copies for name in names if not any("--from" in n for n in names)]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    """The Dockerfile copies existing files, .dockerignore keeps them, and excludes all others."""
    patterns = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert patterns[0] == "*"
    admitted = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    assert admitted == {name.removeprefix("./") for name in _copied()}
    assert all((ROOT / name).exists() for name in admitted)
    assert any(fnmatch("mop_config/__pycache__", pattern) for pattern in patterns)


def test_what_is_installed_has_everything() -> None:
    """The wheel that the Dockerfile builds from setup.cfg contains the non-Python files."""
    (step,) = [a for word, a in INSTRUCTIONS if word == "RUN" and "pip install" in a]
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    match = re.fullmatch(r"\.\[([a-z,]+)\]", shlex.split(step)[-1])
    assert match is not None
    assert set(match[1].split(",")) <= set(config["options.extras_require"])
    assert _exec_form(_the("CMD"))[0] in config["options.entry_points"]["console_scripts"]
    globs = config["options.package_data"]["mop_config"].split()
    for path in (ROOT / "mop_config").rglob("*"):
        name = str(path.relative_to(ROOT / "mop_config"))
        if path.is_file() and path.suffix not in {".py", ".pyc"}:
            assert any(fnmatch(name, glob) for glob in globs), name


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Copy the files that the Dockerfile copies, and no others."""
    for name in _copied():
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, tmp_path / "src" / name, ignore=ignored)
        else:
            (tmp_path / "src").mkdir(exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / "src" / name)
    return tmp_path / "src"


#: A read-only root, another user and process id 1, as a container engine sets up.
CONTAINER = (
    "mount --make-rprivate / && mount -o remount,bind,ro / && mount -t tmpfs tmpfs {tmp}"
    " && mkdir {tmp}/volume && exec unshare --user --map-user={user} --map-group={user} {command}"
)


@contextmanager
def contained(folder: Path, command: list[str], **environ: str) -> Iterator[Server]:
    """Run a command as in a container that can write only to a tmpfs folder."""
    if os.geteuid() != 0:
        skip("only root can make a read-only root")
    unshare = [
        need_program("unshare"),
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        skip("this system makes no namespaces")
    tmp = folder / "tmp"
    tmp.mkdir()
    script = CONTAINER.format(tmp=tmp, user=USER, command=shlex.join(command))
    server = Server(
        [*unshare, "sh", "-c", script],
        folder,
        {
            "ENDPOINT_CONFIG_FILE": str(SAMPLE),
            "ENDPOINT_STATE_DIR": str(tmp / "volume"),
            "TMPDIR": str(tmp),
            "PORT": "0",
            **environ,
        },
    )
    try:
        yield server.wait_until_up(workers=2)
    finally:
        server.stop()


def _first_process(server: Server) -> psutil.Process:
    """Return the process with id 1 inside the container."""
    (inside,) = psutil.Process(server.pid).children()
    return inside


def test_the_image_serves_on_a_read_only_root_as_process_1(source: Path, tmp_path: Path) -> None:
    """On a read-only root as process 1, HUP reloads, TERM ends, and the health check works."""
    command = [sys.executable, "-m", "mop_config", *_exec_form(_the("CMD"))[1:]]
    given = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(source)}
    with contained(tmp_path, command, **given) as server:
        process = _first_process(server)
        status = (Path("/proc") / str(process.pid) / "status").read_text()
        assert re.search(r"^NSpid:.*\t1$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert server.status()["state"] == "fresh"
        assert "read-only" not in server.log.lower()
        workers = {worker["pid"] for worker in server.status()["workers"]}
        process.send_signal(1)
        wait_for(
            lambda: server.status()["last_reload"]["trigger"] == "sighup",
            seconds=30,
            what="SIGHUP reaches the workers",
        )
        assert {worker["pid"] for worker in server.status()["workers"]} == workers
        check = [sys.executable, *_exec_form(_the("HEALTHCHECK"))[1:]]
        environ = {**os.environ, "PORT": str(server.port)}
        assert subprocess.run(check, env=environ, check=False).returncode == 0
        process.send_signal(15)
        assert server.process.wait(40) == 0
        dead = subprocess.run(check, env=environ, check=False, capture_output=True)
        assert dead.returncode == 1


# -- the service's filter of system calls


def _system_calls() -> set[str]:
    """Return the system calls that the service's filter allows, by systemd's own sets."""
    command = [need_program("systemd-analyze"), "syscall-filter", "--no-pager"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    sets: dict[str, set[str]] = {}
    names: set[str] = set()
    for line in done.stdout.splitlines():
        if line.startswith("@"):
            names = sets.setdefault(line.strip(), set())
        elif line.strip() and not line.strip().startswith("#"):
            names.add(line.strip())

    def flat(name: str) -> set[str]:
        if not name.startswith("@"):
            return {name}
        return set().union(*map(flat, sets[name]))

    text = (DEPLOY / "mop-config.service").read_text()
    allowed: set[str] = set()
    for name in re.findall(r"^SystemCallFilter=(.+)", text, re.MULTILINE):
        allowed = allowed - flat(name[1:]) if name.startswith("~") else allowed | flat(name)
    return allowed


@pytest.mark.parametrize("worker", ["asgi", "gthread"])
def test_the_server_makes_no_system_call_that_the_service_forbids(
    worker: str, tmp_path: Path
) -> None:
    """The server's calls from start over edit and SIGHUP to stop all pass the filter."""
    allowed = _system_calls()
    trace, file = tmp_path / "trace", tmp_path / "site" / "endpoints.txt"
    file.parent.mkdir()
    file.write_text("DomainList: a.example\n")
    strace = [need_program("strace"), "-f", "-qq", "-o", str(trace)]
    if subprocess.run([*strace, "true"], check=False, capture_output=True).returncode:
        skip("this system lets nobody be traced")
    # gunicorn makes further calls as root.
    other = [need_program("unshare"), "--user", f"--map-user={USER}", f"--map-group={USER}"]
    if subprocess.run([*other, "true"], check=False, capture_output=True).returncode:
        skip("this system makes no namespaces")
    command = [*other, *strace, MOP_CONFIG, "serve"]
    with running(tmp_path, file, command=command, WORKER_CLASS=worker) as server:
        file.write_text("DomainList: b.example\n")
        wait_for(lambda: server.hosts() == ["b.example"], seconds=30, what="the edit is served")
        assert server.get(f"{ENDPOINTS}?wait=0").status == 200
        master = psutil.Process(server.status()["workers"][0]["pid"]).parent()
        assert master is not None
        master.send_signal(1)
        wait_for(
            lambda: server.status()["last_reload"]["trigger"] == "sighup",
            seconds=30,
            what="SIGHUP reloads",
        )
        master.send_signal(15)
        assert server.process.wait(40) == 0
    used = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE))
    assert len(used) > 30
    assert used <= allowed, used - allowed


# -- compose


def test_compose_holds_together() -> None:
    """Every service, volume, file and health check that compose.yaml refers to exists."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"etcd", "mop-config", "nginx"}
    for name, service in services.items():
        assert ("image" in service) != ("build" in service), name
        for other, condition in service.get("depends_on", {}).items():
            # Our service has the image's health check.
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in services[other] or other == "mop-config"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            found = (DEPLOY / source).exists() if "/" in source else source in compose["volumes"]
            assert found, volume
        if "network_mode" in service:
            assert service["network_mode"].removeprefix("service:") in services
    build = services["mop-config"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    assert _the("HEALTHCHECK")
    ours = services["mop-config"]
    assert (ours["read_only"], ours["cap_drop"], ours["tmpfs"]) == (True, ["ALL"], ["/tmp"])


def test_compose_takes_it() -> None:
    """The file matches compose's own schema, which needs no engine."""
    command = [need_program("docker-compose"), "-f", str(DEPLOY / "compose.yaml")]
    assert subprocess.run([*command, "config", "--quiet"], check=False).returncode == 0


# -- Kubernetes


def _manifests() -> dict[str, Any]:
    folder = DEPLOY / "kubernetes"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert {*listed, "kustomization.yaml"} == {path.name for path in folder.iterdir()}
    found = [yaml.safe_load((folder / name).read_text()) for name in listed]
    return {manifest["kind"]: manifest for manifest in found}


MANIFESTS = _manifests()


@pytest.mark.parametrize("kind", MANIFESTS)
def test_kubernetes_takes_the_manifests(kind: str) -> None:
    """The manifests match the published strict schema and name no namespace."""
    kubernetes_validate.validate(MANIFESTS[kind], "1.31", strict=True)
    assert "namespace" not in MANIFESTS[kind]["metadata"]


def _pod() -> Any:
    return MANIFESTS["Deployment"]["spec"]["template"]["spec"]


def test_the_manifests_name_each_other() -> None:
    """Selectors, ports, the ConfigMap and the scaled deployment refer to each other correctly."""
    deployment = MANIFESTS["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    assert MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    scaled = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("Deployment", deployment["metadata"]["name"])
    (container,) = _pod()["containers"]
    (port,) = MANIFESTS["Service"]["spec"]["ports"]
    assert port["targetPort"] in {each["name"] for each in container["ports"]}
    assert container["ports"][0]["containerPort"] == int(_environ()["PORT"])
    assert "cpu" in container["resources"]["requests"], "the autoscaler needs it"
    volumes = {volume["name"]: volume for volume in _pod()["volumes"]}
    assert set(volumes) == {mount["name"] for mount in container["volumeMounts"]}
    assert volumes["endpoints"]["configMap"]["name"] == MANIFESTS["ConfigMap"]["metadata"]["name"]


def test_the_pod_is_locked_down_and_sees_edits() -> None:
    """The pod mounts no subPath, which never updates; name, paths and user are the image's."""
    (container,) = _pod()["containers"]
    assert f"docker build -f deploy/Dockerfile -t {container['image']} ." in PAGE
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert not any("subPath" in mount for mount in mounts.values())
    file = {item["name"]: item["value"] for item in container["env"]}["ENDPOINT_CONFIG_FILE"]
    assert str(Path(file).parent) == mounts["endpoints"]["mountPath"]
    assert Path(file).name in MANIFESTS["ConfigMap"]["data"]
    assert mounts["state"]["mountPath"] == _environ()["ENDPOINT_STATE_DIR"]
    assert _pod()["securityContext"]["runAsUser"] == USER
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    graceful, pause = 30, int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert _pod()["terminationGracePeriodSeconds"] > graceful + pause


def test_the_list_of_the_config_map_is_a_good_one() -> None:
    """The ConfigMap's list has no problems."""
    (text,) = MANIFESTS["ConfigMap"]["data"].values()
    rendering = render(text.encode(), UrlRules(), EMPTY_BODY)
    assert rendering.problems == ()
    assert rendering.api_count == 3


def test_the_probes_ask_what_the_server_answers(tmp_path: Path) -> None:
    """Liveness does not depend on the list, and readiness does."""
    (container,) = _pod()["containers"]
    paths = {name: container[name]["httpGet"]["path"] for name in container if "Probe" in name}
    assert paths["livenessProbe"] == paths["startupProbe"]
    with running(tmp_path, tmp_path / "missing.txt", workers=1) as server:
        assert server.get(paths["livenessProbe"]).status == 200
        assert server.get(paths["readinessProbe"]).status == 503
        (tmp_path / "missing.txt").write_text("DomainList: a.example, b.example\n")
        wait_for(
            lambda: server.get(paths["readinessProbe"]).status == 200,
            seconds=30,
            what="the pod becomes ready",
        )
