# SPDX-License-Identifier: Apache-2.0
"""Downloads by huggingface_hub from a server on this machine that speaks as the hub does."""

import hashlib
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

pytest.importorskip("huggingface_hub")

CONTENT = bytes(range(256)) * 4096 * 16  # 16 MiB: more than one block of the client
ETAG = hashlib.sha256(CONTENT).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """One file; the first transfer of it is cut off in the middle."""

    protocol_version = "HTTP/1.1"
    ranges: ClassVar[list[str | None]] = []
    cut_off = True

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        if not self.path.startswith("/owner/name/resolve/main/weights.pth"):
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        asked = re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range") or "")
        first = int(asked.group(1)) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", f'"{ETAG}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(CONTENT) - first))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        if not with_body:
            return
        type(self).ranges.append(self.headers.get("Range"))
        if type(self).cut_off and first == 0:
            self.wfile.write(CONTENT[: len(CONTENT) * 3 // 4])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(CONTENT[first:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub():
    Hub.ranges, Hub.cut_off = [], True
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


PROGRAM = """
import sys
from ns_diff3r.backbones.weights.fetching import fetch_weights
try:
    print(*fetch_weights(sys.argv[1], sys.argv[2] or None))
except ValueError as error:
    print("refused:", error)
    sys.exit(3)
"""


def fetch(endpoint: str, home, reference: str, sha256: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its settings when it is imported."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "XDG_CACHE_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), "")
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, reference, sha256],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **proxies, **settings, **more, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_download_that_is_cut_off_is_continued_and_checked(hub, tmp_path):
    done = fetch(hub, tmp_path, "owner/name/weights.pth", ETAG)
    tries = 1
    while done.returncode and tries < 3:  # the client may or may not try again by itself
        Hub.cut_off = False
        done = fetch(hub, tmp_path, "owner/name/weights.pth", ETAG)
        tries += 1
    assert done.returncode == 0, done.stdout + done.stderr
    path, digest = done.stdout.split()[-2:]
    assert digest == ETAG
    with open(path, "rb") as stream:
        assert stream.read() == CONTENT
    continued = [asked for asked in Hub.ranges if asked and not asked.startswith("bytes=0-")]
    assert continued, Hub.ranges  # the second transfer did not begin anew
    assert "weights.pth" in done.stderr  # a bar was shown
    count = len(Hub.ranges)
    assert fetch(hub, tmp_path, "owner/name/weights.pth").returncode == 0
    assert len(Hub.ranges) == count  # from the cache


def test_another_digest_is_refused(hub, tmp_path):
    Hub.cut_off = False
    done = fetch(hub, tmp_path, "owner/name/weights.pth", "00ff")
    assert done.returncode == 3
    assert "expected 00ff" in done.stdout


def test_a_file_that_the_hub_has_not(hub, tmp_path):
    done = fetch(hub, tmp_path, "owner/name/other.pth")
    assert done.returncode == 3
    assert "no such file" in done.stdout


def test_no_network(tmp_path):
    # Without HF_HUB_OFFLINE the client tries for half a minute, and then ends in the same way.
    done = fetch("http://127.0.0.1:9", tmp_path, "owner/name/weights.pth", HF_HUB_OFFLINE="1")
    assert done.returncode == 3
    assert "Without network: download https://huggingface.co/owner/name/resolve/main/weights.pth" in done.stdout
    assert "Traceback" not in done.stderr
