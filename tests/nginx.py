"""A real nginx with one of the configurations in ``deploy/``."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from .servers import ROOT
from .waiting import answers

_MAIN = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
{user}
events {{}}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {included}
}}
"""


def adapt(name: str, folder: Path, port: int, *, app: int = 9, root: Path | None = None) -> str:
    """Make the changes in a configuration of ``deploy/`` that its head comment names."""
    text = (ROOT / "deploy" / name).read_text()
    changes = {
        "listen 80;": f"listen 127.0.0.1:{port};",
        "server 127.0.0.1:8000;": f"server 127.0.0.1:{app};",
        "root /srv/mop-config;": f"root {root};",
        "/var/cache/nginx/mop-config": f"{folder}/cache",
        "server_name config.example.com;": "server_name _;",
    }
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


@contextlib.contextmanager
def nginx(folder: Path, included: str, port: int, prefix: Sequence[str] = ()) -> Iterator[int]:
    """Run nginx with a configuration in its http block, and yield its process id."""
    folder.mkdir(exist_ok=True)
    user = "user root;" if os.geteuid() == 0 else ""  # only root can enter the folder
    config = folder / "nginx.conf"
    config.write_text(_MAIN.format(folder=folder, user=user, included=included))
    command = [*prefix, shutil.which("nginx") or "nginx", "-p", str(folder), "-c", str(config)]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        answers(port)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)
