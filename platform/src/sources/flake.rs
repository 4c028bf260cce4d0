//! Targets out of a flake: locked once, evaluated or built for every machine, signed, copied.

use common::{MachineName, Target};

use super::{Flake, SourceError, Targets, nix::Nix};

/// What is being done, for whoever looks on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something is done, or begins.
    Told(String),
    /// One of many alike begins; the next takes its place.
    Passing(String),
}

/// Locks the flake, checks that it has every machine, and builds (or only evaluates) them all.
pub(super) async fn build(
    flake: &Flake,
    selected: &[MachineName],
    say: &mut (impl FnMut(Step) + Send),
) -> Result<Targets, SourceError> {
    let nix = Nix::new()?;
    let locked = nix.lock(&flake.reference).await?;
    say(Step::Told(format!("locked {locked}")));
    let known = nix.machines(&locked).await?;
    let missing: Vec<&str> = selected
        .iter()
        .map(MachineName::as_str)
        .filter(|name| !known.iter().any(|known| known == name))
        .collect();
    if !missing.is_empty() {
        return Err(
            SourceError::new("the flake does not configure every selected machine")
                .at(format!("nixosConfigurations of {locked}"))
                .at(missing.join(", "))
                .hint("select fewer: --group=G, --machine=a,b"),
        );
    }
    let mut targets = Targets::new();
    let mut built = Vec::new();
    for (done, name) in selected.iter().enumerate() {
        let step = if flake.build_on_machine {
            "evaluating"
        } else {
            "building"
        };
        let of = selected.len();
        say(Step::Passing(format!(
            "{name}  ▶ {step} ({} of {of})",
            done + 1
        )));
        if flake.build_on_machine {
            nix.evaluate(&locked, name).await?;
            let target = Target::Flake {
                reference: locked.clone(),
                attribute: name.to_string(),
            };
            targets.insert(name.clone(), target);
        } else {
            let path = nix.build(&locked, name).await?;
            say(Step::Told(format!("{name}  ✔ built {path}")));
            built.push(path.clone());
            targets.insert(name.clone(), Target::Closure(path));
        }
    }
    if let (Some(key), false) = (&flake.sign_key, built.is_empty()) {
        say(Step::Told("signing".to_owned()));
        nix.sign(key, &built).await?;
    }
    if let (Some(cache), false) = (&flake.push_to, built.is_empty()) {
        say(Step::Told(format!("copying to {cache}")));
        nix.copy(cache, &built).await?;
    }
    Ok(targets)
}
