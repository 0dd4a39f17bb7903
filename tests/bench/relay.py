# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wire of a given speed: what comes to a port of the loopback goes to another one, no faster than so many bytes a second each way.

    relay.py PORT TARGET_PORT BYTES_A_SECOND

For machines whose kernel cannot shape traffic. The bytes go from socket to socket inside the kernel (splice), so the wire costs little CPU.
"""

import contextlib
import os
import socket
import sys
import threading
import time

PIECE = 1 << 17


def carry(source: socket.socket, target: socket.socket, rate: float) -> None:
    reading, writing = os.pipe()
    free = time.monotonic()  # when the wire has carried all that was put on it
    try:
        while count := os.splice(source.fileno(), writing, PIECE):
            free = max(free, time.monotonic() - 0.01) + count / rate
            while count:
                count -= os.splice(reading, target.fileno(), count)
            if (ahead := free - time.monotonic()) > 0:
                time.sleep(ahead)
    except OSError:
        pass  # one of the ends is gone; the other learns it below
    for end, how in ((source, socket.SHUT_RD), (target, socket.SHUT_WR)):
        with contextlib.suppress(OSError):
            end.shutdown(how)
    os.close(reading)
    os.close(writing)


def main() -> None:
    port, behind, rate = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    with socket.create_server(("127.0.0.1", port)) as server:
        while True:
            near, _peer = server.accept()
            far = socket.create_connection(("127.0.0.1", behind))
            for ends in ((near, far), (far, near)):
                threading.Thread(target=carry, args=(*ends, rate), daemon=True).start()


if __name__ == "__main__":
    main()
