//! Where an image gets its Debian packages: what the host's apt has, for another suite.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::FleetError;

const MIRROR: &str = "http://deb.debian.org/debian";

/// Everything that is new goes there: the one suite that has neither updates nor a security archive.
const UNSTABLE: &str = "sid";

/// Where the host gets its Debian packages, for the image's suite.
pub(super) struct Sources {
    /// The address of the main archive.
    pub(super) mirror: String,
    /// File name below /etc/apt and its content.
    files: Vec<(PathBuf, String)>,
}

impl Sources {
    /// What the host has, rewritten for `suite`; Debian's own archive when it is no Debian.
    pub(super) fn of_host(suite: &str) -> Self {
        let mut sources = Self {
            mirror: MIRROR.to_owned(),
            files: Vec::new(),
        };
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let value = |key: &str| {
            let line = release.lines().find_map(|line| line.strip_prefix(key));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        if value("ID=").as_deref() == Some("debian")
            && let Some(codename) = value("VERSION_CODENAME=")
        {
            sources.read(&codename, suite);
        }
        if sources.files.is_empty() {
            let line = format!("deb {MIRROR} {suite} main\n");
            sources.files.push(("sources.list".into(), line));
        }
        sources
    }

    fn read(&mut self, codename: &str, suite: &str) {
        let apt = Path::new("/etc/apt");
        let mut names = vec![PathBuf::from("sources.list")];
        names.extend(listing(apt, "sources.list.d"));
        for name in names {
            let text = fs::read_to_string(apt.join(&name)).unwrap_or_default();
            let kept = match name.extension().and_then(|e| e.to_str()) {
                Some("list") => entries(&text, "\n", codename, suite),
                Some("sources") => entries(&text, "\n\n", codename, suite),
                _ => Vec::new(),
            };
            if let Some(mirror) = kept.iter().find_map(|entry| mirror_of(entry, suite)) {
                self.mirror = mirror;
            }
            if !kept.is_empty() {
                self.files.push((name, kept.join("\n\n") + "\n"));
            }
        }
    }

    /// Gives them, and the host's apt settings, to a root file system.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn write_to(&self, root: &Path) -> Result<(), FleetError> {
        let apt = root.join("etc/apt");
        let own = apt.join("sources.list");
        fs::write(&own, "").map_err(FleetError::file("write", &own))?;
        for (name, text) in &self.files {
            let path = apt.join(name);
            fs::write(&path, text).map_err(FleetError::file("write", &path))?;
        }
        for name in listing(Path::new("/etc/apt"), "apt.conf.d") {
            let to = apt.join(&name);
            if !to.exists() {
                fs::copy(Path::new("/etc/apt").join(&name), &to)
                    .map_err(FleetError::file("write", &to))?;
            }
        }
        let resolver = root.join("etc/resolv.conf");
        fs::copy("/etc/resolv.conf", &resolver).map_err(FleetError::file("write", &resolver))?;
        Ok(())
    }
}

/// Files of a directory below `base`, as paths relative to `base`; none when it cannot be read.
fn listing(base: &Path, dir: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(base.join(dir)).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| Path::new(dir).join(entry.file_name()))
        .collect();
    names.sort();
    names
}

/// The entries of an apt source file that speak of `codename`, rewritten for the image's suite.
fn entries(text: &str, separator: &str, codename: &str, suite: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let text = lines.collect::<Vec<_>>().join("\n");
    let suites = [
        codename.to_owned(),
        format!("{codename}-updates"),
        format!("{codename}-security"),
    ];
    text.split(separator)
        .filter(|entry| {
            entry
                .split_whitespace()
                .any(|word| suites.iter().any(|s| s == word))
        })
        .filter_map(|entry| rewritten(entry.trim(), codename, suite))
        .collect()
}

/// The entry for another suite; none when nothing in it is for that.
fn rewritten(entry: &str, codename: &str, suite: &str) -> Option<String> {
    if suite != UNSTABLE {
        return Some(entry.replace(codename, suite));
    }
    let kept = |word: &&str| !word.starts_with(codename) || *word == codename;
    let lines = entry.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().filter(kept).collect();
        words.join(" ")
    });
    let entry = lines.collect::<Vec<_>>().join("\n");
    let named = entry.split_whitespace().any(|word| word == codename);
    named.then(|| entry.replace(codename, suite))
}

/// The address of the main archive, when the entry is for it.
fn mirror_of(entry: &str, suite: &str) -> Option<String> {
    let words: Vec<&str> = entry.split_whitespace().collect();
    let address = words.iter().find(|word| word.contains("://"))?;
    words.contains(&suite).then(|| (*address).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_the_host_are_rewritten_for_the_suite() {
        let deb822 = "Types: deb\n# snapshot\nURIs: http://mirror/debian\nSuites: bookworm bookworm-updates\n\n\
                      Types: deb\nURIs: https://other/\nSuites: nodistro\n";
        let kept = entries(deb822, "\n\n", "bookworm", "trixie");
        assert_eq!(
            kept,
            ["Types: deb\nURIs: http://mirror/debian\nSuites: trixie trixie-updates"]
        );
        assert_eq!(
            mirror_of(&kept[0], "trixie").as_deref(),
            Some("http://mirror/debian")
        );
    }

    #[test]
    fn one_line_sources_too() {
        let list = "deb http://m/debian bookworm main\n# deb-src x bookworm main\ndeb http://s bookworm-security main\n";
        let kept = entries(list, "\n", "bookworm", "trixie");
        assert_eq!(kept.len(), 2);
        assert_eq!(
            mirror_of(&kept[0], "trixie").as_deref(),
            Some("http://m/debian")
        );
        assert_eq!(mirror_of(&kept[1], "trixie"), None);
    }

    #[test]
    fn the_unstable_suite_has_no_updates() {
        let deb822 = "Types: deb\nURIs: http://m/\nSuites: bookworm bookworm-updates\n\n\
                      Types: deb\nURIs: http://s/\nSuites: bookworm-security\n";
        let kept = entries(deb822, "\n\n", "bookworm", "sid");
        assert_eq!(kept, ["Types: deb\nURIs: http://m/\nSuites: sid"]);
        let list = "deb http://m/ bookworm main\ndeb http://s bookworm-security main\n";
        assert_eq!(
            entries(list, "\n", "bookworm", "sid"),
            ["deb http://m/ sid main"]
        );
    }
}
