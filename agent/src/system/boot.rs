//! The boot loader of a real machine: variables of the firmware, and `bootctl`.

use std::{fs, io::Read as _, path::Path};

use agent_core::NextBoot;

use super::System;
use crate::{
    boot_loader::{
        self, BootChain, BootLoaderError, Entry, LIST, LoaderConf, READ_MAX, RELAXED, VARIABLES,
        WHERE,
    },
    host::HostError,
};

impl System {
    /// What the boot loader starts next; [`NextBoot::Unknown`] where it cannot be asked, which is no
    /// error: GRUB cannot.
    pub(super) async fn ask_next_boot(&self) -> NextBoot {
        let loader = variable("LoaderInfo").and_then(|bytes| boot_loader::text_variable(&bytes));
        if !boot_loader::is_systemd_boot(loader.as_deref()) {
            return NextBoot::Unknown;
        }
        let said = self.boot_entries().await.and_then(|entries| {
            let default = boot_loader::default_of(&entries).map(Entry::starts);
            default.map_err(not_understood)
        });
        said.unwrap_or_else(|error| {
            let error = common::error_chain::Chain(&error);
            tracing::warn!("the profile is believed to boot next: {error}");
            NextBoot::Unknown
        })
    }

    /// Everything about the boot loader that decides what can be relied on.
    pub async fn boot_chain(&self) -> BootChain {
        let text = |name| variable(name).and_then(|bytes| boot_loader::text_variable(&bytes));
        let features = variable("LoaderFeatures");
        let features = features.and_then(|bytes| boot_loader::number_variable(&bytes));
        let place = self.look_with(&WHERE, &[RELAXED]).await;
        let conf = place.ok().and_then(|place| {
            let file = Path::new(place.trim_end()).join("loader/loader.conf");
            read(&file)
        });
        let conf = conf.map(|bytes| LoaderConf::parse(&String::from_utf8_lossy(&bytes)));
        let entries = self.boot_entries().await;
        BootChain {
            loader: text("LoaderInfo"),
            features: features.unwrap_or(0),
            variables_writable: variables_writable(),
            chosen: text("LoaderEntryDefault").filter(|entry| !entry.is_empty()),
            conf: conf.unwrap_or_default(),
            entries: entries.map_err(|error| common::error_chain::Chain(&error).to_string()),
        }
    }

    async fn boot_entries(&self) -> Result<Vec<Entry>, HostError> {
        let listed = self.look_with(&LIST, &[RELAXED]).await?;
        boot_loader::entries(&listed).map_err(not_understood)
    }
}

fn not_understood(error: BootLoaderError) -> HostError {
    HostError::Missing(common::error_chain::Chain(&error).to_string())
}

/// A variable of the boot loader interface.
fn variable(name: &str) -> Option<Vec<u8>> {
    read(Path::new(&boot_loader::variable_file(name)))
}

/// A small file; nothing when it is not there, cannot be read, or is not small.
fn read(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(READ_MAX).ok()?;
    let file = fs::File::open(file).ok()?;
    file.take(limit + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() <= READ_MAX).then_some(bytes)
}

/// Whether the file system of the firmware's variables is mounted to be written to.
fn variables_writable() -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let options = mounts.lines().rev().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, _, options) = (words.next()?, words.next()?, words.next()?);
        (at == VARIABLES).then_some(options)
    });
    options.is_some_and(|options| options.split(',').any(|option| option == "rw"))
}
