# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# One machine for a whole simulated cluster: its API answers for three nodes and their guests, none of which exists.
install -d -m 0700 /srv/simulated
systemctl --quiet enable --now pveproxy.service
