//! What a seed's groups say of their waves, and who is asked between them.

use serde_json::{Map, Value, json};

/// Adds it, by what was drawn before, so that this moves no other draw.
pub(crate) fn of_group(
    index: usize,
    members: &[&String],
    coordinators: &[String],
    group: &mut Map<String, Value>,
) {
    if members.len() <= 3 {
        return;
    }
    let asks = group
        .get("updatePolicy")
        .is_some_and(|preset| preset == "manual-approval");
    let waves = [
        json!(["25%", "50%"]),
        json!([2, 3]),
        json!([1, "60%", "80%"]),
    ];
    let odd = members.len() + index;
    let mut pause = if odd.is_multiple_of(3) {
        "each-wave"
    } else {
        "never"
    };
    if odd.is_multiple_of(5) {
        // Whoever runs a coordinator goes last.
        let goes_last = |machine: &&&String| coordinators.contains(machine);
        let first = members[1..].iter().find(|machine| !goes_last(machine));
        group.insert("canary".to_owned(), json!([first.unwrap_or(&members[0])]));
        pause = "canary";
    }
    if let Some(waves) = waves.get(odd % 4) {
        let canary = group.get("canary").and_then(Value::as_u64).unwrap_or(1);
        let waves = not_below(canary, waves, members.len());
        group.insert("waves".to_owned(), waves);
    }
    group.insert("pauseAfter".to_owned(), json!(pause));
    if asks && odd.is_multiple_of(2) {
        group.insert("autoApproveAfter".to_owned(), json!("4h"));
    }
    if asks && !odd.is_multiple_of(3) {
        let of = if odd % 3 == 1 { "wave" } else { "rollout" };
        group.insert("requireApproval".to_owned(), json!(of));
    }
    if odd.is_multiple_of(2) {
        group.insert("order".to_owned(), json!(["failed-last", "longest-first"]));
    }
}

/// The ends of waves that are not below the canary, in a group of so many.
fn not_below(canary: u64, waves: &Value, size: usize) -> Value {
    let ends = waves.as_array().into_iter().flatten().filter(|end| {
        let percent = end
            .as_str()
            .and_then(|end| end.trim_end_matches('%').parse().ok());
        let percent = percent.map(|percent: u64| (size as u64 * percent).div_ceil(100));
        percent.or(end.as_u64()).is_some_and(|end| canary <= end)
    });
    ends.cloned().collect()
}

#[cfg(test)]
mod tests {
    use coordinator_core::FleetConfig;

    use crate::sim::{rng::Rng, setup::Setup};

    #[test]
    fn what_a_seed_draws_is_a_valid_configuration() {
        for seed in 0..300 {
            let setup = Setup::draw(seed, &mut Rng::new(seed));
            let read = FleetConfig::parse(&setup.document);
            assert!(read.is_ok(), "{seed}: {:?}", read.err());
        }
    }
}
