//! `lab update-config …`

mod calendar_files;

use std::{ffi::OsStr, fs, path::Path};

use lab_proto::operator::{
    CheckConfigReply, ConfigFault, ConfigLogRequest, ConfigReply, GetConfigRequest,
    RolloutAsBefore, SetConfigRequest,
};
use platform::sources::nix;
use serde::Serialize;
use serde_json::{Value, json};

use super::Context;
use crate::{
    args::config::{File, Import, Log, Set, Show, Unset, UpdateConfig},
    client::{Client, ask},
    config_edit::{self, Change},
    error::{Exit, LabError},
    view::{self, counted},
};

/// What a change came to.
#[derive(Serialize)]
struct Written<'a> {
    revision: u64,
    changes: &'a [Change],
    faults: &'a [ConfigFault],
    as_before: &'a [RolloutAsBefore],
    warnings: &'a [ConfigFault],
}

/// Runs one verb.
pub async fn run(context: &Context, verb: UpdateConfig) -> Result<Exit, LabError> {
    match verb {
        UpdateConfig::Show(args) => show(context, &args).await,
        UpdateConfig::Set(args) => set(context, args).await,
        UpdateConfig::Unset(args) => unset(context, args).await,
        UpdateConfig::Import(args) => import(context, args).await,
        UpdateConfig::Check(args) => check(context, &args).await,
        UpdateConfig::Diff(args) => diff(context, &args).await,
        UpdateConfig::Log(args) => log(context, &args).await,
    }
}

/// The revision in force and its document; revision 0 and an empty document before the first.
pub async fn document_in_force(client: &mut Client) -> Result<(u64, Value), LabError> {
    match ask(client.get_config(GetConfigRequest { revision: 0 })).await {
        Ok(reply) => Ok((reply.revision, parsed(&reply.document)?)),
        Err(error) if error.exit == Exit::NotFound => Ok((0, json!({}))),
        Err(error) => Err(error),
    }
}

fn parsed(document: &str) -> Result<Value, LabError> {
    if document.is_empty() {
        return Ok(json!({}));
    }
    serde_json::from_str(document).map_err(|error| {
        LabError::new(
            Exit::Bug,
            format!("the coordinator's configuration is not JSON: {error}"),
        )
    })
}

async fn show(context: &Context, args: &Show) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let revision = args.revision.unwrap_or(0);
    let reply = ask(client.get_config(GetConfigRequest { revision })).await?;
    let document = parsed(&reply.document)?;
    let shown = match args.whose.place() {
        Some(place) => config_edit::part(&document, place)?,
        None => &document,
    };
    let whole = told(&reply, shown);
    context
        .output
        .result(&whole, |_| view::config::document(shown))?;
    Ok(Exit::Yes)
}

/// A revision for programs: its document is one, and not a text that holds one.
fn told(reply: &ConfigReply, document: &Value) -> Value {
    json!({
        "revision": reply.revision,
        "set_by": reply.set_by,
        "set_at": reply.set_at,
        "document": document,
    })
}

async fn set(context: &Context, args: Set) -> Result<Exit, LabError> {
    let value = config_edit::value(&args.value);
    edit(context, args.reason, |document| {
        config_edit::set(document, args.whose.place(), &args.key, value)
    })
    .await
}

async fn unset(context: &Context, args: Unset) -> Result<Exit, LabError> {
    edit(context, args.reason, |document| {
        config_edit::unset(document, args.whose.place(), &args.key)
    })
    .await
}

/// Changes the document in force, unless somebody else changes it at the same time.
async fn edit(
    context: &Context,
    reason: String,
    change: impl FnOnce(&mut Value) -> Result<(), LabError>,
) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let (revision, before) = document_in_force(&mut client).await?;
    let mut after = before.clone();
    change(&mut after)?;
    let request = SetConfigRequest {
        document: after.to_string(),
        if_revision: revision,
        reason,
    };
    let reply = ask(client.set_config(request)).await?;
    written(context, &reply, &config_edit::changes(&before, &after))
}

async fn import(context: &Context, args: Import) -> Result<Exit, LabError> {
    let after = read(&args.file).await?;
    let mut client = context.open().await?;
    let (revision, before) = document_in_force(&mut client).await?;
    let changes = config_edit::changes(&before, &after);
    let request = SetConfigRequest {
        document: after.to_string(),
        if_revision: args.if_revision.unwrap_or(revision),
        reason: args.reason,
    };
    let checked = ask(client.check_config(request.clone())).await?;
    if !checked.faults.is_empty() {
        return refused(context, &checked, Some(&args.file));
    }
    if changes.is_empty() && revision > 0 {
        return written(context, &checked, &changes);
    }
    let as_before = checked.as_before.iter();
    let as_before = as_before.map(|one| view::config::as_before(one, "would go"));
    let changed = view::config::changes(&changes);
    let foretold = as_before.fold(changed, |text, line| text + &line);
    let warnings = view::config::warnings(&checked.warnings);
    context.output.note(&(foretold + &warnings));
    context.output.confirm("Put this configuration in force?")?;
    let reply = ask(client.set_config(request)).await?;
    written(context, &reply, &changes)
}

async fn check(context: &Context, args: &File) -> Result<Exit, LabError> {
    let document = read(&args.file).await?;
    let mut client = context.open().await?;
    let request = SetConfigRequest {
        document: document.to_string(),
        ..SetConfigRequest::default()
    };
    let reply = ask(client.check_config(request)).await?;
    // Nothing is put in force here, so that the document is the same with faults and without.
    context
        .output
        .result(&reply, |_| match reply.faults.as_slice() {
            [] => view::config::checked(&reply),
            _ => String::new(),
        })?;
    Ok(match reply.faults.as_slice() {
        [] => Exit::Yes,
        faults => complained(context, faults, Some(&args.file)),
    })
}

async fn diff(context: &Context, args: &File) -> Result<Exit, LabError> {
    let after = read(&args.file).await?;
    let mut client = context.open().await?;
    let (_, before) = document_in_force(&mut client).await?;
    let changes = config_edit::changes(&before, &after);
    context
        .output
        .result(&changes, |_| view::config::changes(&changes))?;
    Ok(Exit::Yes)
}

async fn log(context: &Context, args: &Log) -> Result<Exit, LabError> {
    let mut client = context.open().await?;
    let log = ask(client.get_config_log(ConfigLogRequest { limit: args.limit })).await?;
    let revisions = log
        .revisions
        .iter()
        .map(|reply| Ok(told(reply, &parsed(&reply.document)?)))
        .collect::<Result<Vec<_>, LabError>>()?;
    let whole = json!({ "revisions": revisions });
    context
        .output
        .result(&whole, |look| view::config::log(&log, look))?;
    Ok(Exit::Yes)
}

fn written(
    context: &Context,
    reply: &CheckConfigReply,
    changes: &[Change],
) -> Result<Exit, LabError> {
    if !reply.faults.is_empty() {
        return refused(context, reply, None);
    }
    let written = Written {
        revision: reply.revision,
        changes,
        faults: &[],
        as_before: &reply.as_before,
        warnings: &reply.warnings,
    };
    context
        .output
        .result(&written, |_| view::config::written(changes, reply))?;
    Ok(Exit::Yes)
}

/// What came of a change that has faults: nothing was changed.
fn refused(
    context: &Context,
    reply: &CheckConfigReply,
    file: Option<&Path>,
) -> Result<Exit, LabError> {
    let written = Written {
        revision: reply.revision,
        changes: &[],
        faults: &reply.faults,
        as_before: &[],
        warnings: &[],
    };
    context.output.result(&written, |_| String::new())?;
    Ok(complained(context, &reply.faults, file))
}

/// Tells all faults at once.
fn complained(context: &Context, faults: &[ConfigFault], file: Option<&Path>) -> Exit {
    let count = counted(faults.len(), "fault");
    let error = LabError::usage(format!(
        "the configuration has {count}; nothing was changed"
    ));
    let error = match file {
        Some(file) => error.at(file.display()),
        None => error,
    };
    context.output.error(&error);
    context.output.note(&view::config::faults(faults));
    Exit::Usage
}

/// Reads a configuration file, with the files that it names.
async fn read(file: &Path) -> Result<Value, LabError> {
    let mut document = read_alone(file).await?;
    calendar_files::put_in(&mut document, file)?;
    Ok(document)
}

/// Reads a configuration file: Nix by its ending, JSON otherwise.
async fn read_alone(file: &Path) -> Result<Value, LabError> {
    if file.extension() == Some(OsStr::new("nix")) {
        return Ok(nix::evaluate_file(file).await?);
    }
    let fault = |what: String| LabError::usage(what).at(file.display());
    let text =
        fs::read_to_string(file).map_err(|error| fault(format!("failed to read: {error}")))?;
    platform::json::document(&text).map_err(|error| {
        fault(format!("it is not JSON: {error}")).hint("a Nix file's name ends in .nix")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_cannot_be_read_says_where_and_why() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("update-config.json");
        fs::write(&file, "{\"updateGroups\": {}}").expect("written");
        assert_eq!(read(&file).await, Ok(json!({ "updateGroups": {} })));
        for content in ["", "{ updateGroups = { }; }", "{\"a\": \u{0}}"] {
            fs::write(&file, content).expect("written");
            let error = read(&file).await.expect_err("not JSON");
            assert!(
                error.exit == Exit::Usage && error.what.contains("line 1"),
                "{error}"
            );
        }
        assert!(read(directory.path()).await.is_err(), "a directory");
        assert!(read(Path::new("/none.json")).await.is_err());
    }
}
