//! Nix where targets are found out: locking, evaluating, building, signing, copying.
//!
//! Nix is run with argument vectors and answers in JSON or by exit status; its text for people is
//! only ever shown. Works with Nix 2.8 and later.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Write as _},
    path::Path,
    process::Stdio,
};

use common::{MachineName, StorePath, text::tame};
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use tokio::process::Command;

use super::SourceError;

/// A registry without entries, in the form that every version reads. Without it Nix asks for the
/// global one over the network, and waits for it where there is none.
const EMPTY_REGISTRY: &str = r#"{"flakes":[],"version":2}"#;

/// Most of Nix's own words that an error repeats, in bytes.
const WORDS_MAX: usize = 4096;

/// Runs Nix, and keeps what was built from garbage collection for as long as it lives.
#[derive(Debug)]
pub struct Nix {
    registry: NamedTempFile,
    results: TempDir,
}

impl Nix {
    /// Prepares to run it; whether it is installed shows with the first command.
    pub fn new() -> Result<Self, SourceError> {
        let made = || {
            let mut registry = NamedTempFile::new()?;
            registry.write_all(EMPTY_REGISTRY.as_bytes())?;
            Ok(Self {
                registry,
                results: TempDir::new()?,
            })
        };
        made().map_err(|error: io::Error| {
            SourceError::new(format!("failed to write temporary files for Nix: {error}"))
        })
    }

    /// The reference with its revision: what every later question is about, whatever is committed
    /// meanwhile.
    pub async fn lock(&self, flake: &str) -> Result<String, SourceError> {
        let metadata = self.json(["flake", "metadata", "--json", flake]).await?;
        let locked = metadata.get("url").and_then(Value::as_str);
        locked.map(str::to_owned).ok_or_else(|| {
            SourceError::bug("`nix flake metadata` names no locked reference").at(flake)
        })
    }

    /// Names of the machines that the flake configures.
    pub async fn machines(&self, locked: &str) -> Result<Vec<String>, SourceError> {
        let attribute = format!("{locked}#nixosConfigurations");
        let names = [
            "eval",
            "--json",
            &attribute,
            "--apply",
            "builtins.attrNames",
        ];
        let names = self.json(names).await?;
        serde_json::from_value(names).map_err(|_| {
            SourceError::new("nixosConfigurations is not a set of machines").at(locked)
        })
    }

    /// Evaluates a machine's system without building it.
    pub async fn evaluate(&self, locked: &str, machine: &MachineName) -> Result<(), SourceError> {
        let attribute = format!("{}.drvPath", toplevel(locked, machine));
        self.json(["eval", "--json", &attribute]).await.map(|_| ())
    }

    /// Builds a machine's system, and gives the closure it came to.
    pub async fn build(
        &self,
        locked: &str,
        machine: &MachineName,
    ) -> Result<StorePath, SourceError> {
        let link = self.results.path().join(machine.as_str());
        let attribute = toplevel(locked, machine);
        let built = self
            .json([
                OsStr::new("build"),
                OsStr::new("--json"),
                OsStr::new("--out-link"),
                link.as_os_str(),
                OsStr::new(&attribute),
            ])
            .await?;
        let path = built.pointer("/0/outputs/out").and_then(Value::as_str);
        path.and_then(|path| path.parse().ok())
            .ok_or_else(|| SourceError::bug("`nix build` names no store path").at(attribute))
    }

    /// Signs closures, with everything they need.
    pub async fn sign(&self, key: &Path, closures: &[StorePath]) -> Result<(), SourceError> {
        let mut words = ["store", "sign", "--recursive", "--key-file"]
            .map(OsString::from)
            .to_vec();
        words.push(key.into());
        words.extend(closures.iter().map(|path| path.as_str().into()));
        self.run(&words).await.map(|_| ())
    }

    /// Copies closures, with everything they need, to a binary cache.
    pub async fn copy(&self, cache: &str, closures: &[StorePath]) -> Result<(), SourceError> {
        let mut words = ["copy", "--to", cache].map(OsString::from).to_vec();
        words.extend(closures.iter().map(|path| path.as_str().into()));
        self.run(&words).await.map(|_| ())
    }

    async fn json<W: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = W>,
    ) -> Result<Value, SourceError> {
        let words: Vec<OsString> = words
            .into_iter()
            .map(|word| word.as_ref().to_owned())
            .collect();
        let output = self.run(&words).await?;
        serde_json::from_slice(&output).map_err(|error| {
            SourceError::bug(format!("Nix did not answer in JSON: {error}"))
                .at(shown(OsStr::new("nix"), &words))
        })
    }

    async fn run(&self, words: &[OsString]) -> Result<Vec<u8>, SourceError> {
        let mut command = Command::new("nix");
        command
            .args(["--extra-experimental-features", "nix-command flakes"])
            .args(["--option", "flake-registry"])
            .arg(self.registry.path())
            .args(words);
        finish(command, &shown(OsStr::new("nix"), words)).await
    }
}

/// Evaluates a Nix file to JSON.
pub async fn evaluate_file(file: &Path) -> Result<Value, SourceError> {
    // A path that begins with a dash or holds no slash would be taken for something else.
    let absolute = file
        .canonicalize()
        .map_err(|error| SourceError::new(format!("failed to read: {error}")).at(file.display()))?;
    let mut command = Command::new("nix-instantiate");
    command
        .args(["--eval", "--strict", "--json"])
        .arg(&absolute);
    let name = format!(
        "nix-instantiate --eval --strict --json {}",
        absolute.display()
    );
    let output = finish(command, &name).await?;
    serde_json::from_slice(&output).map_err(|error| {
        SourceError::new(format!("Nix did not answer in JSON: {error}")).at(file.display())
    })
}

/// The system of one machine, as an attribute path of a flake.
pub fn toplevel(flake: &str, machine: &MachineName) -> String {
    format!("{flake}#nixosConfigurations.\"{machine}\".config.system.build.toplevel")
}

async fn finish(mut command: Command, name: &str) -> Result<Vec<u8>, SourceError> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = match command.output().await {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SourceError::new("Nix is not installed on this machine").at(name).hint(
                "run this where Nix is; or give JSON (nix-instantiate --eval --strict --json FILE) \
                 and store paths (--closure, --targets)",
            ));
        }
        Err(error) => {
            return Err(SourceError::new(format!("failed to start Nix: {error}")).at(name));
        }
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words = tame(words.trim(), WORDS_MAX).replace('\n', "\n    ");
    Err(SourceError::new(format!("Nix failed ({})\n    {words}", output.status)).at(name))
}

fn shown(program: &OsStr, words: &[OsString]) -> String {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    format!("{} {}", program.to_string_lossy(), words.join(" "))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    const SYSTEM: &str = r#"derivation { name = "nixos-system-web-01-26.05";
        system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }"#;

    /// Whether Nix is there. The first one to use it makes its database: two at once are in each
    /// other's way.
    fn installed() -> bool {
        static THERE: LazyLock<bool> = LazyLock::new(|| {
            std::process::Command::new("nix-store")
                .arg("--init")
                .output()
                .is_ok()
        });
        *THERE
    }

    #[test]
    fn names_are_quoted_in_attribute_paths() {
        let machine = "db.example.org".parse().expect("a name");
        assert_eq!(
            toplevel("path:/fleet", &machine),
            "path:/fleet#nixosConfigurations.\"db.example.org\".config.system.build.toplevel"
        );
    }

    #[tokio::test]
    async fn a_flake_is_locked_and_evaluated_by_real_nix() {
        if !installed() {
            eprintln!("skipped: Nix is not installed");
            return;
        }
        let directory = TempDir::new().expect("a directory");
        let flake = format!(
            "{{ outputs = _: {{ nixosConfigurations.web-01.config.system.build.toplevel = {SYSTEM}; \
             nixosConfigurations.broken = throw \"no such option\"; }}; }}"
        );
        std::fs::write(directory.path().join("flake.nix"), flake).expect("written");
        let nix = Nix::new().expect("prepared");
        let reference = format!("path:{}", directory.path().display());
        let locked = nix.lock(&reference).await.expect("locked");
        assert!(locked.contains("narHash="), "{locked}");
        assert_eq!(
            nix.machines(&locked).await.expect("names"),
            ["broken", "web-01"]
        );
        let name = |name: &str| name.parse().expect("a name");
        nix.evaluate(&locked, &name("web-01"))
            .await
            .expect("evaluated");
        let error = nix
            .evaluate(&locked, &name("broken"))
            .await
            .expect_err("throws");
        assert!(error.what.contains("no such option"), "{error}");
        assert!(!error.bug);
    }

    #[tokio::test]
    async fn a_nix_file_becomes_json() {
        if !installed() {
            eprintln!("skipped: Nix is not installed");
            return;
        }
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("-update config.nix");
        std::fs::write(&file, "{ updateSettings.maxParallel = 1 + 2; }").expect("written");
        let value = evaluate_file(&file).await.expect("evaluated");
        assert_eq!(
            value,
            serde_json::json!({ "updateSettings": { "maxParallel": 3 } })
        );
        std::fs::write(&file, "{ a = }").expect("written");
        let error = evaluate_file(&file).await.expect_err("a syntax error");
        assert!(error.what.contains("syntax error"), "{error}");
        let none = evaluate_file(Path::new("/none.nix")).await;
        assert!(!none.expect_err("none").bug);
    }
}
