# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of a host as its rescue will have it: read, and planned by the addresses of the cards.

Private to the collection. Valid for Python 3.6, standard library.
"""

import os
from typing import Any, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._rescue import host as rescue_host

ROUTE_WITHOUT = ("linkdown", "dead", "onlink,linkdown")


def addresses(text):
    # type: (str) -> Dict[str, List[str]]
    """Interface -> addresses with prefix, from C(ip -o address show scope global). Temporary and dying ones are no use later."""
    found = {}  # type: Dict[str, List[str]]
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4 or words[2] not in ("inet", "inet6") or {"temporary", "deprecated", "tentative", "dadfailed"} & set(words):
            continue
        address = words[3] if "/" in words[3] else words[3] + ("/32" if words[2] == "inet" else "/128")
        if "peer" not in words:
            found.setdefault(words[1].split("@")[0], []).append(address)
    return found


def routes(text, family):
    # type: (str, int) -> List[Dict[str, Any]]
    """Routes that a person, DHCP or an announcement set, as words that C(ip route) takes again."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] in ("unreachable", "blackhole", "prohibit", "broadcast", "local", "multicast") or line[0].isspace():
            continue
        if "kernel" in words and words[words.index("kernel") - 1] == "proto":
            continue
        kept, skip = [], False
        for word in words:
            if skip or word in ("linkdown", "dead"):
                skip = False
                continue
            if word in ("expires", "proto", "pref", "src"):
                skip = True
                continue
            kept.append(word)
        found.append({"family": family, "words": kept})
    # A gateway must be reachable before a route goes over it.
    return sorted(found, key=lambda route: "via" in route["words"])


def route_problems(text, rules):
    # type: (str, str) -> List[str]
    """Ways of routing that the rescue would not set up again, and without which it might not be reached."""
    found = []
    if any(line.split()[:1] == ["nexthop"] for line in text.splitlines()):
        found.append("a route over several gateways cannot be taken over")
    known = ("local", "main", "default")
    if any(line.strip() and line.split()[-1] not in known for line in rules.splitlines()):
        found.append("rules of policy routing cannot be taken over (ip rule)")
    return found


def below(name, links, problems):
    # type: (str, Dict[str, Dict[str, Any]], List[str]) -> List[str]
    """An interface with all that it stands on, lowest first; empty where no card carries it. What cannot be taken over is a problem."""
    link = links.get(name)
    if link is None or link["kind"] not in ("card", "bond", "vlan", "bridge"):
        return []
    if link["kind"] == "card":
        return [name]
    if link.get("refused"):
        problems.append("%s %s" % (name, link["refused"]))
    found = []  # type: List[str]
    for lower in link["over"]:
        # A port that no card carries belongs to a guest or a container, and none of these runs here any more.
        found += [one for one in below(lower, links, problems) if one not in found]
    return found + [name] if found else []


def network_plan(links, by_address, all_routes, asked):
    # type: (Dict[str, Dict[str, Any]], Dict[str, List[str]], List[Dict[str, Any]], Optional[str]) -> Dict[str, Any]
    """{links, made, routes, problems}: cards, and what is made of them, lowest first, as the rescue sets them up.

    asked: the address by which the control node reaches this host, if known."""
    order, problems = [], []  # type: List[str], List[str]
    for name in sorted(by_address):
        order += [one for one in below(name, links, problems) if one not in order]
    cards, made = [], []
    for name in order:
        link = links[name]
        entry = {"name": name, "mac": link["mac"], "mtu": link["mtu"], "addresses": by_address.get(name, [])}
        if link["kind"] == "card":
            cards.append(entry)
        else:
            over = [lower for lower in link["over"] if lower in order]
            made.append(dict(entry, kind=link["kind"], over=over, options=link["options"]))
    known = {address.split("/")[0] for name in order for address in by_address.get(name, [])}
    if asked and asked not in known:
        holder = [name for name in by_address if asked in {one.split("/")[0] for one in by_address[name]}]
        problems.append(
            "the address %s that it is reached by lies on %s, which is neither a network card nor a bond, VLAN or bridge over one and "
            "cannot be taken over. Take the disk to the station" % (asked, holder[0] if holder else "no interface that was found")
        )
    if not order:
        problems.append("no network card with an address was found that the rescue could take over")
    kept = [route for route in all_routes if "dev" in route["words"] and route["words"][route["words"].index("dev") + 1] in order]
    return {"links": cards, "made": made, "routes": kept, "problems": problems}


def bond_options(base):
    # type: (str) -> Dict[str, str]
    """What C(ip link add type bond) takes of a running bond; the kernel writes words with their number behind."""
    options = {}  # type: Dict[str, str]
    for name in ("mode", "miimon", "updelay", "downdelay", "lacp_rate", "xmit_hash_policy", "fail_over_mac", "primary"):
        words = (rescue_host.read("%s/bonding/%s" % (base, name)) or "").split()
        # Zero is what it has anyway, and some are refused where they have no use.
        if words and words[0] != "0" and (name != "lacp_rate" or options.get("mode") == "802.3ad"):
            options[name] = words[0]
    return options


def vlans(text):
    # type: (str) -> Dict[str, List[str]]
    """Name -> [number, interface below], from /proc/net/vlan/config."""
    rows = [[word.strip() for word in line.split("|")] for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows if len(row) == 3 and row[1].isdigit()}


def links():
    # type: () -> Dict[str, Dict[str, Any]]
    folder, found = "/sys/class/net", {}
    tagged = vlans(rescue_host.read("/proc/net/vlan/config") or "")
    for name in os.listdir(folder):
        base = os.path.join(folder, name)
        if not os.path.isdir(base):
            continue
        # A card in a bond shows the bond's address; its own, by which the rescue will know it, stands beside.
        mac = (rescue_host.read(base + "/bonding_slave/perm_hwaddr") or rescue_host.read(base + "/address") or "").lower()
        link = {"mac": mac, "mtu": int(rescue_host.read(base + "/mtu") or 1500), "kind": "other", "over": [], "options": {}}
        if name in tagged:
            link.update(kind="vlan", over=[tagged[name][1]], options={"id": tagged[name][0]})
        elif os.path.isdir(base + "/bonding"):
            link.update(kind="bond", over=(rescue_host.read(base + "/bonding/slaves") or "").split(), options=bond_options(base))
            if (rescue_host.read(base + "/bonding/arp_interval") or "0") != "0":
                link["refused"] = "watches its cards by ARP (arp_interval), which cannot be taken over"
        elif os.path.isdir(base + "/bridge"):
            link.update(kind="bridge", over=sorted(os.listdir(base + "/brif")))
        elif os.path.exists(base + "/device"):
            link["kind"] = "card"
        found[name] = link
    return found


def network(ip, asked):
    # type: (str, Optional[str]) -> Dict[str, Any]
    text = rescue_host.output([ip, "-o", "address", "show", "scope", "global"])
    four, six = (rescue_host.output([ip, family, "route", "show", "table", "main"]) for family in ("-4", "-6"))
    plan = network_plan(links(), addresses(text), routes(four, 4) + routes(six, 6), asked)
    plan["problems"] += route_problems(
        four + six, rescue_host.output([ip, "-4", "rule", "show"]) + rescue_host.output([ip, "-6", "rule", "show"])
    )
    return plan
