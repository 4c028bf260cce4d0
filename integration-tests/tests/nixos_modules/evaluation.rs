//! Runs Nix over `nixos-modules/tests`, once for all tests.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use serde::de::DeserializeOwned;
use serde_json::Value;

/// The oldest Nix that today's nixpkgs accepts.
const NIX_FOR_NIXPKGS: (u32, u32) = (2, 18);

/// NixOS' modules copy files into the store as they are evaluated; ours do without, so that nobody
/// needs to own one.
const IN_STORE: &[&str] = &["--read-write-mode"];
const NO_STORE: &[&str] = &["--store", "dummy://"];

/// Seconds for fetching the flake's nixpkgs before we go on without it.
const FETCH_SECONDS: &str = "300";

/// What the modules are evaluated against.
enum Against {
    /// NixOS' own modules, from this nixpkgs.
    Nixpkgs(PathBuf),
    /// The module system of this `lib`, our declarations of the options.
    Lib(PathBuf),
    /// Our own stand-ins for both.
    StandIns,
}

/// The checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .to_owned()
}

/// Whether a test that cannot run is a failure.
pub(crate) fn required() -> bool {
    env::var_os("LAB_REQUIRE_FLEET").is_some_and(|value| value == "1")
}

/// To standard error, past the capturing of the test harness.
pub(crate) fn say(text: &str) {
    writeln!(std::io::stderr(), "nixos_modules: {text}").ok();
}

/// All cases, evaluated; `None` where there is no Nix.
pub(crate) fn evaluated() -> Option<&'static Value> {
    static CASES: OnceLock<Option<Value>> = OnceLock::new();
    CASES
        .get_or_init(|| {
            let (store, arguments) = match against()? {
                Against::Nixpkgs(nixpkgs) => with_nixpkgs(nixpkgs),
                Against::Lib(lib) => (NO_STORE, format!("{{ nixpkgsLib = {}; }}", path(lib))),
                Against::StandIns => (NO_STORE, "{ }".to_owned()),
            };
            let cases = import("nixos-modules/tests", store, &arguments);
            say(&format!(
                "evaluated against {}",
                cases["source"].as_str().unwrap_or("nothing known")
            ));
            Some(cases)
        })
        .as_ref()
}

/// What the outputs of flake.nix come to; `None` where there is no Nix.
pub(crate) fn outputs() -> Option<&'static Value> {
    static OUTPUTS: OnceLock<Option<Value>> = OnceLock::new();
    OUTPUTS
        .get_or_init(|| {
            let (store, arguments) = match against()? {
                Against::Nixpkgs(nixpkgs) => with_nixpkgs(nixpkgs),
                Against::Lib(_) | Against::StandIns => (NO_STORE, "{ }".to_owned()),
            };
            Some(import("nixos-modules/tests/outputs.nix", store, &arguments))
        })
        .as_ref()
}

fn with_nixpkgs(nixpkgs: &Path) -> (&'static [&'static str], String) {
    (IN_STORE, format!("{{ nixpkgs = {}; }}", path(nixpkgs)))
}

/// The value of a file of this checkout, called with arguments.
fn import(file: &str, store: &[&str], arguments: &str) -> Value {
    let expression = format!("import {} {arguments}", path(&root().join(file)));
    nix(store, &expression)
        .and_then(|text| from_json(&text))
        .unwrap_or_else(|error| panic!("{file} does not evaluate:\n{error}"))
}

/// The value of a Nix expression that needs no store, or what Nix said.
pub(crate) fn evaluate(expression: &str) -> Result<Value, String> {
    nix(NO_STORE, expression).and_then(|text| from_json(&text))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn nix(options: &[&str], expression: &str) -> Result<String, String> {
    let output = Command::new("timeout")
        .arg(FETCH_SECONDS)
        .args([
            "nix-instantiate",
            "--eval",
            "--strict",
            "--json",
            "--show-trace",
        ])
        .args(options)
        .args(["--expr", expression])
        .current_dir(root())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A path as a Nix expression.
fn path(path: &Path) -> String {
    format!("(/. + {})", Value::from(path.display().to_string()))
}

/// What to evaluate against, found once; `None` where there is no Nix.
fn against() -> Option<&'static Against> {
    static AGAINST: OnceLock<Option<Against>> = OnceLock::new();
    AGAINST
        .get_or_init(|| {
            if let Err(error) = Command::new("nix-instantiate").arg("--version").output() {
                assert!(!required(), "nix-instantiate: {error}");
                say("skipped: no nix-instantiate; possible after `apt-get install nix-bin`");
                return None;
            }
            let directory =
                |name: &str| env::var_os(name).filter(|value: &OsString| !value.is_empty());
            if let Some(nixpkgs) = directory("LAB_NIXPKGS") {
                return Some(Against::Nixpkgs(nixpkgs.into()));
            }
            match flake_input() {
                Ok(nixpkgs) => return Some(Against::Nixpkgs(nixpkgs)),
                Err(why) => say(&format!("without the flake's nixpkgs: {why}")),
            }
            let lib = directory("LAB_NIXPKGS_LIB");
            Some(lib.map_or(Against::StandIns, |lib| Against::Lib(lib.into())))
        })
        .as_ref()
}

/// The nixpkgs that flake.lock names, fetched (or found in the store); or why it cannot be had.
fn flake_input() -> Result<PathBuf, String> {
    let version = nix_version().ok_or("the version of Nix is unknown")?;
    if version < NIX_FOR_NIXPKGS {
        return Err(format!(
            "it does not accept Nix {}.{}",
            version.0, version.1
        ));
    }
    let lock = fs::read_to_string(root().join("flake.lock")).map_err(|error| error.to_string())?;
    let lock: Value = from_json(&lock)?;
    let locked = &lock["nodes"]["nixpkgs"]["locked"];
    let mut url = "https://github.com".to_owned();
    for part in [&locked["owner"], &locked["repo"]] {
        write!(url, "/{}", part.as_str().ok_or("flake.lock")?).ok();
    }
    let revision = locked["rev"].as_str().ok_or("flake.lock")?;
    let fetch = format!(
        "toString (builtins.fetchTarball {{ url = {}; sha256 = {}; }})",
        Value::from(format!("{url}/archive/{revision}.tar.gz")),
        locked["narHash"]
    );
    let impatient = [
        "--option",
        "connect-timeout",
        "5",
        "--option",
        "download-attempts",
        "1",
    ];
    let found = nix(&impatient, &fetch).map_err(|said| {
        let last = said.lines().rfind(|line| line.contains("error"));
        last.unwrap_or("it took too long").trim().to_owned()
    })?;
    from_json::<PathBuf>(&found)
}

fn nix_version() -> Option<(u32, u32)> {
    let output = Command::new("nix-instantiate")
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.trim().rsplit(' ').next()?;
    let mut parts = version.split(['.', 'p']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
