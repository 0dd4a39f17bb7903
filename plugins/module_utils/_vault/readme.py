# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""README.txt of a sealed package, for the person who opens it in ten years with stock tools and nothing of ours.

Private to the collection. Valid for Python 3.6, standard library. Each block of commands is run by a test as it stands.
"""

from typing import Any, Dict, List  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault.contents import plain_name
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import KEYS

HEAD = """This folder is a sealed archive package of a retired CRM system
================================================================

Estate:     {estate}
Package:    {package}
Sealed:     {date}
Retention:  {retention}

It is a BagIt 1.0 bag (RFC 8493). Everything below data/ is encrypted with age (https://age-encryption.org, format
age-encryption.org/v1, X25519). You need: a shell, sha256sum, age, and zstd or gzip. To restore, the program that each part names.

Set these five to your own, then copy the blocks into the same shell, in their order:

    PACKAGE=/path/to/this/folder
    KEYS=/path/to/the/folder/keys
    CUSTODIAN={first}
    IDENTITY=/path/to/the/age/identity/of/that/custodian
    OUT=/path/to/an/empty/folder

    set -eu; umask 077

KEYS lies beside this folder on the vault (../keys), and every custodian should have a copy of the own files. OUT will hold readable
customers' data: choose a disk where it may lie, and remove it when you are done.

1. Is it whole? (no key is needed)
----------------------------------

    cd "$PACKAGE"
    sha256sum -c --quiet --strict tagmanifest-sha256.txt
    sha256sum -c --quiet --strict manifest-sha256.txt
    test "$(find data -type f | wc -l)" = "$(wc -l <manifest-sha256.txt)"

The file tagmanifest-sha256.txt was signed by the machine that ran the retirement. This shows with which key; that it is the right one
is told by the estate's records (ledger.jsonl, allowed_signers):

    ssh-keygen -Y check-novalidate -n package@sunset.crm -s tagmanifest-sha256.txt.sig <tagmanifest-sha256.txt

2. Open the package's key
-------------------------

The package has a key of its own, which was given, encrypted, to each of these custodians:

{custodians}
    age -d -i "$IDENTITY" -o "$OUT/package.identity" "$KEYS/{package}.$CUSTODIAN.age"
    echo "{identity_digest}  $OUT/package.identity" | sha256sum -c --quiet
"""

SECOND = """
Keys that the CRM itself needed (to read encrypted fields, for instance) are encrypted to a second key:

    age -d -i "$IDENTITY" -o "$OUT/keys.identity" "$KEYS/{package}.keys.$CUSTODIAN.age"
    echo "{identity_digest}  $OUT/keys.identity" | sha256sum -c --quiet
"""

OPEN = """
3. Decrypt and decompress
-------------------------

{blocks}
Are these the files that were made at the source, before and after decompression? What is in the package, and how it was proven, is said
by contents.json (contents.schema.json describes its form):

    age -d -i "$OUT/package.identity" -o "$OUT/inner-manifest.txt" data/inner-manifest.age
    (cd "$OUT" && sha256sum -c --quiet --strict inner-manifest.txt)
    age -d -i "$OUT/package.identity" -o "$OUT/contents.json" data/contents.json.age

4. Restore
----------

Only what you need, on a machine without a network, as an administrator of an empty server of the same version or a newer one.

{restores}
*.fingerprint.json and *.manifest.jsonl say what was counted and read at the source; compare with them.

5. Destroy
----------

Not before the retention has ended, and never while a legal hold stands; the estate's records say both. To destroy this package for good,
destroy every copy of its key: the files {package}.*.age in keys/ on every vault and with every custodian, and what was made of them.
"""

RESTORES = (
    (
        ".globals.sql",
        "PostgreSQL, roles (that a role or a tablespace's directory is, or is not, there already is no fault):",
        'psql -X -q -d template1 -f "$OUT/{file}" >"$OUT/roles.log"',
    ),
    (
        ".pgcustom",
        "PostgreSQL, one database (it is created under its own name; the server's own database 'postgres', which has nothing in it, is renamed\n"
        "where it stands in the way). Extensions are made in the server's version; the source's is in *.fingerprint.json (notes).\n"
        "Where contents.json names statements that were 'set again' (proven.depth), restore with --section=pre-data first, run them in the new\n"
        "database, then restore into it (-d its name, without -C) with --section=data --section=post-data:",
        'if pg_restore -l "$OUT/{file}" | grep -qx "; *dbname: postgres"; then\n'
        '        psql -X -q -d template1 -c "ALTER DATABASE postgres RENAME TO postgres_before"\n'
        "    fi\n"
        '    pg_restore -e -C --no-tablespaces -d template1 "$OUT/{file}"',
    ),
    (
        ".mysql.sql",
        "MySQL (not MariaDB), one database:",
        'mysql --default-character-set=utf8mb4 --binary-mode --max-allowed-packet=1G <"$OUT/{file}"',
    ),
    (
        ".mysql-users.sql",
        "MySQL (not MariaDB), accounts and grants, after all databases (what is said of databases that are not restored is no fault; accounts\n"
        "that are there already keep their password):",
        'mysql --default-character-set=utf8mb4 --force <"$OUT/{file}"',
    ),
    (".sql", "MariaDB, one database:", 'mariadb --default-character-set=utf8mb4 --binary-mode --max-allowed-packet=1G <"$OUT/{file}"'),
    (
        ".users.sql",
        "MariaDB, accounts and grants, after all databases, since a grant needs its table (log in as an administrator of a name that is not\n"
        "in the file; what is said of databases that are not restored is no fault):",
        'mariadb --default-character-set=utf8mb4 --force <"$OUT/{file}"',
    ),
    (
        ".domain.xml",
        "The definition of a virtual machine of libvirt (its disks are the files beside it, put where the definition says):",
        'virsh define "$OUT/{file}"',
    ),
    (
        ".definition.json",
        "The definition of a guest on Proxmox VE (its disks are not in this package; a backup lies on the storage that the ledger names):",
        'jq .config "$OUT/{file}"',
    ),
    (".image.tar", "The image of a container:", 'docker load -i "$OUT/{file}"'),
    (".tar", "Files (as root, to have their owners too):", 'mkdir "$OUT/{slug}.tree" && tar -xpf "$OUT/{file}" -C "$OUT/{slug}.tree"'),
    (".sqlite3", "SQLite; the file is the database:", 'sqlite3 "$OUT/{file}" "PRAGMA integrity_check"'),
    (
        ".redis.jsonl",
        "Redis; one JSON line a key, its dump (base64) is for RESTORE, its end in milliseconds since 1970. Into an empty server that has as\n"
        "many databases (setting 'databases'; a new one has 16), and then how many keys there must be and how many there are (keys that have\n"
        "ended meanwhile are not; functions, if a line holds them, are for FUNCTION RESTORE):",
        """sed -n 's/^{{"db": \\([0-9]*\\), "dump": "\\([^"]*\\)", "expires": \\([^,]*\\), "key": "\\([^"]*\\)".*/\\1 \\2 \\3 \\4/p' "$OUT/{file}" |
    while read -r db dump until key; do
        name=$(printf %s "$key" | base64 -d; echo .); name=${{name%.}}
        printf %s "$dump" | base64 -d | redis-cli -n "$db" -x RESTORE "$name" 0 | grep -qx OK || exit
        [ "$until" = null ] || redis-cli -n "$db" PEXPIREAT "$name" "$until" </dev/null >/dev/null
    done
    grep -c '"dump"' "$OUT/{file}"; redis-cli INFO keyspace""",
    ),
    (
        ".zip",
        "Tables as CSV in UTF-8, with a table schema (Frictionless) beside each; needs no database:",
        'mkdir "$OUT/{slug}.tables" && unzip -q "$OUT/{file}" -d "$OUT/{slug}.tables"',
    ),
)


def text(document, facts):
    # type: (Dict[str, Any], Dict[str, Any]) -> str
    """The README of a package, from its contents.json and package.json."""
    retention, custodians = facts["retention"], sorted({one["custodian"] for one in facts["wrapped"]})
    words = "class %s, %s%s" % (
        retention["class"],
        "to be kept until %s" % retention["until"] if retention["until"] else "no end is set",
        ", UNDER LEGAL HOLD when it was sealed" if retention["hold"] else "",
    )
    said = HEAD.format(
        estate=facts["estate"],
        package=facts["package"],
        date=facts["sealed"],
        retention=words,
        first=custodians[0],
        custodians="".join("  - %s\n" % name for name in custodians),
        identity_digest=facts["identity_digest"],
    )
    if facts.get("keys_identity_digest"):
        said += SECOND.format(package=facts["package"], identity_digest=facts["keys_identity_digest"])
    blocks = "\n".join(opening(one) for one in document["data_sets"])
    return said + OPEN.format(package=facts["package"], blocks=blocks, restores="\n".join(restoring(document)))


def opening(one):
    # type: (Dict[str, Any]) -> str
    """The commands that decrypt and decompress one data set."""
    identity = "keys.identity" if one["identity"] == KEYS else "package.identity"
    lines = ["%s:" % one["item"], "", '    mkdir "$OUT/%s"' % one["slug"]]
    for artefact in one["artefacts"]:
        target = "%s/%s" % (one["slug"], artefact["file"])
        lines += decrypting(identity, [part["path"] for part in artefact["files"]], target)
        if artefact["file"].endswith(".zst"):
            lines.append('    zstd -d -q "$OUT/%s"' % target)
        elif artefact["file"].endswith(".gz"):
            lines.append('    gzip -d -k "$OUT/%s"' % target)
    for part in (one.get("readable") or {}).get("files", []):
        target = part["path"][len("data/") : -len(".age")]
        lines += ['    mkdir -p "$OUT/readable"'] + decrypting(identity, [part["path"]], target)
    return "\n".join(lines) + "\n"


def decrypting(identity, paths, target):
    # type: (str, List[str], str) -> List[str]
    """One file is decrypted to its place; several are segments, decrypted one after another and joined."""
    if len(paths) == 1:
        return ['    age -d -i "$OUT/%s" -o "$OUT/%s" %s' % (identity, target, paths[0])]
    # All numbers have the same width, so the shell lists them in their order; the digest below tells if not.
    stem = paths[0].rsplit(".", 2)[0]
    return [
        "    for part in %s.*.age; do" % stem,
        '        age -d -i "$OUT/%s" "$part" || exit' % identity,
        '    done >"$OUT/%s"' % target,
    ]


def restoring(document):
    # type: (Dict[str, Any]) -> List[str]
    """The commands that restore, in the order in which they work: roles before what they own, and what is granted before the grants."""
    found = []
    for one in document["data_sets"]:
        files = [(one["slug"] + "/" + plain_name(artefact["file"]), one["slug"]) for artefact in one["artefacts"]]
        files += [(part["path"][len("data/") : -len(".age")], one["slug"]) for part in (one.get("readable") or {}).get("files", [])]
        for name, slug in files:
            fitting = [(len(row[0]), rank) for rank, row in enumerate(RESTORES) if name.endswith(row[0])]
            if fitting:
                rank = max(fitting)[1]
                _ending, what, command = RESTORES[rank]
                found.append((one["slug"], rank, "%s\n\n    %s\n" % (what, command.format(file=name, slug=slug))))
    return [words for _slug, _rank, words in sorted(found)]
