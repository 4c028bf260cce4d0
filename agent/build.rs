//! Packs the program's relocations, which are half a program's bookkeeping: it is on every machine. Linkers
//! that do not know how leave them as they are.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
