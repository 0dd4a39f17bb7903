# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
for guest in crm-wiki crm-fax; do
    [ "$(virsh domstate "$guest")" = running ] || virsh -q start "$guest"
done
