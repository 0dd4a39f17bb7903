# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# shellcheck shell=bash
#
# What the scripts share. Source it; it changes nothing by itself.

SUNSET_TOP="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
# Outside the checkout, so that a clean clone finds the wheels, images and the prepared CRM of the one before.
SUNSET_CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/sunset-crm"
# What one running estate needs: keys, loop files, the daemon's log.
SUNSET_STATE="${SUNSET_LAB_STATE:-$SUNSET_TOP/.lab}"
export SUNSET_TOP SUNSET_CACHE SUNSET_STATE

say() { printf '%s: %s\n' "${0##*/}" "$*"; }
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# One of several runs at a time works on a shared thing; the others wait and say so.
take_lock() { # file
    mkdir -p "$(dirname "$1")"
    exec 9>"$1"
    if ! flock -n 9; then
        say "waiting for another run that holds $1"
        flock 9
    fi
}
