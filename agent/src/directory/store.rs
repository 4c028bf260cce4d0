//! Store paths, links and generations of a machine in a directory.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use common::{Generation, StorePath};

use super::Directory;
use crate::{
    host::HostError,
    links::{Links, PROFILE, PROFILES},
};

impl Directory {
    /// Copies a store path and everything it links to, each under its name at once.
    pub(super) fn copy_closure(&self, path: &StorePath) -> Result<(), HostError> {
        let mut wanted = vec![path.clone()];
        while let Some(path) = wanted.pop() {
            let here = self.links.at(path.as_str());
            if here.exists() {
                continue;
            }
            let there = Links::new(&self.cache).at(path.as_str());
            if !there.exists() {
                return Err(HostError::Missing(format!("{path} is not in the cache")));
            }
            let aside = PathBuf::from(format!("{}.part", here.display()));
            let copied = fs::remove_dir_all(&aside)
                .or_else(|error| {
                    let nothing_there = error.kind() == io::ErrorKind::NotFound;
                    if nothing_there { Ok(()) } else { Err(error) }
                })
                .and_then(|()| copy(&there, &aside, &mut wanted))
                .and_then(|()| fs::rename(&aside, &here));
            copied.map_err(|error| HostError::io(format!("copy {path}"), error))?;
        }
        Ok(())
    }
}

/// Replaces a link of a directory machine, in one step.
pub fn set_link(links: &Links, link: &str, target: &str) -> io::Result<()> {
    let link = links.at(link);
    let aside = link.with_extension("new");
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    symlink(target, &aside)?;
    fs::rename(&aside, &link)
}

/// Makes the path the current generation of a directory machine's system profile.
pub fn set_profile(links: &Links, path: &StorePath) -> io::Result<()> {
    if links.resolve(PROFILE).as_ref() == Some(path) {
        return Ok(());
    }
    let number = next_generation(&links.generations(), path);
    let name = format!("system-{number}-link");
    set_link(links, &format!("{PROFILES}/{name}"), path.as_str())?;
    set_link(links, PROFILE, &name)
}

/// Numbers as `nix-env --set` gives them: the newest generation is used again when it is the same
/// path, else one more than the highest.
fn next_generation(generations: &[Generation], path: &StorePath) -> u64 {
    match generations.first() {
        Some(newest) if newest.path == *path => newest.number,
        Some(newest) => newest.number + 1,
        None => 1,
    }
}

/// Copies a tree; store paths that its links lead to are added to `wanted`.
fn copy(from: &Path, to: &Path, wanted: &mut Vec<StorePath>) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_symlink() {
        let target = fs::read_link(from)?;
        let in_store = target.to_str().and_then(|text| {
            let end = text.strip_prefix(common::closure::STORE)?.find('/');
            let end = end.map_or(text.len(), |end| common::closure::STORE.len() + end);
            text[..end].parse().ok()
        });
        wanted.extend(in_store);
        symlink(target, to)
    } else if kind.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), wanted)?;
        }
        Ok(())
    } else {
        fs::copy(from, to).map(drop)
    }
}
