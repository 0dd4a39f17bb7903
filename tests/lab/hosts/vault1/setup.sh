# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The vault: an unprivileged account that the control node logs in to, and one that can only append ledger copies.
install -d -o vault -g vault -m 0700 /srv/vault /srv/vault/.ssh
install -o vault -g vault -m 0600 /etc/lab/control.pub /srv/vault/.ssh/authorized_keys
install -d -o ledger -g ledger -m 0700 /srv/ledger
install -d -m 0755 /etc/ssh/authorized_keys
printf 'restrict,command="/usr/bin/python3 -I /usr/local/lib/sunset/ledger_receiver.py /srv/ledger" %s\n' \
    "$(cat /etc/lab/ledger.pub)" >/etc/ssh/authorized_keys/ledger
