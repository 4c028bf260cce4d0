//! Somebody else switches the machine in the middle of an attempt: what they brought stays.

use agent_core::{Hook, HookEnd, Work};
use common::OutcomeKind;

use crate::{
    attempt::{run, said_no},
    world::{Script, path, proceed},
};

fn hook(work: &Work, which: Hook) -> bool {
    matches!(work, Work::RunHook { hook, .. } if *hook == which)
}

#[test]
fn what_somebody_else_brought_is_never_overwritten() {
    let at_pre: fn(&Work) -> bool = |work| hook(work, Hook::Pre);
    let at_post: fn(&Work) -> bool = |work| hook(work, Hook::Post);
    let at_judging: fn(&Work) -> bool = |work| matches!(work, Work::Judge { .. });
    let at_rolling_back: fn(&Work) -> bool = |work| matches!(work, Work::Restore { .. });
    let ok = || Ok(HookEnd::Succeeded);
    let (pre, post, rollback) = (Hook::Pre, Hook::Post, Hook::Rollback);
    for (case, others, post_says, healthy, kind, hooks) in [
        // Nothing of the target's has been done: the machine asks for another turn, from there.
        (
            "before the switch",
            at_pre,
            ok(),
            true,
            OutcomeKind::Abandoned,
            vec![pre, rollback],
        ),
        (
            "after it",
            at_post,
            ok(),
            true,
            OutcomeKind::Stuck,
            vec![pre, post, rollback],
        ),
        (
            "after it, and the hook says no",
            at_post,
            Ok(said_no()),
            true,
            OutcomeKind::Stuck,
            vec![pre, post, rollback],
        ),
        (
            "while it is judged",
            at_judging,
            ok(),
            false,
            OutcomeKind::Stuck,
            vec![pre, post, rollback],
        ),
        (
            "while it goes back",
            at_rolling_back,
            ok(),
            false,
            OutcomeKind::Stuck,
            vec![pre, post, rollback],
        ),
    ] {
        let script = Script {
            others: Some(others),
            post: post_says,
            healthy: vec![healthy],
            ..Script::default()
        };
        let (world, ended, reason) = run(script, proceed(7));
        assert_eq!(ended, kind, "{case}: {reason}");
        assert!(reason.contains("-theirs"), "{case}: {reason}");
        let begun: Vec<Hook> = world.hooks.iter().map(|(_, hook)| *hook).collect();
        assert_eq!(begun, hooks, "{case}");
        assert_eq!(world.running, path("theirs"), "{case}");
        assert_eq!(world.profile, path("theirs"), "{case}");
        assert_eq!(world.disk.bad_targets, [], "{case}: it is not at fault");
        if kind == OutcomeKind::Abandoned {
            assert_eq!(world.disk.staged, None, "staged anew for what runs now");
        }
    }
}

#[test]
fn what_a_boot_brings_up_is_nobodys_wish() {
    let script = Script {
        needs_reboot: true,
        boots: vec!["other"],
        ..Script::default()
    };
    let (world, kind, reason) = run(script, proceed(7));
    assert_eq!(kind, OutcomeKind::RolledBack, "{reason}");
    assert_eq!(world.running, path("old"));
}
