"""The service on each member: a real nginx that says who it is.

GET /who?TOKEN        the member's name and the token, on one line: clients verify both
GET /file             the bytes of a large file (see Service.offer)
PUT /upload/NAME      stored by nginx under Service.uploads
"""

from __future__ import annotations

from pathlib import Path

from .shell import wait_until
from .topology import Host

_CONFIG = """
user root;
daemon off;
worker_processes 1;
error_log stderr warn;
pid {home}/nginx.pid;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    client_max_body_size 1g;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    server {{
        listen 0.0.0.0:80 backlog=4096;
        location = /who {{ return 200 "{name} $args\\n"; }}
        location = /file {{ alias {home}/file; }}
        location /upload/ {{ alias {home}/uploads/; dav_methods PUT; }}
        location / {{ return 404; }}
    }}
}}
"""


class Service:
    """nginx on a host."""

    def __init__(self, host: Host, home: Path) -> None:
        self.name = host.name
        self.host = host
        self.home = home
        self.uploads = home / "uploads"
        self.uploads.mkdir(parents=True)
        (home / "nginx.conf").write_text(_CONFIG.format(home=home, name=self.name))
        self.start()

    def start(self) -> None:
        """Starts nginx, at first and after `stop`."""
        self.process = self.host.start(
            ["nginx", "-p", str(self.home), "-e", "stderr", "-c", str(self.home / "nginx.conf")],
            log=self.home / "nginx.log",
        )
        wait_until(self._accepts, f"nginx of {self.name} to listen", timeout=10)

    def offer(self, source: Path) -> None:
        """What `/file` serves."""
        (self.home / "file").symlink_to(source)

    def stop(self) -> None:
        """Ends nginx."""
        self.process.stop()

    def _accepts(self) -> bool:
        if not self.process.alive():
            raise RuntimeError(f"nginx of {self.name} ended: {self.process.log_text().strip()}")
        try:
            self.host.connect(80, timeout=1).close()
        except OSError:
            return False
        return True
