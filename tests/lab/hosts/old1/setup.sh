# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# MariaDB on the loop medium, and the old system's own programs.
chown mysql:mysql /srv/mydata
[ -d /srv/mydata/mysql/mysql ] || mariadb-install-db --user=mysql --datadir=/srv/mydata/mysql --skip-test-db >/dev/null
install -o oldcrm -g oldcrm -m 0600 /dev/null /srv/oldcrm/my.cnf
cat >/srv/oldcrm/my.cnf <<C
[client]
user = oldcrm
password = $LAB_DB_PASSWORD
C
ln -sf ../sites-available/oldcrm.conf /etc/nginx/sites-enabled/oldcrm.conf
systemctl daemon-reload
systemctl --quiet enable --now mariadb.service
mariadb <<S
CREATE DATABASE IF NOT EXISTS oldcrm CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
CREATE USER IF NOT EXISTS oldcrm@localhost;
ALTER USER oldcrm@localhost IDENTIFIED BY '$LAB_DB_PASSWORD';
GRANT SELECT, INSERT, UPDATE, DELETE, EXECUTE ON oldcrm.* TO oldcrm@localhost;
S
systemctl --quiet enable nginx.service oldcrm-web.service oldcrm-worker.service
