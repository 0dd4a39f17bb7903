# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Run inside each host after its first start (and again by every `up`), before the host's own setup.sh.
set -euo pipefail
. /etc/lab.env
systemctl --quiet enable --now ssh.service cron.service
