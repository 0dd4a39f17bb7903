# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's rescue as something that its firmware can start: an ISO image, or files for the network; and how it is given out.

What is given out holds the private host key of the rescue, so it is there under a name that nobody guesses, for the time of one boot.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.power import booting

# A hybrid image for BIOS and UEFI: these modules are all that its loader needs to read itself and to start a kernel.
MODULES = "linux normal echo test all_video iso9660 part_msdos part_gpt search"
MKRESCUE = ("grub-mkrescue", "grub2-mkrescue")
KERNEL, ARCHIVE = "vmlinuz", "rescue.img"
LOADERS = {"bios": ("BIOS", "grub-pc-bin"), "uefi": ("UEFI", "grub-efi-amd64-bin")}
BLOCK = 1 << 20
BUSY_PATIENCE = 600.0
RANGE = re.compile(r"^bytes=(\d*)-(\d*)$")


# --- made: from the host's kernel and the archive that was built on the host


def fetched(reach: relay.Reach, path: str, digest: str, target: Path, *, packed: bool = False) -> int:
    """A file of the host, whole and as the host's own evidence says; compressed on the way where wanted. Its size here."""
    seen = hashlib.sha256()
    with target.open("wb") as plain:
        target.chmod(0o600)
        packer = gzip.GzipFile(filename="", mode="wb", fileobj=plain, compresslevel=6, mtime=0) if packed else None
        with relay.stream(reach, path) as blocks:
            for block in blocks:
                seen.update(block)
                (packer or plain).write(block)
        if packer:
            packer.close()
    if seen.hexdigest() != digest:
        raise Refusal(
            f"{reach.name}: {path} arrived with another digest than it was built with; nothing was changed but a folder of its disk"
        )
    return target.stat().st_size


def menu(arguments: str) -> str:
    """The loader's configuration: one entry, at once. Raises Refusal for an argument that its quotes could not hold. Pure."""
    if any(letter in "'\"\\" or not letter.isprintable() for letter in arguments):
        raise Refusal(f"the kernel arguments {arguments!r} hold quotes or control characters, which the loader would read otherwise")
    words = " ".join(f"'{word}'" for word in arguments.split())
    return f"set timeout=0\nset default=0\nmenuentry rescue {{\n  linux /boot/{KERNEL} {words}\n  initrd /boot/{ARCHIVE}\n}}\n"


def iso(kernel: Path, archive: Path, arguments: str, firmware: str, target: Path) -> dict[str, Any]:
    """Make the image and read it again: {bytes, sha256, starts}. Raises Refusal where its parts are not in it, or this firmware cannot start it."""
    tool = next((found for name in MKRESCUE if (found := shutil.which(name))), None)
    if tool is None or shutil.which("xorriso") is None:
        raise Refusal(
            "an ISO image is made by grub-mkrescue and xorriso, and the control node has not got them: apt install grub-common grub-pc-bin "
            "grub-efi-amd64-bin mtools xorriso"
        )
    tree = target.with_name("tree")
    (tree / "boot/grub").mkdir(parents=True, mode=0o700)
    try:
        for source, name in ((kernel, KERNEL), (archive, ARCHIVE)):
            os.link(source, tree / "boot" / name)
        (tree / "boot/grub/grub.cfg").write_text(menu(arguments), encoding="ascii")
        _tool([tool, f"--output={target}", f"--install-modules={MODULES}", "--fonts=", "--locales=", "--themes=", str(tree)])
    finally:
        shutil.rmtree(tree)
    target.chmod(0o600)
    starts = started_by(_tool(["xorriso", "-indev", str(target), "-report_el_torito", "plain"]))
    word, package = LOADERS[firmware]
    if word not in starts:
        raise Refusal(
            f"the image that was made starts on {' and '.join(starts) or 'nothing'}, and this host starts by {word}: the control node lacks "
            f"{package}"
        )
    inside = target.with_name("inside")
    inside.mkdir(mode=0o700)
    try:
        _tool(["xorriso", "-osirrox", "on", "-indev", str(target), "-extract", "/boot", str(inside / "boot")])
        for source, name in ((kernel, KERNEL), (archive, ARCHIVE)):
            if _digest(inside / "boot" / name) != _digest(source):
                raise Refusal(f"{name} in the image that was made is not the one that was put in")
    finally:
        shutil.rmtree(inside)
    return {"bytes": target.stat().st_size, "sha256": _digest(target), "starts": starts}


def started_by(report: str) -> list[str]:
    """The kinds of firmware in C(xorriso -report_el_torito plain). Pure."""
    found = set()
    for line in report.splitlines():
        words = line.split()
        if line.startswith("El Torito boot img") and "y" in words:
            found |= {word for word in words if word in ("BIOS", "UEFI")}
    return sorted(found)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tool(argv: list[str]) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False, env={**os.environ, "LC_ALL": "C"}
    )
    if done.returncode != 0:
        raise Refusal(f"{Path(argv[0]).name} failed with exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


# --- given out


class Served:
    """One file at one address, for the time of the block. Controllers read what they need of it, piece by piece."""

    def __init__(self, serve: str, token: str, path: Path, patience: float = BUSY_PATIENCE) -> None:
        self._where, self._token, self._path, self._patience = booting.listening(serve), token, path, patience
        self._lock = threading.Lock()
        self.readers: dict[str, int] = {}

    def __enter__(self) -> Served:
        served = self

        class Handler(_Handler):
            given = served

        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._server = ThreadingHTTPServer(self._where, Handler)
                break
            except OSError as exc:
                # Another host of this run is given its rescue under the same address: one after the other.
                if exc.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
                    raise Refusal(
                        f"the control node cannot listen on {self._where[0]} port {self._where[1]} ({exc.strerror}), where sunset_rescue_boot "
                        "(serve) has it give out the rescue. Nothing was changed."
                    ) from None
                time.sleep(1)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def path_of(self, address: str) -> Path | None:
        return self._path if address == f"/{self._token}/rescue.iso" else None

    def count(self, reader: str, number: int) -> None:
        with self._lock:
            self.readers[reader] = self.readers.get(reader, 0) + number


def part(header: str | None, size: int) -> tuple[int, int] | None:
    """First and last byte of a request for a part; the whole without one, or with one of several parts. None: there is no such part. Pure."""
    found = RANGE.match(header or "")
    if not found or not (found.group(1) or found.group(2)):
        return 0, size - 1
    if not found.group(1):
        return (max(0, size - int(found.group(2))), size - 1) if int(found.group(2)) else None
    first = int(found.group(1))
    last = min(int(found.group(2)), size - 1) if found.group(2) else size - 1
    return (first, last) if first <= last else None


class _Handler(BaseHTTPRequestHandler):
    given: Served
    protocol_version = "HTTP/1.1"
    timeout = 120

    def log_message(self, *_args: Any) -> None:
        pass

    def _answer(self) -> None:
        path = self.given.path_of(self.path)
        if path is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        span = part(self.headers.get("Range"), size)
        if span is None:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        first, last = span
        partial = (first, last) != (0, size - 1)
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        for name, value in (
            ("Content-Type", "application/octet-stream"),
            ("Content-Length", str(last - first + 1)),
            ("Accept-Ranges", "bytes"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        # A reader that goes away has had what it wanted.
        with path.open("rb") as stream, contextlib.suppress(OSError):
            stream.seek(first)
            left = last - first + 1
            while left and (block := stream.read(min(BLOCK, left))):
                self.wfile.write(block)
                left -= len(block)
                self.given.count(self.client_address[0], len(block))

    do_GET = do_HEAD = _answer


@contextlib.contextmanager
def given_out(boot: Mapping[str, Any], token: str, name: str, files: Mapping[str, Path]) -> Iterator[dict[str, int]]:
    """The rescue where the host's firmware gets at it, until the end of the block; who read how much of it, where that is seen.

    files: C(iso), or C(kernel), C(archive) and C(menu) for the network."""
    if boot.get("serve"):
        with Served(str(boot["serve"]), token, files["iso"]) as served:
            yield served.readers
        return
    folder = Path(str(boot["publish"]))
    if not folder.is_dir():
        raise Refusal(
            f"the folder {folder}, into which the rescue is to be published (sunset_rescue_boot), is not there. Nothing was changed."
        )
    laid: list[Path] = []
    try:
        try:
            _publish(boot, token, folder / name, files, laid)
        except OSError as exc:
            raise Refusal(f"the rescue cannot be published in {folder}: {exc.strerror}. Nothing was changed.") from None
        yield {}
    finally:
        for path in reversed(laid):
            with contextlib.suppress(OSError):
                path.rmdir() if path.is_dir() else path.unlink()


def _publish(boot: Mapping[str, Any], token: str, place: Path, files: Mapping[str, Path], laid: list[Path]) -> None:
    """Lay the files out for somebody else's server; what was laid is noted, so that it goes again."""
    if boot["way"] == "media":
        laid.append(place.with_name(f"{token}.iso"))
        _lay(files["iso"], laid[-1])
        return
    place.mkdir(mode=0o755, exist_ok=True)
    laid.append(place)
    for path in files.values():
        laid.append(place / path.name)
        _lay(path, laid[-1])


def _lay(source: Path, target: Path) -> None:
    """A copy that somebody else's server may read: whole, or not there."""
    temporary = target.with_name(f".{target.name}.part")
    shutil.copyfile(source, temporary)
    temporary.chmod(0o644)
    temporary.replace(target)
