use proptest::prelude::*;

use super::*;

fn path(name: &str) -> StorePath {
    let number = name.bytes().map(usize::from).sum::<usize>();
    let hash = format!("{number:032}");
    format!("/nix/store/{hash}-{name}").parse().expect("a path")
}

fn parts(names: &[(&str, u64)]) -> Vec<Part> {
    names
        .iter()
        .map(|(name, bytes)| (path(name), *bytes))
        .collect()
}

/// What is told of going between closures that differ in these.
fn told(before: &[(&str, u64)], after: &[(&str, u64)]) -> Vec<String> {
    let difference = Difference {
        before: parts(before),
        after: parts(after),
    };
    let changes = changes(
        &path("nixos-system-a-1"),
        &path("nixos-system-a-2"),
        &difference,
    );
    let line = |change: &PackageChange| {
        let (before, after) = (change.before.join(","), change.after.join(","));
        let (name, kind, bytes) = (&change.name, change.kind.word(), change.bytes);
        format!("{name} {kind} {before}>{after} {bytes}")
    };
    changes.packages.iter().map(line).collect()
}

#[test]
fn names_are_read_as_nix_reads_them() {
    for (name, package, version) in [
        ("linux-6.6.8", "linux", "6.6.8"),
        ("firefox-unwrapped-120.0", "firefox-unwrapped", "120.0"),
        ("openssl-3.0.13-bin", "openssl", "3.0.13"),
        ("linux-6.6.8-modules", "linux", "6.6.8"),
        (
            "python3.11-requests-2.31.0",
            "python3.11-requests",
            "2.31.0",
        ),
        ("gtk+-2.24.33", "gtk+", "2.24.33"),
        ("nix-2.19pre20231201_abc", "nix", "2.19pre20231201_abc"),
        ("unit-nginx.service", "unit-nginx.service", ""),
        ("system-path", "system-path", ""),
        ("locale-archive-lib", "locale-archive", ""),
        ("dash-", "dash-", ""),
        ("x-1", "x", "1"),
        ("é-1.0", "é", "1.0"),
    ] {
        assert_eq!(package_and_version(name), (package, version), "{name}");
    }
}

#[test]
fn versions_are_ordered_as_nix_orders_them() {
    // The table of Nix's manual.
    for (one, order, other) in [
        ("1.0", Ordering::Less, "2.3"),
        ("2.1", Ordering::Less, "2.3"),
        ("2.3", Ordering::Equal, "2.3"),
        ("2.5", Ordering::Greater, "2.3"),
        ("3.1", Ordering::Greater, "2.3"),
        ("2.3.1", Ordering::Greater, "2.3"),
        ("2.3.1", Ordering::Greater, "2.3a"),
        ("2.3pre1", Ordering::Less, "2.3"),
        ("2.3pre3", Ordering::Less, "2.3pre12"),
        ("2.3a", Ordering::Less, "2.3c"),
        ("2.3pre1", Ordering::Less, "2.3c"),
        ("2.3pre1", Ordering::Less, "2.3q"),
        ("2.09", Ordering::Equal, "2.9"),
    ] {
        assert_eq!(compare_versions(one, other), order, "{one} {other}");
        assert_eq!(
            compare_versions(other, one),
            order.reverse(),
            "{other} {one}"
        );
    }
}

#[test]
fn every_kind_of_change_is_told_by_its_name() {
    let before = [
        ("nixos-system-a-1", 99),
        ("linux-6.6.8", 1000),
        ("curl-8.5.0", 300),
        ("curl-8.5.0-bin", 30),
        ("openssl-3.0.13", 700),
        ("vim-9.0", 40),
        ("unit-web.service", 700),
        ("glibc-2.38", 90_000),
    ];
    let after = [
        ("nixos-system-a-2", 99),
        ("linux-6.6.10", 1500),
        ("curl-8.4.0", 310),
        ("openssl-1.1.1", 600),
        ("openssl-3.0.13", 700),
        ("htop-3.3.0", 20),
        ("unit-web.service", 710),
        ("glibc-2.38", 50_000),
    ];
    assert_eq!(
        told(&before, &after),
        [
            "openssl resized 3.0.13>1.1.1,3.0.13 600",
            "linux upgraded 6.6.8>6.6.10 500",
            "vim removed 9.0> -40",
            "curl downgraded 8.5.0>8.4.0 -20",
            "htop added >3.3.0 20",
            "glibc resized 2.38>2.38 -40000",
        ]
        .map(|line| line)
    );
}

#[test]
fn there_is_an_end_to_what_is_told_and_the_sum_is_of_all() {
    let names: Vec<String> = (0..100).map(|n| format!("package{n}-x-1.{n}")).collect();
    let after: Vec<Part> = names
        .iter()
        .zip(1..)
        .map(|(name, bytes)| (path(name), bytes))
        .collect();
    let difference = Difference {
        before: Vec::new(),
        after,
    };
    let changes = changes(&path("a"), &path("b"), &difference);
    assert_eq!(changes.packages.len(), CHANGES_MAX);
    assert_eq!(
        usize::try_from(changes.more).expect("small"),
        100 - CHANGES_MAX
    );
    assert_eq!(changes.bytes, 5050);
    assert_eq!(changes.packages[0].name, "package99-x", "the largest first");
}

proptest! {
    /// Whatever names and sizes there are: no panic, one line for a package, sums that agree.
    #[test]
    fn any_closures_can_be_compared(
        before in prop::collection::vec(("[a-zé+-]{1,4}[0-9.a-z-]{0,6}", 0u64..1 << 40), 0..20),
        after in prop::collection::vec(("[a-zé+-]{1,4}[0-9.a-z-]{0,6}", 0u64..1 << 40), 0..20),
    ) {
        for (name, _) in before.iter().chain(&after) {
            let (package, version) = package_and_version(name);
            prop_assert!(name.starts_with(package) && name.contains(version));
        }
        for (one, _) in &before {
            prop_assert_eq!(compare_versions(one, one), Ordering::Equal);
            for (other, _) in &after {
                let order = compare_versions(one, other);
                prop_assert_eq!(compare_versions(other, one), order.reverse());
            }
        }
    }
}
