#!/bin/sh
# Builds one system closure of NixOS shape into $out: what an agent touches of a NixOS system, with
# nothing of nixpkgs in it. Run by Nix as a derivation's builder (system.nix), or by hand to fill a
# directory machine's store.
#
# From the environment:
#   out                the store path to make
#   version            what nixos-version says
#   kernel_path initrd_path modules_path   store paths that hold `bzImage`, `initrd`, a directory
#   kernel_params      the kernel's command line (may be empty)
#   bulk_path          a store path that makes the closure large (may be empty)
#   failure            what is wrong with this system, or `none`; activate.sh and
#                      switch-to-configuration.sh say what each word does
#   inhibitors         a JSON object, as system.switch.inhibitors writes it
#   switcher           another switch-to-configuration, a path of the machine (may be empty): it takes
#                      the place of ours, with what NixOS' wrapper gives it
#   boot_tries         how often its boot entry may be tried before it is good (0, or empty: not counted)
#   unit_files         words NAME=FILE: the units of the system; WantedBy= in their [Install] is honoured
#   stc_script activate_script init_script  the scripts beside this one
#   loader_script      the one that installs boot entries (may be empty)
set -eu
PATH=/usr/bin:/bin
: "${out:?}" "${version:?}" "${kernel_path:?}" "${initrd_path:?}" "${modules_path:?}" "${kernel_params=}"
: "${failure:?}" "${inhibitors:?}" "${unit_files=}" "${switcher=}" "${stc_script:?}" "${activate_script:?}" "${init_script:?}"

mkdir -p "$out/bin" "$out/etc/systemd/system" "$out/sw" "$out/toy"
ln -s /usr/bin "$out/sw/bin"
printf '%s\n' "$version" >"$out/nixos-version"
printf '%s\n' "$failure" >"$out/toy/failure"
printf '%s\n' "$inhibitors" >"$out/switch-inhibitors"
printf '%s\n' "$kernel_params" >"$out/kernel-params"
printf '%s\n' "${boot_tries:-0}" >"$out/toy/boot-tries"
if [ "$failure" = init ]; then
    printf 'toy 2\n' >"$out/init-interface-version"
else
    printf 'toy 1\n' >"$out/init-interface-version"
fi
ln -s "$kernel_path/bzImage" "$out/kernel"
ln -s "$initrd_path/initrd" "$out/initrd"
ln -s "$modules_path" "$out/kernel-modules"
[ -z "${bulk_path-}" ] || ln -s "$bulk_path" "$out/toy/bulk"
printf '{"org.nixos.bootspec.v1":{"system":"x86_64-linux","toplevel":"%s","kernel":"%s","initrd":"%s","kernelParams":[],"label":"toy %s","init":"%s"}}\n' \
    "$out" "$kernel_path/bzImage" "$initrd_path/initrd" "$version" "$out/init" >"$out/boot.json"

install_script() { # FILE NAME
    cp "$1" "$out/$2"
    chmod 555 "$out/$2"
}
if [ -z "$switcher" ]; then
    install_script "$stc_script" bin/switch-to-configuration
else
    cat >"$out/bin/switch-to-configuration" <<END
#!/bin/sh
export OUT='$out' TOPLEVEL='$out' DISTRO_ID=nixos LOCALE_ARCHIVE= SYSTEMD=/usr
export PRE_SWITCH_CHECK=/bin/true INSTALL_BOOTLOADER='$out/toy/install-boot-loader'
exec '$switcher' "\$@"
END
    cat >"$out/toy/install-boot-loader" <<'END'
#!/bin/sh
ln -sfn "$1" /boot/default.new && mv -fT /boot/default.new /boot/default
END
    chmod 555 "$out/bin/switch-to-configuration" "$out/toy/install-boot-loader"
    # A system of NixOS has all units and settings of systemd; of these it looks at:
    ln -s /etc/systemd/system.conf "$out/etc/systemd/system.conf"
    for target in multi-user sockets timers; do
        ln -s "/usr/lib/systemd/system/$target.target" "$out/etc/systemd/system/"
    done
    printf '[Unit]\nRefuseManualStop=no\n' >"$out/etc/systemd/system/sysinit-reactivation.target"
fi
install_script "$activate_script" activate
install_script "$init_script" init
[ -z "${loader_script-}" ] || install_script "$loader_script" toy/install-systemd-boot

for unit in $unit_files; do
    name=${unit%%=*}
    cp "${unit#*=}" "$out/etc/systemd/system/$name"
    chmod 444 "$out/etc/systemd/system/$name"
    # shellcheck disable=SC2013 # a line may name several targets
    for target in $(sed -n 's/^WantedBy=//p' "$out/etc/systemd/system/$name"); do
        mkdir -p "$out/etc/systemd/system/$target.wants"
        ln -s "../$name" "$out/etc/systemd/system/$target.wants/$name"
    done
done
# A builder that ends in an exec'd command is sometimes killed before its status is seen.
exit 0
