# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# The old system's background work: a beat in the database every few seconds.
while :; do
    mariadb --defaults-file=/srv/oldcrm/my.cnf oldcrm -e "UPDATE worker SET beats = beats + 1, seen = NOW()"
    sleep 3
done
