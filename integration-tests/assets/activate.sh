#!/bin/sh
# The activation script of a toy system: links /run/current-system and the units, sets up what its
# checks look at. Run by switch-to-configuration (switch, test) and by init at boot; NIXOS_ACTION says
# which. LAB_ROOT is the machine's root, empty on a real machine.
#
# What is wrong with the system ($toplevel/toy/failure) shows here as:
#   activate   a part of the activation fails; the rest is done, as NixOS does it (exit 1)
#   hang       never ends; a boot does
#   health     /health is not served: the health check of this system fails
#   network    the machine's network card goes down with this system
LAB_ROOT=${LAB_ROOT:-}
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
action=${NIXOS_ACTION:-switch}
here=$(cd "$(dirname "$0")" && pwd -P) || exit 1
root=$LAB_ROOT
[ -z "$root" ] || root=$(cd "$root" && pwd -P) || exit 1
toplevel=${here#"$root"}
read -r failure <"$here/toy/failure"
status=0

mkdir -p "$root/run/nixos" "$root/run/toy/www" "$root/etc/systemd/system"

# Swaps the link $2 to point at $1, in one step.
link() {
    ln -sfn "$1" "$2.new" && mv -fT "$2.new" "$2"
}

# The units of the system that was active before go, those of this one come. Other files in
# /etc/systemd/system are not ours.
find "$root/etc/systemd/system" -type l | while read -r old; do
    case $(readlink "$old") in
    /nix/store/*/etc/systemd/system/*)
        name=${old#"$root/etc/systemd/system/"}
        [ -e "$here/etc/systemd/system/$name" ] || rm -f "$old"
        ;;
    esac
done
(cd "$here/etc/systemd/system" && find . ! -type d) | while read -r name; do
    name=${name#./}
    case $name in
    */*) mkdir -p "$root/etc/systemd/system/${name%/*}" ;;
    esac
    link "$toplevel/etc/systemd/system/$name" "$root/etc/systemd/system/$name"
done

case $failure in
activate)
    echo "activation: a snippet failed" >&2
    status=1
    ;;
hang)
    [ "$action" = boot ] || [ "$action" = start ] || sleep 86400
    ;;
esac

if [ "$failure" = health ]; then
    rm -f "$root/run/toy/www/health"
else
    printf 'ok\n' >"$root/run/toy/www/health.new" && mv -f "$root/run/toy/www/health.new" "$root/run/toy/www/health"
fi

# A snippet that belongs to the machine.
if [ -x "$root/etc/lab-toy/activate" ] && ! "$root/etc/lab-toy/activate" "$toplevel"; then
    echo "activation: the machine's own snippet failed" >&2
    status=1
fi

network=up
[ "$failure" != network ] || network=down
printf '%s\n' "$network" >"$root/run/toy/network"
if [ -z "$root" ]; then
    ip link set eth0 "$network" 2>/dev/null || :
fi

link "$toplevel" "$root/run/current-system"
exit $status
