# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# Virtual machines on real libvirt and real QEMU, in software. Their disks lie on the loop medium.
#   crm-wiki     a Linux of a few MB that obeys the power button; starts with its host
#   crm-fax      an appliance without an operating system, which obeys the power button too
#   crm-archive  off, for years
# Debian's libvirt does not start without the account that its package makes, though nothing here runs as it.
id -u libvirt-qemu >/dev/null 2>&1 || useradd --system --user-group --home-dir /var/lib/libvirt --shell /usr/sbin/nologin libvirt-qemu
systemctl --quiet enable --now libvirtd.service
install -d -m 0700 /srv/kvm/images
cp /usr/local/lib/lab/vmlinuz /usr/local/lib/lab/initrd /srv/kvm/images/
# What the guests keep: text with marks, behind the first sector, which is what the appliance starts from.
disk() { # name, first sector, text
    local raw=/srv/kvm/images/$1.raw
    truncate -s 4M "$raw"
    dd if="$2" of="$raw" conv=notrunc status=none
    dd if="$3" of="$raw" bs=512 seek=1 conv=notrunc status=none
}
lab=/usr/local/lib/lab
disk crm-wiki /dev/null $lab/wiki.txt
disk crm-fax $lab/obeys.bin $lab/fax.txt
disk crm-archive /dev/null $lab/archive.txt
qemu-img convert -f raw -O qcow2 /srv/kvm/images/crm-archive.raw /srv/kvm/images/crm-archive.qcow2
rm /srv/kvm/images/crm-archive.raw
domain() { # name, MiB of memory, format of the disk, what it starts from
    virsh -q define /dev/stdin <<X
<domain type='qemu'>
  <name>$1</name>
  <memory unit='MiB'>$2</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type>$4</os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file'><driver name='qemu' type='$3'/><source file='/srv/kvm/images/$1.$3'/><target dev='hda' bus='ide'/></disk>
    <serial type='file'><source path='/var/log/$1.console'/></serial>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
X
}
images=/srv/kvm/images
# no_timer_check: in software the timer may be late, which a kernel that checks it takes for broken.
domain crm-wiki 80 raw "<kernel>$images/vmlinuz</kernel><initrd>$images/initrd</initrd><cmdline>quiet no_timer_check mitigations=off agent</cmdline>"
domain crm-fax 16 raw ''
domain crm-archive 16 qcow2 ''
virsh -q autostart crm-wiki
