#!/bin/sh
# switch-to-configuration of a toy system: check | switch | boot | test | dry-activate, with the order
# of work, the lock, the recovery lists and the exit statuses of NixOS' own:
#   0 done · 1 refused, or the boot loader could not be installed · 2 the activation script failed ·
#   4 a unit failed · 11 another switch is running · 100 the init interface differs, reboot to use it
# LAB_ROOT is the machine's root: empty on a real machine, a directory where systemd is stood in for
# (then calls of systemctl are only written to the log, /run/nixos/toy.log).
#
# What is wrong with the system ($toplevel/toy/failure) shows here as:
#   precheck     the pre-switch check refuses (exit 1)
#   bootloader   the boot loader cannot be installed (exit 1)
#   slow         installing the boot loader takes a second
#   units        a unit fails to start (exit 4)
#   init         the init interface differs (exit 100)
LAB_ROOT=${LAB_ROOT:-}
export LAB_ROOT
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
NIXOS_ACTION=${1:-}
export NIXOS_ACTION
usage() {
    echo "usage: $0 check | switch | boot | test | dry-activate" >&2
    exit 1
}
[ $# -eq 1 ] || usage
case $NIXOS_ACTION in
check | switch | boot | test | dry-activate) ;;
*) usage ;;
esac

here=$(cd "$(dirname "$0")/.." && pwd -P) || exit 1
root=$LAB_ROOT
[ -z "$root" ] || root=$(cd "$root" && pwd -P) || exit 1
toplevel=${here#"$root"}
state=$root/run/nixos
units=$root/etc/systemd/system
read -r failure <"$here/toy/failure"
mkdir -p "$state" "$root/boot" "$units"

log() {
    printf '%s %s\n' "$NIXOS_ACTION" "$*" >>"$state/toy.log"
}

# systemctl without the lock's descriptor; only recorded in a directory machine.
systemctl_() {
    log "systemctl $*"
    [ -n "$root" ] || systemctl --no-ask-password "$@" 9>&-
}

is_active() {
    [ -n "$root" ] || systemctl --quiet is-active "$1" 9>&-
}

exec 9>"$state/switch-to-configuration.lock" || exit 1
if ! flock -n 9; then
    echo "Could not acquire lock" >&2
    exit 11
fi
log "$toplevel"

# --- pre-switch checks ---------------------------------------------------------------------------
if [ "${NIXOS_NO_CHECK:-0}" != 1 ]; then
    if [ "$failure" = precheck ]; then
        echo "Pre-switch check 'toy' failed" >&2
        echo "Pre-switch checks failed" >&2
        exit 1
    fi
    case $NIXOS_ACTION in
    switch | test)
        present=$root$(readlink "$root/run/current-system")/switch-inhibitors
        # Whole files are compared: the toy systems of one machine have the same keys.
        if [ -e "$present" ] && ! cmp -s "$present" "$here/switch-inhibitors"; then
            echo "Switch inhibitors differ: $(cat "$present") -> $(cat "$here/switch-inhibitors")" >&2
            echo "Pre-switch checks failed" >&2
            exit 1
        fi
        ;;
    esac
fi
[ "$NIXOS_ACTION" != check ] || exit 0

# --- the boot loader -----------------------------------------------------------------------------
case $NIXOS_ACTION in
switch | boot)
    if [ "$failure" = bootloader ]; then
        echo "Failed to install bootloader" >&2
        exit 1
    fi
    [ "$failure" != slow ] || sleep 1
    # As boot.loader.external.installHook is: what the machine has in the place of a boot loader.
    if [ -x "$root/etc/lab-toy/boot-loader" ] && ! "$root/etc/lab-toy/boot-loader" "$toplevel" 9>&-; then
        echo "Failed to install bootloader" >&2
        exit 1
    fi
    if [ -e "$root/boot/loader/loader.conf" ]; then
        "$here/toy/install-systemd-boot" "$toplevel" 9>&- || exit 1
    else
        ln -sfn "$toplevel" "$root/boot/default.new" &&
            mv -fT "$root/boot/default.new" "$root/boot/default" || exit 1
    fi
    [ "${NIXOS_NO_SYNC:-0}" = 1 ] || sync -f "$root/boot" 2>/dev/null || sync
    ;;
esac
[ "$NIXOS_ACTION" != boot ] || exit 0

present=$root$(readlink "$root/run/current-system")/init-interface-version
if [ -e "$present" ] && ! cmp -s "$present" "$here/init-interface-version"; then
    echo "Warning: the init interface differs; the new system takes effect at the next boot" >&2
    exit 100
fi

# --- the plan ------------------------------------------------------------------------------------
# What systemd compares, without the keys that do not matter to a running unit.
significant() {
    sed -e '/^\[Install\]/,/^\[/d' \
        -e '/^\(Description\|Documentation\|OnFailure\|OnSuccess\|OnFailureJobMode\|IgnoreOnIsolate\)=/d' \
        -e '/^\(StopWhenUnneeded\|RefuseManualStart\|RefuseManualStop\|AllowIsolate\|CollectMode\|SourcePath\)=/d' "$1"
}
says() { # FILE KEY VALUE
    grep -qx "$2=$3" "$1"
}

stop='' start='' restart='' reload='' skipped=''
for list in start restart reload; do
    # Left by a switch that was cut short: still to be done.
    [ ! -e "$state/$list-list" ] || eval "$list=\$(tr '\n' ' ' <\"$state/$list-list\")"
done
for link in "$units"/*; do
    case $(readlink "$link") in
    /nix/store/*/etc/systemd/system/*) ;;
    *) continue ;;
    esac
    unit=${link##*/}
    old=$root$(readlink "$link")
    new=$here/etc/systemd/system/$unit
    is_active "$unit" || continue
    if [ ! -e "$new" ]; then
        [ -e "$old" ] && says "$old" X-StopOnRemoval false || stop="$stop $unit"
    elif [ ! -e "$old" ] || [ "$(significant "$old")" != "$(significant "$new")" ]; then
        case $unit in
        *.target | *.slice | *.path) ;;
        *)
            if says "$new" X-ReloadIfChanged true; then
                reload="$reload $unit"
            elif says "$new" X-RestartIfChanged false || says "$new" RefuseManualStop true; then
                skipped="$skipped $unit"
            elif says "$new" X-StopIfChanged false; then
                restart="$restart $unit"
            else
                stop="$stop $unit"
                start="$start $unit"
            fi
            ;;
        esac
    fi
done

if [ "$NIXOS_ACTION" = dry-activate ]; then
    echo "would stop:$stop"
    echo "would NOT restart:$skipped"
    echo "would activate the configuration"
    echo "would reload:$reload"
    echo "would restart:$restart"
    echo "would start:$start"
    exit 0
fi

# --- stop, activate, start -----------------------------------------------------------------------
for list in start restart reload; do
    eval "printf '%s\n' \$$list" | sed '/^$/d' >"$state/$list-list"
done
status=0
if [ -n "$stop" ]; then
    echo "stopping the following units:$stop"
    # shellcheck disable=SC2086 # names of units, several
    systemctl_ stop $stop || status=4
fi
[ -z "$skipped" ] || echo "NOT restarting the following changed units:$skipped"

echo "activating the configuration..."
NIXOS_ACTION=$NIXOS_ACTION "$here/activate" 9>&- || {
    echo "activation script failed" >&2
    [ $status -ne 0 ] || status=2
}
systemctl_ reset-failed || :
systemctl_ daemon-reload || status=4
for verb in reload restart start; do
    eval "wanted=\$$verb"
    if [ -n "$wanted" ]; then
        echo "${verb}ing the following units:$wanted"
        # shellcheck disable=SC2086 # names of units, several
        systemctl_ "$verb" $wanted || status=4
    fi
    rm -f "$state/$verb-list"
done
systemctl_ start multi-user.target timers.target || status=4

if [ -n "$root" ]; then
    if [ "$failure" = units ]; then
        echo "warning: the following units failed: toy-broken.service" >&2
        status=4
    fi
else
    failed=$(systemctl list-units --state=failed --no-legend --plain 9>&- | cut -d' ' -f1 | tr '\n' ' ')
    if [ -n "$failed" ]; then
        echo "warning: the following units failed: $failed" >&2
        status=4
    fi
fi
log "status $status"
exit $status
