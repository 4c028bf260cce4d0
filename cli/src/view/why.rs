//! `lab why`: the reason, who holds it, the next instant, and the command that would change it.

use lab_proto::operator::WhyReply;

use super::{Look, span};

/// The answer as a sentence and the lines that belong to it.
pub fn why(why: &WhyReply, look: &Look) -> String {
    let Some(reason) = &why.wait_reason else {
        return if why.may_go {
            format!("{} may go now\n", why.machine)
        } else {
            format!("{} is {}\n", why.machine, why.state)
        };
    };
    let inside = match why.rollout.as_str() {
        "" => String::new(),
        rollout => format!(" (rollout {rollout})"),
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
        because => format!("{}: {because}", reason.by),
    };
    line("by", said_by);
    line("held by", reason.machines.join(", "));
    if reason.allowed > 0 {
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
    if next.is_empty() {
        line(
            "next",
            "when somebody acts; time alone changes nothing".to_owned(),
        );
    } else {
        line("next", look.when(next));
    }
    line("try", reason.hint.clone());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::look;
    use lab_proto::operator::WaitReason;

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
                hint: "lab why web-01".into(),
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
                ..WaitReason::default()
            }),
            ..WhyReply::default()
        };
        let free = WhyReply {
            machine: "dev-02".into(),
            may_go: true,
            ..WhyReply::default()
        };
        let whole = [limit, window, stopped, free].map(|reply| why(&reply, &look()));
        insta::assert_snapshot!("why", whole.join("\n"));
    }
}
