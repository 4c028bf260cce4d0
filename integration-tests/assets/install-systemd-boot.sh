#!/bin/sh
# Installs the boot entries of a machine that has systemd-boot, in the order of work of nixpkgs'
# systemd-boot-builder.py: kernels and initrds of all generations, one entry for each, named by what
# is in it, then loader.conf; what no generation needs any more goes. $1 is the system that is to be
# the default. Where it counts boots (toy/boot-tries), a new entry has counters in its name, and
# loader.conf prefers the default and names all: a system without tries left is passed over.
set -eu
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
default=$1
esp=/boot
entries=$esp/loader/entries
read -r tries <"$default/toy/boot-tries"
counters=''
[ "$tries" = 0 ] || counters=+$tries
mkdir -p "$entries" "$esp/EFI/nixos"

# Copies a file of the store and prints its name below the ESP.
copy() {
    from=$(readlink -f "$1")
    name=${from#/nix/store/}
    name=EFI/nixos/$(printf '%s' "$name" | tr / -).efi
    if [ ! -e "$esp/$name" ]; then
        cp "$from" "$esp/$name.tmp"
        sync "$esp/$name.tmp"
        mv -f "$esp/$name.tmp" "$esp/$name"
    fi
    printf '%s' "$name"
}

default_id=''
kept=' '
numbers=$(find /nix/var/nix/profiles -name 'system-*-link' | sed 's/.*system-\([0-9]*\)-link/\1/' | sort -n)
for number in $numbers; do
    system=$(readlink -f "/nix/var/nix/profiles/system-$number-link")
    kernel=$(copy "$system/kernel")
    initrd=$(copy "$system/initrd")
    text="title NixOS
version Generation $number toy $(cat "$system/nixos-version")
linux /$kernel
initrd /$initrd
options init=$system/init $(cat "$system/kernel-params")
machine-id $(cat /etc/machine-id)
sort-key nixos"
    id=nixos-$(printf '%s' "$text" | sha256sum | cut -d' ' -f1)
    entry=''
    for there in "$entries/$id.conf" "$entries/$id"+*.conf; do
        [ ! -e "$there" ] || entry=$there
    done
    if [ -z "$entry" ]; then
        entry=$entries/$id$counters.conf
        printf '%s' "$text" >"$entry.tmp"
        sync "$entry.tmp"
        mv -f "$entry.tmp" "$entry"
    fi
    kept="$kept$entry $esp/$kernel $esp/$initrd "
    [ "$system" != "$default" ] || default_id=$id
done

{
    echo "timeout 0"
    if [ -z "$default_id" ]; then
        echo "default nixos-*"
    elif [ -n "$counters" ]; then
        echo "preferred $default_id.conf"
        echo "default nixos-*"
    else
        echo "default $default_id.conf"
    fi
} >"$esp/loader/loader.conf.tmp"
sync "$esp/loader/loader.conf.tmp"
mv -f "$esp/loader/loader.conf.tmp" "$esp/loader/loader.conf"

for there in "$entries"/nixos-* "$esp/EFI/nixos"/*; do
    case $kept in
    *" $there "*) ;;
    *) rm -f "$there" ;;
    esac
done
