# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PostgreSQL on the loop medium. A cluster that lies there already is taken as it is.
chown postgres:postgres /var/lib/postgresql
conf=/etc/postgresql/15/main
if [ ! -e $conf/start.conf ]; then
    # A cluster's configuration lies in /etc, apart from its data: a copy beside the data comes with the medium.
    kept=/var/lib/postgresql/.etc-postgresql
    if [ -e $kept/15/main/start.conf ]; then
        cp -a $kept/15 /etc/postgresql/
    else
        pg_createcluster --locale C.UTF-8 15 main -- --wal-segsize=4 >/dev/null
        rm -rf $kept
        cp -a /etc/postgresql $kept
    fi
fi
install -d -o postgres -g postgres $conf/conf.d
cat >$conf/conf.d/lab.conf <<C
listen_addresses = '*'
shared_buffers = 64MB
max_wal_size = 64MB
min_wal_size = 16MB
max_connections = 60
timezone = 'Europe/Paris'
C
grep -q '^include_dir' $conf/postgresql.conf || echo "include_dir = 'conf.d'" >>$conf/postgresql.conf
grep -q '^host creme' $conf/pg_hba.conf ||
    printf 'host creme creme %s scram-sha-256\n' "$LAB_SUBNET" >>$conf/pg_hba.conf
systemctl --quiet enable postgresql.service
systemctl start postgresql@15-main.service postgresql.service

sql() { runuser -u postgres -- psql -qAtX -v ON_ERROR_STOP=1 "$@"; }
[ "$(sql -c "SELECT 1 FROM pg_roles WHERE rolname = 'creme'")" = 1 ] || sql -c 'CREATE ROLE creme LOGIN'
sql <<S
ALTER ROLE creme PASSWORD '$LAB_DB_PASSWORD';
S
[ "$(sql -c "SELECT 1 FROM pg_database WHERE datname = 'creme'")" = 1 ] || sql -c 'CREATE DATABASE creme OWNER creme'
# What nobody planned: somebody's database on the same server.
if [ "$(sql -c "SELECT 1 FROM pg_database WHERE datname = 'forgotten'")" != 1 ]; then
    sql -c 'CREATE DATABASE forgotten'
    sql -d forgotten <<S
CREATE TABLE parking_permits (id serial PRIMARY KEY, plate text NOT NULL, holder text NOT NULL, until date);
INSERT INTO parking_permits (plate, holder, until)
    SELECT 'LAB-' || n, 'Holder ' || n, DATE '2026-01-01' + n FROM generate_series(1, 40) AS n;
S
fi
