//! Which targets the coordinator may name here. A closure proves by its signature where it comes
//! from. What is built on the machine is code that whoever names it has chosen, so flakes and
//! channels come only from places that the machine's own configuration allows, and a flake only at
//! a fixed revision.

use common::{Target, text};

/// The places that the machine's configuration allows. Empty lists: closures only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// What references of flakes may begin with.
    pub flakes: Vec<String>,
    /// What URLs of channels may begin with.
    pub channels: Vec<String>,
}

/// Why a target is not even tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// No place is allowed for this kind of target.
    #[error("this machine takes no {0}: its `targets.{0}` allows none")]
    Kind(&'static str),
    /// None of the allowed places.
    #[error("{shown:?} is none of the places that this machine's `targets.{kind}` allows")]
    Place {
        /// The kind, as the configuration calls it.
        kind: &'static str,
        /// The place, bounded.
        shown: String,
    },
    /// Whoever owns the place could put something else there at any time.
    #[error("the flake {0:?} is not fixed to a revision: `rev` or `narHash` is needed")]
    NotFixed(String),
}

/// Parameters of a flake reference that choose within a place. Others could lead elsewhere, such as
/// `host`.
const HARMLESS: [&str; 9] = [
    "dir",
    "lastModified",
    "lfs",
    "narHash",
    "ref",
    "rev",
    "revCount",
    "shallow",
    "submodules",
];

impl Allowed {
    /// Whether the machine's configuration allows this target.
    pub fn check(&self, target: &Target) -> Result<(), NotAllowed> {
        match target {
            Target::Closure(_) => Ok(()),
            Target::Flake { reference, .. } => {
                within(reference, "flakes", &self.flakes)?;
                if is_fixed(reference) {
                    Ok(())
                } else {
                    Err(NotAllowed::NotFixed(shown(reference)))
                }
            }
            Target::Channel { url } => within(url, "channels", &self.channels),
        }
    }
}

/// Whether the place is one of the allowed ones, or below one.
fn within(place: &str, kind: &'static str, allowed: &[String]) -> Result<(), NotAllowed> {
    if allowed.is_empty() {
        return Err(NotAllowed::Kind(kind));
    }
    let begins = allowed.iter().any(|prefix| {
        place.strip_prefix(prefix.as_str()).is_some_and(|rest| {
            // `https://a.org` allows neither `https://a.org.evil.org` nor `https://a.org@evil.org`.
            prefix.ends_with('/') || rest.is_empty() || rest.starts_with(['/', '?'])
        })
    });
    if begins && stays(place) {
        Ok(())
    } else {
        let shown = shown(place);
        Err(NotAllowed::Place { kind, shown })
    }
}

/// Whether nothing in the reference leads out of what it begins with.
fn stays(place: &str) -> bool {
    let (path, query) = place.split_once('?').unwrap_or((place, ""));
    let path = path.to_ascii_lowercase();
    let climbs = path.split('/').any(|part| part == ".." || part == ".");
    // What is encoded is not looked at by us, and may be by whoever decodes it.
    let hidden = path.contains('%') || path.contains('\\');
    let strange = parameters(query).any(|(name, _)| !HARMLESS.contains(&name));
    !climbs && !hidden && !strange
}

fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|parameter| !parameter.is_empty())
        .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")))
}

/// Whether the reference names one content, for ever.
fn is_fixed(reference: &str) -> bool {
    let (path, query) = reference.split_once('?').unwrap_or((reference, ""));
    let by_parameter = parameters(query).any(|(name, value)| match name {
        "rev" => is_revision(value),
        "narHash" => value.len() > "sha256-".len() && value.starts_with("sha256-"),
        _ => false,
    });
    // `github:owner/repository/revision`.
    let forge = ["github:", "gitlab:", "sourcehut:"];
    let by_path = forge.iter().any(|scheme| path.starts_with(scheme))
        && path.splitn(3, '/').nth(2).is_some_and(is_revision);
    by_parameter || by_path
}

fn is_revision(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn shown(place: &str) -> String {
    text::tame_line(place, 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REV: &str = "0123456789abcdef0123456789abcdef01234567";

    fn allowed() -> Allowed {
        Allowed {
            flakes: vec![
                "git+https://git.example.org/fleet".to_owned(),
                "github:acme/".to_owned(),
            ],
            channels: vec!["https://channels.example.org".to_owned()],
        }
    }

    fn flake(reference: &str) -> Result<(), NotAllowed> {
        allowed().check(&Target::Flake {
            reference: reference.to_owned(),
            attribute: "web-01".to_owned(),
        })
    }

    fn channel(url: &str) -> Result<(), NotAllowed> {
        allowed().check(&Target::Channel {
            url: url.to_owned(),
        })
    }

    #[test]
    fn without_a_word_in_the_configuration_only_closures_are_taken() {
        let none = Allowed::default();
        let closure = "/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-x";
        let closure = Target::Closure(closure.parse().expect("a path"));
        assert_eq!(none.check(&closure), Ok(()));
        let url = "https://channels.nixos.org/nixos-26.05".to_owned();
        let error = none.check(&Target::Channel { url }).expect_err("none");
        assert_eq!(error, NotAllowed::Kind("channels"));
        let reference = format!("github:acme/fleet/{REV}");
        let attribute = "web-01".to_owned();
        let error = none.check(&Target::Flake {
            reference,
            attribute,
        });
        assert_eq!(error, Err(NotAllowed::Kind("flakes")));
    }

    #[test]
    fn allowed_places_are_taken() {
        for good in [
            format!("git+https://git.example.org/fleet?rev={REV}"),
            format!("git+https://git.example.org/fleet?ref=main&rev={REV}&dir=hosts"),
            format!("git+https://git.example.org/fleet/sub?rev={REV}"),
            format!("github:acme/fleet/{REV}"),
            "github:acme/fleet?narHash=sha256-AAAA".to_owned(),
        ] {
            assert_eq!(flake(&good), Ok(()), "{good}");
        }
        for good in [
            "https://channels.example.org",
            "https://channels.example.org/nixos-26.05",
        ] {
            assert_eq!(channel(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn nothing_leads_out_of_an_allowed_place() {
        for bad in [
            format!("git+https://evil.example.org/fleet?rev={REV}"),
            format!("git+https://git.example.org/fleet2?rev={REV}"),
            format!("git+https://git.example.org/fleet/../other?rev={REV}"),
            format!("git+https://git.example.org/fleet/%2e%2e/other?rev={REV}"),
            format!("git+https://git.example.org/fleet?rev={REV}&url=https://evil.example.org"),
            format!("github:acme/fleet/{REV}?host=evil.example.org"),
            format!("github:acme-evil/fleet/{REV}"),
            format!("path:/tmp/x?rev={REV}"),
        ] {
            let error = flake(&bad).expect_err(&bad);
            assert!(matches!(error, NotAllowed::Place { .. }), "{bad}: {error}");
        }
        for bad in [
            "https://channels.example.org.evil.org/x",
            "https://channels.example.org@evil.org/x",
            "https://channels.example.org:8443/x",
            "http://channels.example.org/x",
            "https://channels.example.org/../x",
            "https://channels.example.org/x?to=y",
        ] {
            let error = channel(bad).expect_err(bad);
            assert!(matches!(error, NotAllowed::Place { .. }), "{bad}: {error}");
        }
    }

    #[test]
    fn a_flake_that_can_change_is_refused() {
        for bad in [
            "github:acme/fleet",
            "github:acme/fleet/main",
            "git+https://git.example.org/fleet",
            "git+https://git.example.org/fleet?ref=main",
            "git+https://git.example.org/fleet?rev=main",
            "git+https://git.example.org/fleet?narHash=",
        ] {
            let error = flake(bad).expect_err(bad);
            assert!(matches!(error, NotAllowed::NotFixed(_)), "{bad}: {error}");
        }
    }
}
