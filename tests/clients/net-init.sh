#!/bin/sh
# /init of the network test's initramfs: an address by DHCP, then what the command line names.
#   fetch=PORT    takes what the host serves there, and says its sum
#   echo          answers on port 7 with what it is sent
mount -t proc proc /proc
mount -t devtmpfs dev /dev 2>/dev/null
for m in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover \
    net_failover virtio_net; do
    [ ! -f /modules/$m.ko ] || insmod /modules/$m.ko
done
cat >/tmp/bound <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "NET address $ip/$mask router $router dns $dns name $hostname"
END
chmod 755 /tmp/bound
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -n -q -t 10 -T 1 -s /tmp/bound 2>/dev/null || echo "NET no address"
ping -c 2 -W 5 10.0.2.2 >/dev/null && echo "NET ping ok"
for word in $(cat /proc/cmdline); do
    case $word in
    fetch=*)
        echo "NET sum $(nc 10.0.2.2 "${word#fetch=}" </dev/null | md5sum | cut -c1-32)"
        ;;
    echo)
        echo "NET listening"
        nc -l -p 7 -e cat
        echo "NET echoed"
        ;;
    esac
done
echo "NET errors $(cat /sys/class/net/eth0/statistics/rx_errors 2>/dev/null)"
poweroff -f
