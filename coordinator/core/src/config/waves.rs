//! How a group is cut into waves: its canary, the waves after it, and where it waits for a person.

use common::MachineName;
use serde_json::Value;

use super::section::{Faults, Section, Share as Rounded, fault, share};
use crate::policy::{Order, PauseAfter, Share};

/// The size of the canary, the percentage as which it is written, or its machines by name.
pub(super) fn canary(
    s: &mut Section<'_>,
    size: usize,
    faults: &mut Faults,
) -> (Option<u32>, Option<u32>, Vec<MachineName>) {
    if s.peek("canary").is_some_and(Value::is_array) {
        let names: Vec<MachineName> = s.names("canary", faults).unwrap_or_default();
        return (u32::try_from(names.len()).ok(), None, names);
    }
    let count = s.machines("canary", 0, Rounded::AtLeast(size), faults);
    let percent = match s.peek("canary").map(share) {
        Some(Ok(Share::Percent(percent))) => Some(percent),
        Some(Ok(Share::Machines(_)) | Err(_)) | None => None,
    };
    (count, percent, Vec::new())
}

/// `waves = [ 1 "10%" "50%" ]`: how much of the group is done when each wave closes.
pub(super) fn waves(s: &mut Section<'_>, faults: &mut Faults) -> Vec<Share> {
    let Some(value) = s.get("waves") else {
        return Vec::new();
    };
    let path = s.path_of("waves");
    let hint =
        "write how much of the group is done when each wave ends, such as [ 1 \"10%\" \"50%\" ]";
    let Some(items) = value.as_array() else {
        fault(faults, &path, "a list is expected here", hint);
        return Vec::new();
    };
    let mut waves: Vec<Share> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        match end(item) {
            Ok(share) => {
                if waves.last().is_some_and(|before| !grows(*before, share)) {
                    let message = format!("{share} is no more than the wave before");
                    fault(faults, &path, message, "let each wave end further on");
                }
                waves.push(share);
            }
            Err(message) => fault(faults, &path, message, hint),
        }
    }
    waves
}

/// The end of a wave.
fn end(value: &Value) -> Result<Share, String> {
    match share(value)? {
        Share::Machines(0) | Share::Percent(0) => Err("a wave has a machine at least".to_owned()),
        end @ (Share::Machines(_) | Share::Percent(_)) => Ok(end),
    }
}

/// Whether the second is more, as far as that can be told without knowing of how many.
fn grows(before: Share, after: Share) -> bool {
    match (before, after) {
        (Share::Machines(before), Share::Machines(after))
        | (Share::Percent(before), Share::Percent(after)) => before < after,
        (Share::Machines(_), Share::Percent(_)) | (Share::Percent(_), Share::Machines(_)) => true,
    }
}

/// After which waves somebody must let the group go on.
pub(super) fn pause_after(s: &mut Section<'_>, faults: &mut Faults) -> Option<PauseAfter> {
    let words = PauseAfter::ALL.map(PauseAfter::word);
    let hint = format!("write one of: {}", words.join(", "));
    s.parsed("pauseAfter", &hint, faults, |value| {
        let found = PauseAfter::ALL
            .into_iter()
            .find(|choice| value.as_str() == Some(choice.word()));
        found.ok_or_else(|| format!("{value} is not a choice"))
    })
}

/// `order = [ "failed-last" "longest-first" ]`: what counts before the order of the document; the first
/// counts most.
pub(super) fn order(s: &mut Section<'_>, faults: &mut Faults) -> Vec<Order> {
    if s.peek("order").is_some_and(|value| value == "given") {
        s.get("order");
        return Vec::new();
    }
    let words = Order::ALL.map(Order::word);
    let hint = format!("write \"given\", or one or more of: {}", words.join(", "));
    let mut order = Vec::new();
    for (path, item) in s.one_or_more("order") {
        let known = Order::ALL
            .into_iter()
            .find(|known| item.as_str() == Some(known.word()));
        match known {
            Some(known) if order.contains(&known) => {
                fault(
                    faults,
                    &path,
                    format!("{item} is there already"),
                    "remove it",
                );
            }
            Some(known) => order.push(known),
            None => fault(faults, &path, format!("{item} is no order"), &hint),
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{config::FleetConfig, policy::Share};

    fn read(group: serde_json::Value) -> Result<FleetConfig, Vec<String>> {
        let mut group = group;
        group["machines"] = json!(["m1", "m2", "m3", "m4"]);
        let read = FleetConfig::parse(&json!({ "updateGroups": { "web": group } }));
        read.map_err(|faults| faults.0.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn waves_and_a_named_canary_are_read() {
        let group = json!({
            "canary": ["m3"], "waves": [2, "75%"], "pauseAfter": "each-wave"
        });
        let config = read(group).expect("valid");
        let policy = &config.groups.values().next().expect("one").policy;
        assert_eq!(policy.canary, 1);
        assert_eq!(policy.canary_machines[0].as_str(), "m3");
        assert_eq!(policy.waves, [Share::Machines(2), Share::Percent(75)]);
        assert_eq!(policy.pause_after.word(), "each-wave");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (group, place, says) in [
            (json!({ "canary": ["m9"] }), "web.canary", "m9"),
            (json!({ "canary": ["m1", "m1"] }), "web.canary", "twice"),
            (
                json!({ "canary": ["m1", "m2", "m3", "m4"] }),
                "web.canary",
                "whole group",
            ),
            (
                json!({ "canary": 5 }),
                "web.canary",
                "bigger than its group of 4",
            ),
            (json!({ "canary": 4 }), "web.canary", "4 is the whole group"),
            (
                json!({ "canary": "76%" }),
                "web.canary",
                "76% is the whole group",
            ),
            (
                json!({ "canary": 3, "waves": [1, 2, "75%"] }),
                "web.waves[0]",
                "1 is less than the canary of 3",
            ),
            (
                json!({ "canary": 3, "waves": [1, "50%", "75%"] }),
                "web.waves[1]",
                "50% is less than the canary of 3",
            ),
            (
                json!({ "canary": ["m1", "m2"], "waves": [1, 3] }),
                "web.waves[0]",
                "canary of 2",
            ),
            (json!({ "waves": "10%" }), "web.waves", "a list"),
            (json!({ "waves": [0] }), "web.waves[0]", "at least"),
            (json!({ "waves": ["0%"] }), "web.waves[0]", "at least"),
            (json!({ "waves": [2, 2] }), "web.waves[1]", "no more"),
            (
                json!({ "waves": ["50%", "20%"] }),
                "web.waves[1]",
                "no more",
            ),
            (json!({ "waves": ["101%"] }), "web.waves[0]", "percentage"),
            (json!({ "waves": [5] }), "web.waves", "bigger"),
            (json!({ "waves": ["75%", 2] }), "web.waves", "2"),
            (json!({ "order": "random" }), "web.order", "failed-last"),
            (json!({ "order": ["given"] }), "web.order[0]", "no order"),
            (
                json!({ "order": ["failed-last", "failed-last"] }),
                "web.order[1]",
                "already",
            ),
            (json!({ "pauseAfter": true }), "web.pauseAfter", "each-wave"),
            (
                json!({ "pauseAfter": "canary", "canary": 0 }),
                "web.pauseAfter",
                "no canary",
            ),
        ] {
            let found = read(group.clone()).expect_err(place);
            let fits = |fault: &String| {
                let place = format!("updateGroups.{place}: ");
                fault.starts_with(&place) && fault.contains(says)
            };
            assert!(found.iter().any(fits), "{group}: {found:?}");
        }
    }

    #[test]
    fn a_percentage_is_kept_beside_what_it_is_of_the_group() {
        let config = read(json!({ "canary": "30%" })).expect("valid");
        let policy = &config.groups.values().next().expect("one").policy;
        assert_eq!((policy.canary, policy.canary_percent), (2, Some(30)));
        let config = read(json!({ "canary": 2, "waves": [2, "75%"] })).expect("valid");
        let policy = &config.groups.values().next().expect("one").policy;
        assert_eq!((policy.canary, policy.canary_percent), (2, None));
    }

    /// Of a group with these machines and keys, some of them from a policy, of a fleet with coordinators.
    fn faults(group: &serde_json::Value, policy: &serde_json::Value) -> Vec<String> {
        let read = FleetConfig::parse(&json!({
            "updateGroups": { "web": group, "ctrl": { "machines": ["c1", "c2"] } },
            "updatePolicies": { "shared": policy },
            "updateSettings": { "coordinators": ["c1", "c2", "m2"] },
        }));
        let faults = read.err().map(|faults| faults.0).unwrap_or_default();
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_machine_that_goes_last_is_no_canary_beside_others() {
        let group = json!({ "machines": ["m1", "m2", "m3"], "canary": ["m2"] });
        let found = faults(&group, &json!({}));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("updateGroups.web.canary: m2 runs a coordinator"));
        let group = json!({ "machines": ["m1", "m2", "m3"], "canary": ["m3"] });
        assert_eq!(faults(&group, &json!({})), Vec::<String>::new());
        // Of a group of nothing but coordinators, one of them must go first.
        let ctrl = json!({
            "updateGroups": { "ctrl": { "machines": ["c1", "c2"], "canary": ["c1"] } },
            "updateSettings": { "coordinators": ["c1", "c2"] },
        });
        assert!(FleetConfig::parse(&ctrl).is_ok());
    }

    #[test]
    fn who_is_alone_has_no_canary_and_only_the_group_itself_may_not_ask_for_one() {
        let one = |keys: serde_json::Value| {
            let mut group = json!({ "machines": ["m2"] });
            let keys = keys.as_object().expect("keys").clone();
            group.as_object_mut().expect("an object").extend(keys);
            group
        };
        for good in [
            json!({}),
            json!({ "canary": 1 }),
            json!({ "canary": "100%" }),
        ] {
            assert_eq!(faults(&one(good), &json!({})), Vec::<String>::new());
        }
        let found = faults(&one(json!({ "pauseAfter": "canary" })), &json!({}));
        assert!(
            found[0].contains("web.pauseAfter: a group of one"),
            "{found:?}"
        );
        // A policy is of groups of all sizes.
        let shared = json!({ "updatePolicy": "shared" });
        let policy = json!({ "canary": 1, "pauseAfter": "canary" });
        assert_eq!(faults(&one(shared.clone()), &policy), Vec::<String>::new());
        let mut two = one(shared);
        two["machines"] = json!(["m2", "m3"]);
        let policy = json!({ "canary": "100%" });
        assert_eq!(faults(&two, &policy), Vec::<String>::new());
    }
}
