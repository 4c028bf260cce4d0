//! Nix as the agent uses it: which programs, with which arguments. Nothing is run here.
//!
//! Only stable programs and no human output: `nix-store`, `nix-env`, `nix-build`, and of the new
//! command line `nix build --out-link`, whose result is read from the link. Arguments are vectors;
//! what comes from the coordinator is never looked at by a shell, and never taken for an option.

use std::{
    env,
    path::{Path, PathBuf},
};

use common::{StorePath, Target};

use crate::links::PROFILE;

/// Where Nix lies when it is not in the agent's own path.
const USUAL_PLACES: [&str; 4] = [
    "/run/current-system/sw/bin",
    "/nix/var/nix/profiles/default/bin",
    "/usr/local/bin",
    "/usr/bin",
];

/// Variables that are handed on to units: how to reach the Nix daemon and the world.
const HANDED_ON: [&str; 11] = [
    "NIX_REMOTE",
    "NIX_PATH",
    "NIX_SSL_CERT_FILE",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "LOCALE_ARCHIVE",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
];

/// For every use of a substituter. What an http cache said of a path Nix believes for an hour when
/// it was not there, and for a month when it was not signed: here somebody may just have mended
/// that. A cache that is down should fail soon; what is not signed by a trusted key is not taken,
/// whoever runs Nix.
pub const FETCHING: [(&str, &str); 6] = [
    ("narinfo-cache-negative-ttl", "0"),
    ("narinfo-cache-positive-ttl", "0"),
    ("connect-timeout", "10"),
    ("download-attempts", "3"),
    ("stalled-download-timeout", "90"),
    ("require-sigs", "true"),
];

/// Why a target cannot be handed to Nix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// A reference that begins like an option, or is empty.
    #[error("{0:?} is no flake reference")]
    Reference(String),
    /// An attribute that would need quoting inside quotes.
    #[error("{0:?} is no attribute name")]
    Attribute(String),
    /// Not a URL that a channel can have.
    #[error("{0:?} is no channel: https or file is needed")]
    Channel(String),
}

/// Where Nix's programs are.
#[derive(Clone, Debug)]
pub struct Nix {
    path: String,
}

impl Nix {
    /// Looks in the agent's path and the usual places.
    pub fn find() -> Self {
        let own = env::var("PATH").unwrap_or_default();
        let mut places: Vec<&str> = own
            .split(':')
            .filter(|place| place.starts_with('/'))
            .collect();
        for place in USUAL_PLACES {
            if !places.contains(&place) {
                places.push(place);
            }
        }
        Self {
            path: places.join(":"),
        }
    }

    /// The environment of every unit.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut environment = vec![
            ("PATH".to_owned(), self.path.clone()),
            ("HOME".to_owned(), "/root".to_owned()),
        ];
        for name in HANDED_ON {
            if let Ok(value) = env::var(name) {
                environment.push((name.to_owned(), value));
            }
        }
        environment
    }

    /// A program by absolute path; where there is none, its bare name, whose failure to start is
    /// then the error that is shown.
    pub fn program(&self, name: &str) -> String {
        self.path
            .split(':')
            .map(|place| Path::new(place).join(name))
            .find(|candidate| candidate.is_file())
            .unwrap_or_else(|| PathBuf::from(name))
            .to_string_lossy()
            .into_owned()
    }

    /// Makes a path the newest generation of the system profile.
    pub fn set_profile(&self, path: &StorePath) -> Vec<String> {
        let nix_env = self.program("nix-env");
        words(&[&nix_env, "--profile", PROFILE, "--set", path.as_str()])
    }

    /// Removes these generations of the system profile. Nix refuses to remove the current one.
    pub fn remove_generations(&self, numbers: &[u64]) -> Vec<String> {
        let nix_env = self.program("nix-env");
        let mut command = words(&[&nix_env, "--profile", PROFILE, "--delete-generations"]);
        command.extend(numbers.iter().map(u64::to_string));
        command
    }

    /// Removes from the store what no root leads to. Of generations it removes none: that takes an
    /// option which is not given.
    pub fn collect_garbage(&self) -> Vec<String> {
        words(&[&self.program("nix-collect-garbage")])
    }

    /// Obtains a target. What is built ends up behind `out_link`; a closure is at its own path.
    pub fn obtain(&self, target: &Target, out_link: &Path) -> Result<Vec<String>, TargetError> {
        let out_link = out_link.to_string_lossy();
        let mut command = match target {
            Target::Closure(path) => {
                words(&[&self.program("nix-store"), "--realise", path.as_str()])
            }
            Target::Flake {
                reference,
                attribute,
            } => {
                if reference.is_empty() || reference.starts_with('-') || reference.contains('#') {
                    return Err(TargetError::Reference(shown(reference)));
                }
                if attribute.is_empty() || attribute.contains(['"', '\\', '$', '\n']) {
                    return Err(TargetError::Attribute(shown(attribute)));
                }
                let installable = format!(
                    "{reference}#nixosConfigurations.\"{attribute}\".config.system.build.toplevel"
                );
                words(&[
                    &self.program("nix"),
                    "--extra-experimental-features",
                    "nix-command flakes",
                    "build",
                    "--no-write-lock-file",
                    "--out-link",
                    &out_link,
                    &installable,
                ])
            }
            Target::Channel { url } => {
                let known = ["https://", "file://"];
                if !known.iter().any(|scheme| url.starts_with(scheme)) {
                    return Err(TargetError::Channel(shown(url)));
                }
                words(&[
                    &self.program("nix-build"),
                    "--out-link",
                    &out_link,
                    "-I",
                    &format!("nixpkgs={}", tarball(url)),
                    "--option",
                    "tarball-ttl",
                    "0",
                    "--attr",
                    "config.system.build.toplevel",
                    "<nixpkgs/nixos>",
                ])
            }
        };
        for (name, value) in FETCHING {
            command.extend(words(&["--option", name, value]));
        }
        Ok(command)
    }

    /// Succeeds when a path is valid in the store, and so its whole closure is.
    pub fn is_valid(&self, path: &StorePath) -> Vec<String> {
        words(&[
            &self.program("nix-store"),
            "--query",
            "--hash",
            path.as_str(),
        ])
    }
}

/// The tarball of a channel: its `nixexprs.tar.xz`, unless the URL names one.
fn tarball(url: &str) -> String {
    if url.contains(".tar") {
        url.to_owned()
    } else {
        format!("{}/nixexprs.tar.xz", url.trim_end_matches('/'))
    }
}

fn shown(text: &str) -> String {
    common::text::tame_line(text, 200)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nix() -> Nix {
        Nix {
            path: "/no/such/place".to_owned(),
        }
    }

    #[test]
    fn a_closure_is_only_substituted_and_its_signature_asked_for() {
        let path: StorePath = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-system"
            .parse()
            .expect("a path");
        let command = nix()
            .obtain(&Target::Closure(path.clone()), Path::new("/out"))
            .expect("good");
        assert_eq!(command[..3], ["nix-store", "--realise", path.as_str()]);
        let text = command.join(" ");
        assert!(
            text.contains("--option narinfo-cache-negative-ttl 0"),
            "{text}"
        );
        assert!(text.contains("--option require-sigs true"), "{text}");
    }

    #[test]
    fn a_flake_attribute_with_a_dot_is_one_attribute() {
        let target = Target::Flake {
            reference: "git+https://example.org/fleet?rev=1".to_owned(),
            attribute: "db.example.org".to_owned(),
        };
        let command = nix().obtain(&target, Path::new("/out")).expect("good");
        let installable = command.iter().find(|word| word.contains('#')).expect("one");
        assert_eq!(
            installable,
            "git+https://example.org/fleet?rev=1#nixosConfigurations.\"db.example.org\".config.system.build.toplevel"
        );
    }

    #[test]
    fn what_could_become_an_option_or_an_expression_is_refused() {
        let flake = |reference: &str, attribute: &str| Target::Flake {
            reference: reference.to_owned(),
            attribute: attribute.to_owned(),
        };
        for target in [
            flake("--impure", "a"),
            flake("", "a"),
            flake("x#y", "a"),
            flake("x", "a\".b"),
            flake("x", ""),
            Target::Channel {
                url: "--help".to_owned(),
            },
            Target::Channel {
                url: "/etc".to_owned(),
            },
            Target::Channel {
                url: "http://example.org/nixos-26.05".to_owned(),
            },
        ] {
            assert!(
                nix().obtain(&target, Path::new("/out")).is_err(),
                "{target}"
            );
        }
    }

    #[test]
    fn a_channel_is_its_tarball() {
        assert_eq!(
            tarball("https://a/nixos-26.05/"),
            "https://a/nixos-26.05/nixexprs.tar.xz"
        );
        assert_eq!(tarball("file:///x.tar.gz"), "file:///x.tar.gz");
    }

    #[test]
    fn a_cleanup_names_its_generations_and_collects_only_garbage() {
        let removing = nix().remove_generations(&[3, 4]);
        let words = ["--profile", PROFILE, "--delete-generations", "3", "4"];
        assert_eq!(removing[1..], words);
        assert_eq!(nix().collect_garbage(), ["nix-collect-garbage"]);
    }

    #[test]
    fn units_get_a_path_and_a_home() {
        let environment = Nix::find().environment();
        assert!(environment.iter().any(|(name, value)| name == "PATH" && value.contains("/run/current-system/sw/bin")));
        assert!(environment.iter().any(|(name, _)| name == "HOME"));
    }
}
