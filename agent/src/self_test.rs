//! What a person should know about this machine before it is updated over a reboot: whether anything
//! brings it back from a system that does not boot.

use std::fmt::Write as _;

use agent_core::{Facts, NextBoot};

use crate::boot_loader::BootChain;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// Whether the machine comes back from a system that does not boot, and how, or why not.
    pub comes_back: Result<String, String>,
    /// Everything, for a person: one line each.
    pub text: String,
}

/// Judges what was read of the machine and of its boot loader.
pub fn judge(chain: &BootChain, facts: &Facts) -> Findings {
    let next_boot = match chain.next_boot() {
        Ok(NextBoot::System(path)) if facts.profile.as_ref() == Some(&path) => path.to_string(),
        Ok(NextBoot::System(path)) => {
            format!("{path}; the system profile leads elsewhere, and going back is to this one")
        }
        Ok(NextBoot::Other(entry)) => {
            format!("the entry {entry}, which is no system of NixOS: no reboot leads to a target")
        }
        Ok(NextBoot::Unknown) => "not known".to_owned(),
        Err(why) => format!("not known: {why}"),
    };
    let (counting, one_shot) = (chain.counting(), chain.one_shot());
    let said = |result: &Result<String, String>| match result {
        Ok(how) => format!("can be relied on ({how})"),
        Err(why) => format!("cannot be relied on: {why}"),
    };
    let comes_back = match (&chain.chosen, &counting, &one_shot) {
        (None, Ok(how), _) => Ok(format!("boot counting: {how}")),
        (None, Err(_), Ok(how)) => Ok(format!("one-shot entries: {how}")),
        // What somebody chose by hand is not overwritten.
        (Some(_), _, _) | (None, Err(_), Err(_)) => Err(counting.clone().err().unwrap_or_default()),
    };
    let in_short = match &comes_back {
        Ok(_) => "the boot loader starts the one before it, and the agent reports a rollback",
        Err(_) => "nobody takes the machine back: it needs a person at the console",
    };
    let mut text = String::new();
    let lines = [
        (
            "boot loader",
            chain
                .loader
                .as_deref()
                .unwrap_or("does not say its name")
                .to_owned(),
        ),
        ("next boot", next_boot),
        ("boot counting", said(&counting)),
        ("one-shot entries", said(&one_shot)),
        ("after a system that does not boot", in_short.to_owned()),
    ];
    for (name, line) in lines {
        // Writing to a string does not fail.
        writeln!(text, "{name}: {line}").ok();
    }
    Findings { comes_back, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{boot_loader::LoaderConf, links::Links};

    #[test]
    fn without_anything_to_rely_on_a_person_is_needed_and_it_is_said_why() {
        let chain = BootChain {
            loader: Some("GRUB 2.12".to_owned()),
            features: u64::MAX,
            variables_writable: true,
            chosen: None,
            conf: LoaderConf::default(),
            entries: Err("no list".to_owned()),
        };
        let root = tempfile::tempdir().expect("a directory");
        let facts = Links::new(root.path()).facts("boot-1".parse().expect("a boot id"));
        let findings = judge(&chain, &facts);
        assert_eq!(
            findings.comes_back,
            Err("GRUB 2.12 counts no boots".to_owned())
        );
        for line in [
            "boot loader: GRUB 2.12",
            "next boot: not known: GRUB 2.12 cannot be asked",
            "boot counting: cannot be relied on: GRUB 2.12 counts no boots",
            "one-shot entries: cannot be relied on",
            "after a system that does not boot: nobody takes the machine back",
        ] {
            assert!(findings.text.contains(line), "{line:?}: {}", findings.text);
        }
    }
}
