//! The Nix store of a real machine: what is missing of a target, how it comes into the store, and how
//! it differs from what runs.

use std::{collections::BTreeSet, fs, io, path::Path, slice, time::Duration};

use agent_core::{MayBegin, StepId};
use common::{StorePath, Target};
use tokio::net::UnixStream;

use super::{PROFILE_WITHIN, System};
use crate::{
    closure_diff::{Difference, Part},
    config::Limits,
    health::memory,
    host::{Family, HostError, Missing, NOBODYS_HOME, Resources, RunAs, Unit},
    links::ROOTS,
    nix::FETCHING,
    nix_daemon, roots,
};

/// Paths of which one call of `nix-store` says the sizes: few enough for a command line.
const SIZES_AT_ONCE: usize = 1000;

impl System {
    pub(super) async fn obtain_target(
        &self,
        step: StepId,
        target: &Target,
        within: Duration,
    ) -> Result<(StorePath, String), HostError> {
        fs::create_dir_all(ROOTS).map_err(|error| HostError::io(format!("make {ROOTS}"), error))?;
        let out_link = Path::new(ROOTS).join(format!("result-{step}"));
        let command = self
            .nix
            .obtain(target, &out_link)
            .map_err(|error| HostError::Missing(error.to_string()))?;
        // The root is there before the path is: no collection can come between.
        if let Target::Closure(path) = target {
            roots::add(&self.links, path)?;
        }
        let (run_as, environment) = fetcher(target, Path::new(nix_daemon::SOCKET).exists());
        let unit = Unit {
            family: Family::Stage,
            tag: step.to_string(),
            description: format!("lab-updater: obtain {target}"),
            command,
            environment,
            within,
            resources: fetching(&self.limits),
            run_as,
            may_begin: MayBegin::Always,
        };
        let output = self.run_well(&unit).await?;
        let path = match target {
            Target::Closure(path) => path.clone(),
            Target::Flake { .. } | Target::Channel { .. } => {
                let nothing = || HostError::Missing(format!("{target} built nothing"));
                let path = self.links.resolve(&out_link).ok_or_else(nothing)?;
                roots::add(&self.links, &path)?;
                path
            }
        };
        Ok((path, output))
    }

    pub(super) async fn remove(&self, step: StepId, numbers: &[u64]) -> Result<(), HostError> {
        let unit = Unit {
            family: Family::CleanUp,
            description: "lab-updater: remove old generations".to_owned(),
            command: self.nix.remove_generations(numbers),
            within: PROFILE_WITHIN,
            ..self.cleaner(step)
        };
        // One that an agent before this one began is waited for, whatever is left to do.
        if numbers.is_empty() && self.systemd.look(&unit.name()).await?.is_none() {
            return Ok(());
        }
        self.run_well(&unit).await.map(drop)
    }

    pub(super) async fn collect(&self, step: StepId, within: Duration) -> Result<(), HostError> {
        let unit = Unit {
            family: Family::Collect,
            description: "lab-updater: collect the store's garbage".to_owned(),
            command: self.nix.collect_garbage(),
            within: within.saturating_sub(PROFILE_WITHIN),
            ..self.cleaner(step)
        };
        self.run_well(&unit).await.map(drop)
    }

    fn cleaner(&self, step: StepId) -> Unit {
        Unit {
            family: Family::CleanUp,
            tag: step.to_string(),
            description: String::new(),
            command: Vec::new(),
            environment: Vec::new(),
            within: PROFILE_WITHIN,
            resources: Resources::tasks(self.limits.tasks_max),
            run_as: RunAs::Root,
            may_begin: MayBegin::Always,
        }
    }

    pub(super) async fn missing_of(&self, target: &Target) -> Result<Option<Missing>, HostError> {
        // What building takes nobody knows before.
        let Target::Closure(path) = target else {
            return Ok(None);
        };
        let stream = match UnixStream::connect(nix_daemon::SOCKET).await {
            Ok(stream) => stream,
            // Nix without a daemon: for one user, who is root here.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(HostError::io("reach the Nix daemon", error)),
        };
        let paths = slice::from_ref(path);
        Ok(Some(nix_daemon::missing(stream, paths, &FETCHING).await?))
    }

    pub(super) async fn difference_of(
        &self,
        before: &StorePath,
        after: &StorePath,
    ) -> Result<Option<Difference>, HostError> {
        let (old, new) = (self.closure(before).await?, self.closure(after).await?);
        Ok(Some(Difference {
            before: self.with_sizes(old.difference(&new)).await?,
            after: self.with_sizes(new.difference(&old)).await?,
        }))
    }

    /// Everything that a path needs, itself included.
    async fn closure(&self, path: &StorePath) -> Result<BTreeSet<StorePath>, HostError> {
        let words = ["--query", "--requisites", path.as_str()];
        let listed = self.look("nix-store", &words).await?;
        let paths = listed.lines().map(str::parse);
        paths
            .collect::<Result<_, _>>()
            .map_err(|error| HostError::Missing(format!("nix-store names no path: {error}")))
    }

    /// These paths with their sizes.
    async fn with_sizes(
        &self,
        paths: impl Iterator<Item = &StorePath>,
    ) -> Result<Vec<Part>, HostError> {
        let paths: Vec<&StorePath> = paths.collect();
        let mut parts = Vec::with_capacity(paths.len());
        for paths in paths.chunks(SIZES_AT_ONCE) {
            let mut words = vec!["--query", "--size"];
            words.extend(paths.iter().map(|path| path.as_str()));
            let listed = self.look("nix-store", &words).await?;
            let sizes: Vec<u64> = listed
                .lines()
                .filter_map(|line| line.parse().ok())
                .collect();
            if sizes.len() != paths.len() {
                let (asked, told) = (paths.len(), sizes.len());
                let what = format!("nix-store says {told} sizes of {asked} paths");
                return Err(HostError::Missing(what));
            }
            parts.extend(paths.iter().map(|path| (*path).clone()).zip(sizes));
        }
        Ok(parts)
    }
}

/// Who obtains a target, and what their environment is besides. A closure is asked of the daemon by
/// somebody whom it does not trust: so it is the daemon that asks for signatures, whatever the one
/// who asks was told. What is built here may need keys of root's to be fetched.
fn fetcher(target: &Target, has_daemon: bool) -> (RunAs, Vec<(String, String)>) {
    match target {
        Target::Closure(_) if has_daemon => {
            let environment = [("NIX_REMOTE", "daemon"), ("HOME", NOBODYS_HOME)];
            let owned = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
            (RunAs::Nobody, owned.to_vec())
        }
        Target::Closure(_) | Target::Flake { .. } | Target::Channel { .. } => {
            (RunAs::Root, Vec::new())
        }
    }
}

/// What fetching and building may take. Left to itself an evaluation can take all the memory of a
/// small machine, and its database's with it.
fn fetching(limits: &Limits) -> Resources {
    let whole = fs::read_to_string("/proc/meminfo").ok();
    let whole = whole.and_then(|text| memory(&text, "MemTotal"));
    Resources {
        memory_max: limits.memory_max.or(whole.map(|bytes| bytes / 4 * 3)),
        tasks_max: Some(limits.tasks_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn fetching_never_takes_all_the_memory() {
        let file = "machine = \"a\"\ncoordinator = \"hub:7443\"\n[limits]\n";
        let dir = tempfile::tempdir().expect("a directory");
        let limits = |more: &str| {
            let path = dir.path().join("agent.toml");
            fs::write(&path, format!("{file}{more}")).expect("written");
            Config::load(&path).expect("good").limits
        };
        let usual = fetching(&limits(""));
        let whole = fs::read_to_string("/proc/meminfo").expect("readable");
        let whole = memory(&whole, "MemTotal").expect("known");
        assert_eq!(usual.memory_max, Some(whole / 4 * 3));
        assert_eq!(usual.tasks_max, Some(4096));
        let own = fetching(&limits("memory_max = 104857600\ntasks_max = 64"));
        assert_eq!(
            (own.memory_max, own.tasks_max),
            (Some(104_857_600), Some(64))
        );
    }
}
