//! Where targets come from: the command line, a file, or the fleet configuration's
//! `updateSettings.source`.

use platform::sources::{self, Closures, Flake, Source};
use serde_json::Value;

use crate::{
    args::{parse::MachineClosure, update},
    error::LabError,
};

/// What the command line names, if it names anything.
pub fn named(source: &update::Source) -> Result<Option<Source>, LabError> {
    let named = if let Some(file) = &source.targets {
        Source::Closures(sources::read_file(file)?)
    } else if let Some(reference) = &source.flake {
        Source::Flake(Flake {
            reference: reference.clone(),
            sign_key: source.sign_key.clone(),
            push_to: source.push_to.clone(),
            build_on_machine: source.build_on_machine,
        })
    } else if let Some(url) = &source.channel {
        Source::Channel(url.clone())
    } else if source.closure.is_empty() {
        return Ok(None);
    } else {
        Source::Closures(listed(&source.closure)?)
    };
    Ok(Some(named))
}

/// What the fleet configuration names.
pub fn configured(document: &Value) -> Result<Source, LabError> {
    let Some(source) = document.pointer("/updateSettings/source") else {
        return Err(LabError::usage("nothing says what the machines are to run").hint(
            "name a source: --flake=REF, --targets=FILE, --closure=MACHINE=PATH or --channel=URL; \
             or set one for all: lab update-config set --key=source --value='{\"flake\": \"REF\"}'",
        ));
    };
    let found = sources::written(source);
    found.map_err(|error| LabError::from(error.at("updateSettings.source")))
}

fn listed(closures: &[MachineClosure]) -> Result<Closures, LabError> {
    let mut listed = Closures::new();
    for MachineClosure { machine, closure } in closures {
        let before = listed.insert(machine.clone(), closure.clone());
        if before.is_some_and(|before| before != *closure) {
            return Err(LabError::usage(format!("two closures for {machine}")).at("--closure"));
        }
    }
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::error::Exit;

    #[test]
    fn what_is_wrong_with_the_configuration_names_its_place() {
        let odd = json!({ "updateSettings": { "source": { "targets": "/none.json" } } });
        let error = configured(&odd).expect_err("no such file");
        assert_eq!(error.exit, Exit::Usage);
        assert_eq!(error.places, ["/none.json", "updateSettings.source"]);
        let none = configured(&json!({})).expect_err("no source");
        assert!(none.exit == Exit::Usage && none.hint.is_some());
    }
}
