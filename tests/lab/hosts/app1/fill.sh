# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Once, into an empty database: Creme's own schema and start data; fill.py follows.
cd /srv/creme/cremeproj
creme() { runuser -u creme -- /opt/creme/venv/bin/creme "$@" --settings=cremeproj.settings; }
creme migrate --verbosity 0
creme creme_populate --verbosity 0
