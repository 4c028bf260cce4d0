//! The boot loader of a real machine: variables of the firmware, and `bootctl`.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    path::Path,
};

use agent_core::{MayBegin, NextBoot, Trial};

use super::{LOOK, System};
use crate::{
    boot_loader::{
        self, BootChain, BootLoaderError, Entry, LIST, LoaderConf, Plan, READ_MAX, RELAXED,
        VARIABLES, WHERE,
    },
    host::{Family, HostError, Resources, RunAs, Unit},
    state_file::sync_directory_of,
};

/// The variable of the default that is chosen by hand, and by a trial; and that of the entry that is
/// started once.
const CHOSEN: &str = "LoaderEntryDefault";
const ONCE: &str = "LoaderEntryOneShot";

impl System {
    /// What the boot loader starts next; [`NextBoot::Unknown`] where it cannot be asked, which is no
    /// error: GRUB cannot.
    pub(super) async fn ask_next_boot(&self) -> NextBoot {
        if !boot_loader::is_systemd_boot(text_of("LoaderInfo").as_deref()) {
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
        let features = variable("LoaderFeatures");
        let features = features.and_then(|bytes| boot_loader::number_variable(&bytes));
        let place = self.look_with(&WHERE, &[RELAXED]).await;
        let conf = place.ok().and_then(|place| {
            let file = Path::new(place.trim_end()).join("loader/loader.conf");
            read(&file)
        });
        let conf = conf.map(|bytes| LoaderConf::parse(&String::from_utf8_lossy(&bytes)));
        let entries = self.boot_entries().await;
        // What a trial of our own has chosen nobody has chosen by hand.
        let ours = fs::read_to_string(&self.trial_mark).ok();
        let chosen = text_of(CHOSEN).filter(|chosen| ours.as_ref() != Some(chosen));
        BootChain {
            loader: text_of("LoaderInfo"),
            features: features.unwrap_or(0),
            variables_writable: variables_writable(),
            chosen,
            conf: conf.unwrap_or_default(),
            entries: entries.map_err(|error| common::error_chain::Chain(&error).to_string()),
        }
    }

    /// Sees to it that a target that does not boot is left again: by its tries, where they are counted,
    /// else by having it started once, and what was there before from then on. That default stays
    /// until [`System::end_trial`]: were the agent never to come up, the machine would come back to
    /// what it ran before, which is where it belongs then.
    pub(super) async fn try_once(&self, trial: &Trial, tag: &str) -> Result<String, HostError> {
        let chain = self.boot_chain().await;
        let plan = chain.plan(&trial.target, &trial.back);
        match plan.map_err(HostError::Missing)? {
            Plan::Counted { tries } => Ok(format!(
                "the boot loader passes it over after {tries} tries"
            )),
            Plan::Once { target, back } => {
                // Written down first: what is not known to be ours is never taken back.
                self.mark_trial(&back)
                    .map_err(|error| HostError::io("note the boot loader's default", error))?;
                self.tell("set-oneshot", &target, tag).await?;
                self.tell("set-default", &back, tag).await?;
                Ok(format!(
                    "the boot loader starts it once, and {back} after that"
                ))
            }
        }
    }

    /// Takes back what a trial did to the boot loader. A default that somebody has chosen since stays.
    pub(super) async fn end_trial(&self, tag: &str) -> Result<(), HostError> {
        let doing = "read the boot loader's default of a trial";
        let ours = match fs::read_to_string(&self.trial_mark) {
            Ok(ours) => ours,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(HostError::io(doing, error)),
        };
        // First the one that would lead to the target.
        if text_of(ONCE).is_some() {
            self.tell("set-oneshot", "", tag).await?;
        }
        if text_of(CHOSEN).is_some_and(|chosen| chosen == ours) {
            self.tell("set-default", "", tag).await?;
        }
        fs::remove_file(&self.trial_mark)
            .and_then(|()| sync_directory_of(&self.trial_mark))
            .map_err(|error| HostError::io("forget the boot loader's default of a trial", error))
    }

    fn mark_trial(&self, back: &str) -> io::Result<()> {
        let mut file = fs::File::create(&self.trial_mark)?;
        file.write_all(back.as_bytes())?;
        file.sync_all()?;
        sync_directory_of(&self.trial_mark)
    }

    /// Writes a variable of the boot loader, or removes it. As a unit: the agent's own sandbox has
    /// them read-only.
    async fn tell(&self, verb: &str, entry: &str, tag: &str) -> Result<(), HostError> {
        let bootctl = self.nix.program("bootctl");
        let words = [&bootctl, "--no-pager", verb, entry];
        let (name, value) = RELAXED;
        let unit = Unit {
            family: Family::BootLoader,
            tag: format!("{verb}-{tag}"),
            description: format!("lab-updater: {verb} of the boot loader to {entry:?}"),
            command: words.map(ToOwned::to_owned).into(),
            environment: vec![(name.to_owned(), value.to_owned())],
            within: LOOK,
            resources: Resources::tasks(self.limits.tasks_max),
            run_as: RunAs::Root,
            may_begin: MayBegin::Always,
        };
        let clear = async || match self.direct {
            true => Ok(()),
            false => self.systemd.clear(&unit.name()).await,
        };
        // One of an earlier time would be taken for this one.
        clear().await?;
        self.run_well(&unit).await?;
        clear().await
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

/// A variable that is text, and not empty.
fn text_of(name: &str) -> Option<String> {
    let text = variable(name).and_then(|bytes| boot_loader::text_variable(&bytes));
    text.filter(|text| !text.is_empty())
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
