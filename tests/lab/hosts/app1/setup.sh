# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Creme CRM: its project lies in the image, its database on db1, its uploads on the loop medium.
install -d -o creme -g creme -m 0755 /srv/creme/media /srv/creme/media/upload
# Its key and its queue lie on the medium too: whatever is preserved has to be on a disk of the plan.
install -d -o creme -g creme -m 0750 /srv/creme/media/etc
install -d -o redis -g redis -m 0750 /srv/creme/media/queue
install -d /etc/systemd/system/redis-server.service.d
printf '[Service]\nReadWritePaths=/srv/creme/media/queue\n' >/etc/systemd/system/redis-server.service.d/lab.conf
sed -i 's,^dir .*,dir /srv/creme/media/queue,' /etc/redis/redis.conf
mkdir -p /srv/legacy-report
echo 'Nothing to report.' >/srv/legacy-report/index.html

install -o creme -g creme -m 0640 /dev/null /srv/creme/media/etc/local_settings.py
ln -sfn /srv/creme/media/etc/local_settings.py /srv/creme/cremeproj/cremeproj/local_settings.py
cat >/srv/creme/media/etc/local_settings.py <<S
DEBUG = False
SECRET_KEY = '$LAB_DB_PASSWORD-creme'
DATABASES = {
    'default': {
        'ENGINE': 'django.db.backends.postgresql',
        'NAME': 'creme',
        'USER': 'creme',
        'PASSWORD': '$LAB_DB_PASSWORD',
        'HOST': 'db1',
        'PORT': '5432',
    },
}
JOBMANAGER_BROKER = 'redis://@127.0.0.1:6379/0'
SITE_DOMAIN = 'http://app1'
S
ln -sf ../sites-available/creme.conf /etc/nginx/sites-enabled/creme.conf
systemctl daemon-reload
systemctl --quiet enable --now redis-server.service legacy-report.service
systemctl --quiet enable nginx.service creme-web.service creme-jobs.service
