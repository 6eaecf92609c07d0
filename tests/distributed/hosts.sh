#!/bin/sh
# Two hosts on one machine: network namespaces NAME-1 and NAME-2 with the addresses 10.77.0.1 and 10.77.0.2, whose network
# devices net0 are the ends of one cable. BINADE_HOSTS is NAME. Needs root and iproute2.
#   hosts.sh up | down | bytes        bytes: how many host 1 has sent over the cable
#   hosts.sh on 1|2 PROGRAM...        runs it there
#   hosts.sh [-FLAG...] ADDRESS COMMAND   in place of ssh, for mpiexec
set -e
PATH=$PATH:/usr/sbin:/sbin
name=${BINADE_HOSTS:?}

# A host of its own: its name, and no memory shared with the other.
on() {
  host=$1
  shift
  exec ip netns exec "$name-$host" unshare --uts --ipc sh -c 'hostname "$0"; exec "$@"' "host$host" "$@"
}

case $1 in
  up)
    ip netns add "$name-1"
    ip netns add "$name-2"
    ip link add net0 netns "$name-1" type veth peer name net0 netns "$name-2"
    for host in 1 2; do
      ip -n "$name-$host" address add "10.77.0.$host/24" dev net0
      ip -n "$name-$host" link set net0 up
      ip -n "$name-$host" link set lo up
    done
    for host in 1 2; do  # the kernel takes up to a second to say that a link is up; programs ignore it until then
      until ip -n "$name-$host" link show net0 | grep -q LOWER_UP.*state.UP; do sleep 0.05; done
    done ;;
  down)
    for host in 1 2; do ip netns delete "$name-$host" 2>/dev/null || true; done ;;
  bytes) ip netns exec "$name-1" cat /sys/class/net/net0/statistics/tx_bytes ;;
  on) shift; on "$@" ;;
  *)
    while [ "${1#-}" != "$1" ]; do shift; done
    host=${1##*.}
    shift
    on "$host" sh -c "$*" ;;
esac
