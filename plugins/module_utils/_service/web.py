# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An nginx site as far as a tombstone needs it: its server blocks, and how to answer 503 for exactly those.

Private to the collection; it may change at any time. Valid for Python 3.6. Pure: no file, no network.
"""

import html
import os
import re
from typing import Any, Dict, List, Optional, Tuple

MARKER = "Sunset-Tombstone"
FIRST_LINE = "# sunset.crm tombstone"
# What decides who is served and lets a TLS handshake succeed; everything else of a server block is left out.
KEPT = re.compile(r"^(listen|server_name|http2|ssl_[a-z0-9_]+)$")
NOT_KEPT = re.compile(r"^ssl_(stapling|trusted_certificate|verify|client_certificate|crl|early_data)")
# nginx refuses a single parameter of 4096 bytes and more
PAGE_LIMIT = 3800
PAGE = (
    "<!DOCTYPE html><html><head><meta charset=utf-8><title>%(title)s</title></head><body><h1>%(title)s</h1><p>%(message)s</p></body></html>"
)
SERVER = """server {
%(kept)s
    # Before any location is looked at: every path and every method get the same answer.
    default_type "text/html; charset=utf-8";
    add_header %(marker)s "%(item)s" always;
    add_header Cache-Control "no-store" always;
    return 503 "%(page)s";
}
"""


class SyntaxProblem(ValueError):
    """The file cannot be read as nginx would read it."""


def tokens(text: str) -> List[Tuple[str, int, int]]:
    """(token, start, end): words with their quotes, and the signs '{', '}' and ';'. Comments are left out."""
    found, at, length = [], 0, len(text)
    while at < length:
        char = text[at]
        if char.isspace():
            at += 1
        elif char == "#":
            end = text.find("\n", at)
            at = length if end < 0 else end
        elif char in "{};":
            found.append((char, at, at + 1))
            at += 1
        elif char in "\"'":
            end = _end_of_quotes(text, at)
            found.append((text[at:end], at, end))
            at = end
        else:
            end = _end_of_word(text, at)
            found.append((text[at:end], at, end))
            at = end
    return found


def _end_of_quotes(text: str, start: int) -> int:
    at = start + 1
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif text[at] == text[start]:
            return at + 1
        else:
            at += 1
    raise SyntaxProblem("a quotation mark in line %d is never closed" % (text.count("\n", 0, start) + 1))


def _end_of_word(text: str, start: int) -> int:
    at = start
    while at < len(text):
        if text[at] == "\\":
            at += 2
        elif text.startswith("${", at):
            end = text.find("}", at)
            at = len(text) if end < 0 else end + 1
        elif text[at].isspace() or text[at] in "{};":
            break
        else:
            at += 1
    return min(at, len(text))


def server_blocks(text: str) -> List[Dict[str, Any]]:
    """[{start, end, kept: [directive lines], includes: n, listens: n, names: [...]}] of the file's own server blocks."""
    blocks: List[Dict[str, Any]] = []
    depth, first = 0, 0
    words: List[str] = []
    block: Optional[Dict[str, Any]] = None
    for word, start, end in tokens(text):
        if word == "{":
            if depth == 0 and words == ["server"]:
                block = {"start": first, "kept": [], "includes": 0, "listens": 0, "names": []}
            depth += 1
            words = []
        elif word == "}":
            depth -= 1
            if depth < 0:
                raise SyntaxProblem("a closing brace too many in line %d" % (text.count("\n", 0, start) + 1))
            if depth == 0 and block is not None:
                blocks.append(dict(block, end=end))
                block = None
            words = []
        elif word == ";":
            if depth == 1 and block is not None and words:
                _take(block, words)
            words = []
        else:
            if not words:
                first = start
            words.append(word)
    if depth != 0:
        raise SyntaxProblem("%d closing brace(s) missing at the end" % depth)
    return blocks


def _take(block: Dict[str, Any], words: List[str]) -> None:
    if words[0] == "include":
        block["includes"] += 1
    if words[0] == "listen":
        block["listens"] += 1
    if words[0] == "server_name":
        block["names"].extend(words[1:])
    if KEPT.match(words[0]) and not NOT_KEPT.match(words[0]):
        block["kept"].append(" ".join(words) + ";")


def site_problem(blocks: List[Dict[str, Any]]) -> Optional[str]:
    """Why a tombstone cannot stand for this site; None if it can."""
    if not blocks:
        return "it has no server block of its own; name the file that holds the application's server block"
    hidden = [block for block in blocks if block["includes"] and not block["listens"]]
    if hidden:
        return (
            "a server block takes its listen lines from an include, so what it answers for cannot be known from this "
            "file; write its listen lines into the site file"
        )
    return None


def page(title: str, message: str) -> str:
    """The page as one nginx parameter. HTML entities stand for what nginx would read itself: quotes, $ and backslash."""
    values = {}
    for key, text in (("title", title), ("message", message)):
        text = html.escape(" ".join(text.split()))
        values[key] = text.replace("$", "&#36;").replace("\\", "&#92;")
    return (PAGE % values).replace('"', "&quot;")


def page_problem(title: str, message: str) -> Optional[str]:
    size = len(page(title, message).encode("utf-8"))
    if size > PAGE_LIMIT:
        return "title and message make a page of %d bytes, nginx takes %d; shorten the message" % (size, PAGE_LIMIT)
    return None


def header_value(item: str) -> str:
    """An item id as a header value and nginx parameter."""
    return re.sub(r"[^A-Za-z0-9._:@/ -]", "_", item)


def tombstone(text: str, item: str, title: str, message: str) -> str:
    """The site with each of its server blocks replaced. What else it defines (maps, log formats, upstreams) stays,
    because other sites may use it."""
    parts, at = ["%s for %s; the original lies beside it\n" % (FIRST_LINE, header_value(item))], 0
    for block in server_blocks(text):
        kept = "\n".join("    " + line for line in block["kept"]) or "    # no listen line: nginx's own default"
        parts.append(text[at : block["start"]])
        parts.append(SERVER % {"kept": kept, "marker": MARKER, "item": header_value(item), "page": page(title, message)})
        at = block["end"]
    parts.append(text[at:])
    return "".join(parts)


def is_tombstone(text: Optional[str]) -> bool:
    return text is not None and text.startswith(FIRST_LINE)


def original_name(path: str) -> str:
    """Where the original of a site file waits: beside it, under a name that no include pattern (*, *.conf) matches."""
    return os.path.join(os.path.dirname(path), "." + os.path.basename(path) + ".sunset-original")


def site_state(text: Optional[str], digest: Optional[str], original: Optional[str], wanted: Optional[str]) -> Tuple[str, str]:
    """(open | closed | stale | conflict | absent, message).

    text and digest are the site file's, original is the digest of the file that waits beside it, wanted the tombstone
    that should stand there now. stale: a tombstone, but not the wanted one.
    """
    if original is None:
        if text is None:
            return "absent", "no such file"
        if is_tombstone(text):
            return "conflict", "it is a tombstone, but the original beside it is gone; bring the original back first"
        return "open", ""
    if text is None or digest == original:
        return "open", ""
    if not is_tombstone(text):
        return "conflict", (
            "it was written anew after the web was closed (a configuration tool, a package) and differs from the "
            "original that waits beside it; stop that, make the two equal, run again"
        )
    return ("closed" if wanted is None or text == wanted else "stale"), ""


def probe_closed(probe: Dict[str, Any], item: str) -> bool:
    """Did this item's tombstone itself answer? A 503 alone may come from a broken application, or from another site."""
    return probe.get("status") == 503 and probe.get("marker") == header_value(item)
