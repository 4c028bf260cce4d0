//! What the boot loader says: which system it starts next, and what it does when that does not boot.
//! Reading only, and judging what was read; what is read is input, and nothing in it is believed that
//! is not well-formed.
//!
//! systemd-boot is asked through `bootctl`, a part of systemd: the rules by which it chooses (patterns,
//! variables of the firmware, tries, the order of entries) differ between versions, and `bootctl` has
//! them. GRUB and extlinux cannot be asked: what GRUB starts is decided by a script of its own.

use common::{StorePath, text};
use serde::Deserialize;

use agent_core::NextBoot;

/// Lists the boot entries as JSON.
pub const LIST: [&str; 4] = ["bootctl", "--no-pager", "--json=short", "list"];

/// Prints where the boot loader's file system is mounted.
pub const WHERE: [&str; 3] = ["bootctl", "--no-pager", "--print-esp-path"];

/// So that `bootctl` does not ask the device itself, which a sandbox hides: where it is mounted, and
/// that it has entries, is enough.
pub const RELAXED: (&str, &str) = ("SYSTEMD_RELAX_ESP_CHECKS", "1");

/// Variables of the firmware, as files.
pub const VARIABLES: &str = "/sys/firmware/efi/efivars";

/// The vendor part in the names of the boot loader interface's variables
/// (systemd.io/BOOT_LOADER_INTERFACE).
const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// Bits of `LoaderFeatures`.
const ONE_SHOT: u64 = 1 << 3;
const COUNTING: u64 = 1 << 4;

/// Most bytes that are believed to be a variable, a configuration file or a list of entries.
pub const READ_MAX: usize = 4 << 20;

/// Most characters kept of a name.
const NAME_MAX: usize = 200;

/// Versions of systemd-boot that were seen to start entries without tries left, or to leave the
/// counters alone (systemd issues 40192 and 40405).
const COUNTS_BADLY: [u32; 2] = [258, 259];

/// Why the boot loader's word is not understood.
#[derive(Debug, thiserror::Error)]
pub enum BootLoaderError {
    /// Not what `bootctl list` prints.
    #[error("the list of boot entries is not understood")]
    List(#[from] serde_json::Error),
    /// More than anybody has of boot entries.
    #[error("the list of boot entries is too long: {0} bytes")]
    TooLong(usize),
    /// There is no default, or more than one.
    #[error("{0} boot entries are the default")]
    Defaults(usize),
}

/// A boot entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id: its file's name without counters.
    pub id: String,
    /// The system that it starts; `None` when it is none of NixOS.
    pub system: Option<StorePath>,
    /// How often it may still be tried, where that is counted.
    pub tries_left: Option<u64>,
    /// Whether the next boot starts it.
    pub is_default: bool,
}

/// One entry as `bootctl` prints it (`bootctl(1)`, systemd 251 and later); what is missing is not
/// there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Printed {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    options: Option<String>,
    #[serde(default)]
    tries_left: Option<u64>,
    #[serde(default)]
    is_default: bool,
}

/// The entries that `bootctl list` printed.
///
/// # Errors
/// When it is not such a list.
pub fn entries(json: &str) -> Result<Vec<Entry>, BootLoaderError> {
    if json.len() > READ_MAX {
        return Err(BootLoaderError::TooLong(json.len()));
    }
    let printed: Vec<Printed> = serde_json::from_str(json)?;
    let entries = printed.into_iter().map(|entry| Entry {
        id: text::tame_line(&entry.id.unwrap_or_default(), NAME_MAX),
        system: entry.options.as_deref().and_then(system_of),
        tries_left: entry.tries_left,
        is_default: entry.is_default,
    });
    Ok(entries.collect())
}

/// The system whose stage 2 a kernel's command line names: `init=/nix/store/…/init`. Of several the
/// last counts, as it does for the kernel.
fn system_of(options: &str) -> Option<StorePath> {
    let init = options
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix("init="))
        .next_back()?;
    init.strip_suffix("/init")?.parse().ok()
}

/// The entry that boots next.
///
/// # Errors
/// When there is not exactly one.
pub fn default_of(entries: &[Entry]) -> Result<&Entry, BootLoaderError> {
    let mut defaults = entries.iter().filter(|entry| entry.is_default);
    match (defaults.next(), defaults.count()) {
        (Some(entry), 0) => Ok(entry),
        (first, more) => Err(BootLoaderError::Defaults(
            more + usize::from(first.is_some()),
        )),
    }
}

impl Entry {
    /// Its id, if that can be an argument of `bootctl`: neither a pattern nor an option.
    pub fn plain_id(&self) -> Option<&str> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
        let id = self.id.as_str();
        let good = !id.is_empty() && !id.starts_with('-') && id.chars().all(plain);
        good.then_some(id)
    }

    /// What booting it starts.
    pub fn starts(&self) -> NextBoot {
        match &self.system {
            Some(path) => NextBoot::System(path.clone()),
            None => NextBoot::Other(self.id.clone()),
        }
    }
}

/// What is to be done about a boot that may fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: the target's tries are counted.
    Counted {
        /// How many.
        tries: u64,
    },
    /// Start the one entry once, and the other from then on.
    Once {
        /// The target's.
        target: String,
        /// The one to come back to.
        back: String,
    },
}

impl BootChain {
    /// How a target that does not boot is to be left again.
    ///
    /// # Errors
    /// Why it would not be, in words for a person.
    pub fn plan(&self, target: &StorePath, back: &StorePath) -> Result<Plan, String> {
        let entries = self.entries.as_ref().map_err(Clone::clone)?;
        let of = |system: &StorePath| {
            let system = Some(system.clone());
            entries.iter().filter(move |entry| entry.system == system)
        };
        let missing = |system: &StorePath| format!("no boot entry starts {system}");
        let tried = of(target)
            .find(|entry| entry.is_default)
            .or_else(|| of(target).next())
            .ok_or_else(|| missing(target))?;
        if let Some(tries) = tried.tries_left.filter(|tries| *tries > 0)
            && self.counting().is_ok()
        {
            return Ok(Plan::Counted { tries });
        }
        self.one_shot()?;
        // One that has used up its tries does not boot.
        let kept = of(back).find(|entry| entry.tries_left != Some(0));
        let kept = kept.ok_or_else(|| missing(back))?;
        if let Some(chosen) = &self.chosen {
            return Err(format!(
                "the default {chosen} was chosen by hand and is not overwritten"
            ));
        }
        let plain = |entry: &Entry| {
            let id = entry.plain_id().map(str::to_owned);
            id.ok_or_else(|| format!("the boot entry {:?} has a strange name", entry.id))
        };
        Ok(Plan::Once {
            target: plain(tried)?,
            back: plain(kept)?,
        })
    }
}

/// The file of a variable of the boot loader interface.
pub fn variable_file(name: &str) -> String {
    format!("{VARIABLES}/{name}-{VENDOR}")
}

/// A variable that is text: attributes (4 bytes), UTF-16 little endian, an end that may be missing.
pub fn text_variable(bytes: &[u8]) -> Option<String> {
    let (units, rest) = bytes.get(4..)?.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
    let units = units.take_while(|unit| *unit != 0);
    let text: Result<String, _> = char::decode_utf16(units).collect();
    Some(text::tame_line(&text.ok()?, NAME_MAX))
}

/// A variable that is a number: attributes (4 bytes), 8 bytes little endian.
pub fn number_variable(bytes: &[u8]) -> Option<u64> {
    let number = bytes.get(4..)?.try_into().ok()?;
    Some(u64::from_le_bytes(number))
}

/// What `loader.conf` says of the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoaderConf {
    /// The pattern of the default; the last one counts.
    pub default: Option<String>,
    /// Whether an entry is preferred as long as it has tries (systemd 260 and later).
    pub prefers: bool,
}

impl LoaderConf {
    /// Reads it: lines of a key, blanks, and a value; what is not known is passed over.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().map(str::trim) {
            let Some((key, value)) = line.split_once([' ', '\t']) else {
                continue;
            };
            match key {
                "default" => conf.default = Some(text::tame_line(value, NAME_MAX)),
                "preferred" => conf.prefers = true,
                _ => {}
            }
        }
        conf
    }
}

/// Whether a boot loader that calls itself this is one that can be asked.
pub fn is_systemd_boot(loader: Option<&str>) -> bool {
    loader.and_then(version).is_some()
}

/// The first number of systemd-boot's version.
fn version(loader: &str) -> Option<u32> {
    let version = loader.strip_prefix("systemd-boot ")?;
    version
        .split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

/// Everything read of the boot loader, for a person who asks what can be relied on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootChain {
    /// The boot loader by its own words, with its version; `None` when it says nothing, as extlinux
    /// and GRUB on a BIOS.
    pub loader: Option<String>,
    /// What it can do, as bits.
    pub features: u64,
    /// Whether variables of the firmware can be written.
    pub variables_writable: bool,
    /// The default that somebody chose, in the boot menu or by `bootctl set-default`; not the one of
    /// a trial of our own.
    pub chosen: Option<String>,
    /// What `loader.conf` says.
    pub conf: LoaderConf,
    /// The boot entries, or why they are not known.
    pub entries: Result<Vec<Entry>, String>,
}

impl BootChain {
    fn is_systemd_boot(&self) -> bool {
        is_systemd_boot(self.loader.as_deref())
    }

    fn version(&self) -> Option<u32> {
        version(self.loader.as_deref()?)
    }

    fn name(&self) -> &str {
        self.loader
            .as_deref()
            .unwrap_or("a boot loader that does not say its name")
    }

    /// What the next boot starts, or why that cannot be told.
    ///
    /// # Errors
    /// In words for a person.
    pub fn next_boot(&self) -> Result<NextBoot, String> {
        if !self.is_systemd_boot() {
            let name = self.name();
            return Err(format!(
                "{name} cannot be asked, so the system profile is believed"
            ));
        }
        let entries = self.entries.as_ref().map_err(Clone::clone)?;
        let default = default_of(entries).map_err(|error| error.to_string())?;
        Ok(default.starts())
    }

    /// Whether a new system that does not boot is left by the boot loader after some tries.
    ///
    /// # Errors
    /// Why that cannot be relied on, in words for a person.
    pub fn counting(&self) -> Result<String, String> {
        let name = self.name();
        let version = self
            .version()
            .ok_or_else(|| format!("{name} counts no boots"))?;
        if self.features & COUNTING == 0 {
            return Err(format!("{name} counts no boots"));
        }
        if COUNTS_BADLY.contains(&version) {
            return Err(format!(
                "{name} is one that may start an entry without tries left"
            ));
        }
        if let Some(chosen) = &self.chosen {
            return Err(format!(
                "the default {chosen} was chosen by hand and is started whatever its tries \
                 (`bootctl set-default ''` takes that back)"
            ));
        }
        let pattern = self.conf.default.as_deref();
        if let Some(pattern) = pattern.filter(|pattern| !pattern.contains(['*', '?', '['])) {
            return Err(format!(
                "loader.conf names {pattern} alone, which is started whatever its tries"
            ));
        }
        let entries = self.entries.as_ref().map_err(Clone::clone)?;
        let systems = entries.iter().filter(|entry| entry.system.is_some());
        if systems.clone().count() < 2 {
            return Err("there is no other system to fall back to".to_owned());
        }
        let counted = systems.filter_map(|entry| entry.tries_left).max();
        match counted {
            Some(tries) => Ok(format!("{name}, {tries} tries left at most")),
            None if self.conf.prefers => Ok(name.to_owned()),
            None => Err(
                "no boot entry has tries (boot.loader.systemd-boot.bootCounting in NixOS)"
                    .to_owned(),
            ),
        }
    }

    /// Whether an entry can be started once, and the default again after that.
    ///
    /// # Errors
    /// Why that cannot be relied on, in words for a person.
    pub fn one_shot(&self) -> Result<String, String> {
        let name = self.name();
        if !self.is_systemd_boot() || self.features & ONE_SHOT == 0 {
            return Err(format!("{name} has no entries that are started once"));
        }
        if !self.variables_writable {
            return Err(format!("{VARIABLES} cannot be written to"));
        }
        Ok(name.to_owned())
    }
}

#[cfg(test)]
mod tests;
