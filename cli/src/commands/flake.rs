//! Targets out of a flake: locked once, evaluated or built for every machine, signed, copied.

use common::MachineName;
use lab_proto::operator::{PinnedFlake, pinned_target::Kind};

use super::{Context, prepare::Pins};
use crate::{error::LabError, nix::Nix, targets::Flake};

/// Locks the flake, checks that it has every machine, and builds (or only evaluates) them all.
pub(super) async fn build(
    context: &Context,
    flake: &Flake,
    selected: &[MachineName],
) -> Result<Pins, LabError> {
    let progress = context.output.progress();
    let nix = Nix::new()?;
    let locked = nix.lock(&flake.reference).await?;
    progress.say(&format!("locked {locked}"));
    let known = nix.machines(&locked).await?;
    let missing: Vec<&str> = selected
        .iter()
        .map(MachineName::as_str)
        .filter(|name| !known.iter().any(|known| known == name))
        .collect();
    if !missing.is_empty() {
        return Err(
            LabError::usage("the flake does not configure every selected machine")
                .at(format!("nixosConfigurations of {locked}"))
                .at(missing.join(", "))
                .hint("select fewer: --group=G, --machine=a,b"),
        );
    }
    let mut pins = Pins::new();
    let mut built = Vec::new();
    for (done, name) in selected.iter().enumerate() {
        let step = if flake.build_on_machine {
            "evaluating"
        } else {
            "building"
        };
        let line = format!("{name}  ▶ {step} ({} of {})", done + 1, selected.len());
        if progress.is_drawn() {
            progress.draw(&line);
        } else {
            progress.say(&line);
        }
        if flake.build_on_machine {
            nix.evaluate(&locked, name).await?;
            let pin = PinnedFlake {
                reference: locked.clone(),
                attribute: name.to_string(),
            };
            pins.insert(name.clone(), Kind::Flake(pin));
        } else {
            let path = nix.build(&locked, name).await?;
            progress.say(&format!("{name}  ✔ built {path}"));
            built.push(path.clone());
            pins.insert(name.clone(), Kind::Closure(path.into()));
        }
    }
    if let (Some(key), false) = (&flake.sign_key, built.is_empty()) {
        progress.say("signing");
        nix.sign(key, &built).await?;
    }
    if let (Some(cache), false) = (&flake.push_to, built.is_empty()) {
        progress.say(&format!("copying to {cache}"));
        nix.copy(cache, &built).await?;
    }
    Ok(pins)
}
