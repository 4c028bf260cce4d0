//! The agent's own garbage collection roots: plain links below [`crate::links::ROOTS`], each named
//! like the store path that it keeps. A link may be made before its path is there.

use std::{fs, io, os::unix::fs::symlink};

use common::StorePath;

use crate::{
    host::HostError,
    links::{Links, ROOTS},
};

/// Keeps a path.
pub(crate) fn add(links: &Links, path: &StorePath) -> Result<(), HostError> {
    let doing = || format!("keep {path} from garbage collection");
    fs::create_dir_all(links.at(ROOTS)).map_err(|error| HostError::io(doing(), error))?;
    match symlink(path.as_str(), links.at(ROOTS).join(base(path))) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(HostError::io(doing(), error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Keeps exactly these paths. New roots come before old ones go.
pub(crate) fn keep(links: &Links, paths: &[StorePath]) -> Result<(), HostError> {
    for path in paths {
        add(links, path)?;
    }
    let failed = |error| HostError::io("drop old garbage collection roots", error);
    let entries = match fs::read_dir(links.at(ROOTS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let wanted = paths.iter().any(|path| entry.file_name() == base(path));
        if !wanted {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// The last part of a store path.
fn base(path: &StorePath) -> &str {
    path.as_str().trim_start_matches(common::closure::STORE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_what_is_asked_for_is_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let links = Links::new(dir.path());
        let path = |name: &str| -> StorePath {
            format!("/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-{name}")
                .parse()
                .expect("a path")
        };
        keep(&links, &[]).expect("nothing to do");
        add(&links, &path("old")).expect("kept");
        add(&links, &path("old")).expect("kept already");
        keep(&links, &[path("new"), path("older")]).expect("kept");
        let mut names: Vec<String> = fs::read_dir(links.at(ROOTS))
            .expect("there")
            .map(|entry| {
                entry
                    .expect("readable")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        names.sort();
        assert_eq!(names.len(), 2);
        assert!(
            names[0].ends_with("-new") && names[1].ends_with("-older"),
            "{names:?}"
        );
        let link = links.at(ROOTS).join(&names[0]);
        assert_eq!(
            fs::read_link(link).expect("a link").to_str(),
            Some(path("new").as_str())
        );
    }
}
