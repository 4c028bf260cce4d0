//! `lab why`: the reason, who holds it, the next instant, and the command that would change it.

use lab_proto::operator::{WaitReason, WhyReply};

use super::{Look, span};

/// The answer as a sentence and the lines that belong to it.
pub fn why(why: &WhyReply, look: &Look) -> String {
    let inside = match why.rollout.as_str() {
        "" => String::new(),
        rollout => format!(" (rollout {rollout})"),
    };
    let Some(reason) = &why.wait_reason else {
        return without_reason(why, &inside, look);
    };
    let verb = match reason.kind.as_str() {
        "up-to-date" | "final" => "stays",
        _ => "waits",
    };
    let sentence = format!("{} {verb}: {}{inside}", why.machine, reason.text);
    let mut text = look.columns(0, [vec![sentence]]);
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&look.columns(2, [vec![format!("{name}: {value}")]]));
        }
    };
    let said_by = match reason.reason.as_str() {
        "" => reason.by.clone(),
        // The sentence has said it.
        _ if reason.by.is_empty() => String::new(),
        because if reason.text.contains(because) => String::new(),
        because => format!("{}: {because}", reason.by),
    };
    line("by", said_by);
    line("held by", held_by(reason));
    // Of other kinds the numbers are no limit: of waves, for one, and the sentence has them.
    if matches!(reason.kind.as_str(), "group-limit" | "fleet-limit") {
        line("limit", format!("{} of {}", reason.count, reason.allowed));
    }
    if reason.needs_s > 0 {
        let (needs, left) = (span(reason.needs_s), span(reason.left_s));
        line("needs", format!("{needs}, and {left} are left"));
    }
    let next = if why.next.is_empty() {
        &reason.until
    } else {
        &why.next
    };
    let next = match next.as_str() {
        "" => match reason.by_itself {
            Some(true) => "when machines report; no time is set".to_owned(),
            Some(false) => "when somebody acts; time alone changes nothing".to_owned(),
            // An older coordinator does not say.
            None => String::new(),
        },
        next => {
            let then = match why.then.as_str() {
                "" => String::new(),
                then => format!(": {then}"),
            };
            format!("{}{then}", look.when_there(next, &reason.timezone))
        }
    };
    line("next", next);
    line("try", reason.hint.clone());
    text
}

/// Those who are waited for, and how many more than are named.
fn held_by(reason: &WaitReason) -> String {
    let named = reason.machines.join(", ");
    match reason.more {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// A machine that nothing holds back: it may go, or has its turn.
fn without_reason(why: &WhyReply, inside: &str, look: &Look) -> String {
    let (machine, step) = (&why.machine, why.step.as_str());
    let sentence = match (why.state.as_str(), step) {
        ("leased", "") => format!("{machine} has its turn, and has not begun yet{inside}"),
        ("leased", step) => format!("{machine} has its turn and is at it: {step}{inside}"),
        ("overdue", step) => {
            let step = match step {
                "" => String::new(),
                step => format!(" in the step {step}"),
            };
            format!("{machine} had its turn and has fallen silent{step}: it is overdue{inside}")
        }
        _ if why.may_go => format!("{machine} may go now"),
        (state, _) => format!("{machine} is {state}{inside}"),
    };
    look.columns(0, [vec![sentence]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::look;

    #[test]
    fn one_answer_of_each_shape() {
        let limit = WhyReply {
            machine: "web-02".into(),
            rollout: "r-0012".into(),
            state: "ready".into(),
            wait_reason: Some(WaitReason {
                kind: "group-limit".into(),
                text: "1 of 1 machines of critical are away".into(),
                group: "critical".into(),
                machines: vec!["web-01".into()],
                count: 1,
                allowed: 1,
                hint: "lab machines show web-01".into(),
                by_itself: Some(true),
                ..WaitReason::default()
            }),
            ..WhyReply::default()
        };
        let window = WhyReply {
            machine: "db-primary".into(),
            next: "2026-11-23T03:00:00Z".into(),
            wait_reason: Some(WaitReason {
                kind: "window-too-short".into(),
                text: "the maintenance window of critical closes before the update can end".into(),
                needs_s: 1500,
                left_s: 600,
                ..WaitReason::default()
            }),
            ..WhyReply::default()
        };
        let stopped = WhyReply {
            machine: "dev-01".into(),
            wait_reason: Some(WaitReason {
                kind: "stopped".into(),
                text: "the fleet is stopped".into(),
                by: "geir".into(),
                reason: "bad release".into(),
                hint: "lab resume --reason=…".into(),
                by_itself: Some(false),
                ..WaitReason::default()
            }),
            ..WhyReply::default()
        };
        let free = WhyReply {
            machine: "dev-02".into(),
            may_go: true,
            ..WhyReply::default()
        };
        let wave = WhyReply {
            machine: "web-03".into(),
            rollout: "r-0012".into(),
            state: "pending".into(),
            wait_reason: Some(WaitReason {
                kind: "wave-not-open".into(),
                text: "in wave 2; wave 1 has not closed yet".into(),
                count: 2,
                allowed: 1,
                machines: vec!["web-01".into(), "web-02".into()],
                more: 3,
                hint: "lab why web-01".into(),
                by_itself: Some(true),
                ..WaitReason::default()
            }),
            ..WhyReply::default()
        };
        let whole = [limit, window, stopped, free, wave].map(|reply| why(&reply, &look()));
        insta::assert_snapshot!("why", whole.join("\n"));
    }

    #[test]
    fn a_machine_that_has_its_turn_is_told_so_and_not_that_it_may_go() {
        let said = |state: &str, step: &str, may_go| {
            let reply = WhyReply {
                machine: "web-01".into(),
                rollout: "r-7".into(),
                state: state.into(),
                step: step.into(),
                may_go,
                ..WhyReply::default()
            };
            why(&reply, &look())
        };
        // An older coordinator says of those as well that they may go.
        for may_go in [false, true] {
            assert_eq!(
                said("leased", "activating", may_go),
                "web-01 has its turn and is at it: activating (rollout r-7)\n"
            );
            assert_eq!(
                said("leased", "", may_go),
                "web-01 has its turn, and has not begun yet (rollout r-7)\n"
            );
            assert_eq!(
                said("overdue", "rebooting", may_go),
                "web-01 had its turn and has fallen silent in the step rebooting: it is overdue\n\
                 (rollout r-7)\n"
            );
        }
        assert_eq!(said("pending", "", true), "web-01 may go now\n");
    }
}
