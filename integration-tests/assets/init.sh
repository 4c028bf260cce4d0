#!/bin/sh
# Stage 2 of a toy system: what the boot loader starts. Activates the system, says which one was
# booted and becomes systemd. With LAB_ROOT set (a directory machine) it ends instead.
#
# What is wrong with the system ($toplevel/toy/failure) shows here as:
#   panic   it ends at once, and the kernel panics
LAB_ROOT=${LAB_ROOT:-}
export LAB_ROOT
here=$(cd "$(dirname "$0")" && pwd -P) || exit 1
root=$LAB_ROOT
[ -z "$root" ] || root=$(cd "$root" && pwd -P) || exit 1
read -r failure <"$here/toy/failure"
if [ "$failure" = panic ] && [ -z "$root" ]; then
    echo "this system does not boot" >&2
    exit 1
fi
mkdir -p "$root/run"
NIXOS_ACTION=start "$here/activate"
ln -sfn "${here#"$root"}" "$root/run/booted-system.new" &&
    mv -fT "$root/run/booted-system.new" "$root/run/booted-system"
[ -n "$root" ] || exec /lib/systemd/systemd "$@"
